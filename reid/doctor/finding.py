"""What a check looks at, and what it answers."""

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from reid.config import Config


class Status(StrEnum):
    """A failure would end a run or spoil it; a warning makes it slow or fragile."""

    OK = "ok"
    WARNING = "warning"
    FAILURE = "failure"


class Finding(NamedTuple):
    """What was found, and what to do about it where something is not as it should be."""

    status: Status
    found: str
    remedy: str = ""


@dataclass(frozen=True)
class Subject:
    """The run that is about to be started: `folder` is where it would be, `processes` how many on this machine."""

    config: Config = field(default_factory=Config)
    folder: Path = Path("runs/doctor")
    processes: int = 1


def ok(found: str) -> Finding:
    return Finding(Status.OK, found)


def warning(found: str, remedy: str) -> Finding:
    return Finding(Status.WARNING, found, remedy)


def failure(found: str, remedy: str) -> Finding:
    return Finding(Status.FAILURE, found, remedy)
