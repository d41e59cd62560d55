"""What went wrong, as a user is told of it: a sentence and an exit code. A bug keeps its traceback, which says more.

error -> code_of -> 2 a mistake of the user, 1 a failure of the world, None a bug
Failures         -> many things, each by itself: a line for each that failed, the worst exit code at the end
"""

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MISTAKE, WORLD, INTERRUPTED = 2, 1, 130


def code_of(error: BaseException) -> int | None:
    """The exit code for an error; None where its text was not written for the user."""
    if isinstance(error, OSError):
        return WORLD
    if isinstance(error, ValueError | RuntimeError) and _is_ours(error):
        return MISTAKE if isinstance(error, ValueError) else WORLD
    return None


class Failures:
    """Of what a command does with many runs. `code` is the exit code so far."""

    def __init__(self, command: str) -> None:
        self.code = 0
        self._command = command

    @contextmanager
    def told(self) -> Iterator[None]:
        """Within, what goes wrong is told in a line, and stops nothing that comes after."""
        try:
            yield
        except (ValueError, RuntimeError, OSError) as error:
            code = code_of(error)
            if code is None:
                raise
            print(f"reid {self._command}: {error}", file=sys.stderr)
            self.note(code)

    def note(self, code: int) -> None:
        """Something that was told already means this exit code, or a worse one."""
        self.code = max(self.code, code)


def _is_ours(error: BaseException) -> bool:
    """Whether this package raised `error` itself, and so meant its text for the user."""
    *_, (innermost, _) = traceback.walk_tb(error.__traceback__)
    return Path(innermost.f_code.co_filename).is_relative_to(Path(__file__).parents[1])
