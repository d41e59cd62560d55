"""How the words of a command become what it can be told.

words -> --config FILE, the start -> flags -> the command's frozen dataclass; every mistake in the words is told at once

What a configuration is, is imported only where one is asked for: help shall be there at once.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import tyro

Arguments = TypeVar("Arguments")


def named_file(arguments: Sequence[str]) -> tuple[Path | None, list[str]]:
    """The file that --config names, and the arguments left."""
    parser = argparse.ArgumentParser(prog="reid", add_help=False, allow_abbrev=False)
    parser.add_argument("--config", type=Path)
    found, rest = parser.parse_known_args(arguments)
    return found.config, rest


def named_run(arguments: Sequence[str]) -> Path | None:
    """The folder that --run names, whatever else the words are."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--run", type=Path)
    run: Path | None = parser.parse_known_args(arguments)[0].run
    return run


def parse(
    kind: type[Arguments], arguments: Sequence[str], command: str, default: Arguments | None = None
) -> Arguments:
    given: dict[str, Any] = {} if default is None else {"default": default}
    config = (tyro.conf.EnumChoicesFromValues,)
    try:
        parsed: Arguments = tyro.cli(
            kind, prog=f"reid {command}", args=list(arguments), config=config, **given
        )
    except ValueError as error:
        from pydantic import ValidationError  # noqa: PLC0415

        from reid.config import refusal  # noqa: PLC0415

        if isinstance(error, ValidationError):
            raise refusal(error, "the options given") from error
        raise
    return parsed
