"""`reid COMMAND [options]`: finds the command, and tells the user of a mistake in one message.

A command is a module of reid/commands, imported when it runs; so help is there at once.

Exit codes: 0 done; 1 the world failed, or a signal ended the run; 2 a mistake of the user, told in one message; 130 an
interrupt by hand.
"""

import logging
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module

from reid import terminal
from reid.commands.failures import INTERRUPTED, MISTAKE, code_of
from reid.types import ToldElsewhereError

COMMANDS = {
    "train": "train a network, alone or under `accelerate launch`",
    "evaluate": "score a checkpoint in both directions",
    "ablate": "train the rows of Table 1, several seeds each, and write the table",
    "sweep": "train the points of Fig. 8, several seeds each, and draw the curves",
    "runs": "list, show, compare, gather, send and close runs",
    "report": "pictures, tables and a page of one run, or of several side by side",
    "export": "write the embedding model of a checkpoint as a program that needs nothing of ours",
    "search": "find a person of one light among tracklets of the other",
    "doctor": "look for what would make a run fail, or be slow, before it is started",
    "slurm": "tell what sbatch would be given, and what would go wrong",
    "config": "print the configuration, its difference from the paper, its JSON schema",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    name, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name not in COMMANDS:
        lines = [f"  {command:<10} {summary}" for command, summary in COMMANDS.items()]
        print("\n".join(["usage: reid COMMAND [options]; `reid COMMAND --help` lists them", "", *lines]))
        if name in {"-h", "--help"}:
            return 0
        print(f"\nreid: there is no command {name!r}", file=sys.stderr)
        return 2
    logging.basicConfig(
        level=logging.INFO if terminal.speaks() else logging.ERROR,
        format="%(asctime)s %(message)s",
        datefmt="%H:%M:%S",
        handlers=[_Lines()],
    )
    process = "" if terminal.speaks() else f" (process {os.environ['RANK']})"
    try:
        command: Callable[[Sequence[str]], int] = import_module(f"reid.commands.{name}").main
        return command(rest)
    except ToldElsewhereError:
        return MISTAKE
    except KeyboardInterrupt:
        print(f"reid {name}{process}: interrupted", file=sys.stderr)
        return INTERRUPTED
    except (ValueError, RuntimeError, OSError) as error:
        code = code_of(error)
        if code is None:
            raise
        print(f"reid {name}{process}: {error}", file=sys.stderr)
        return code


class _Lines(logging.Handler):
    """Writes to what standard error is at the moment: above anything that is kept at the foot of a terminal."""

    def emit(self, record: logging.LogRecord) -> None:
        sys.stderr.write(f"{self.format(record)}\n")
