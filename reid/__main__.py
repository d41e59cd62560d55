"""`python -m reid` is the program `reid`."""

import sys

from reid.cli import main

if __name__ == "__main__":
    sys.exit(main())
