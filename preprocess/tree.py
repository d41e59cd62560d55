"""A raw tree that an adapter has read, in the words that every data set shares. Adapters: `vcm.py`, `buptcampus.py`."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from preprocess.options import Mixed
from reid.types import Split, Tracklet

MOST_REPORTED = 20
MOST_BAD_PICTURES = 1_000
LARGEST_INDEX = 1 << 30  # bytes


class BadTreeError(ValueError):
    """A raw tree that cannot be packed as it is. The message lists the mistakes found, each with file and line."""

    @classmethod
    def listing(cls, root: Path, mistakes: Iterable[str], most: int = MOST_REPORTED) -> "BadTreeError":
        found = list(mistakes)
        more = [f"... and {len(found) - most} more"] if len(found) > most else []
        return cls("\n  ".join([f"{root} cannot be packed:", *found[:most], *more]))


def read_index(path: Path, kind: str) -> bytes:
    """The bytes of an index file of a raw tree. Raises BadTreeError if it cannot be read, or is too large for its `kind`."""
    try:
        if path.stat().st_size > LARGEST_INDEX:
            raise BadTreeError(f"{path}: larger than {LARGEST_INDEX:,} bytes; this is no {kind}.")
        return path.read_bytes()
    except OSError as error:
        raise BadTreeError(f"{path}: cannot be read: {error.strerror}.") from error


@dataclass(slots=True)
class Tree:
    """A raw tree, read. `dataset` begins the names of its shards, `layout` says in words how it is laid out.

    `notes` says what was odd but not wrong, each with file and row; `num_mixed` counts the rows that mix sources.
    `synthesis` is what `synthesize` says about a tree of its own.
    """

    root: Path
    dataset: str
    layout: str
    mixed: Mixed = Mixed.KEEP
    tracklets: list[Tracklet] = field(default_factory=list)
    num_mixed: dict[Split, int] = field(default_factory=lambda: dict.fromkeys(Split, 0))
    notes: list[str] = field(default_factory=list)
    synthesis: dict[str, Any] | None = None
