"""Where the bytes of a packed data set come from.

    Source.open(shard) -> ByteRanges.read(ranges) -> bytes

A data set has one source, chosen when it is opened: `LocalFolder`, or `WebFolder` (`web.py`), each with or without copies
on this machine (`cache.py`). A source knows names and lengths, not what the bytes mean: whoever reads them checks them.
"""

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Protocol

PIECE = 4 << 20  # bytes at a time where a whole file is read
REMEDY = "Find all damage with `python -m preprocess verify`, then restore the shard or pack it again."

Range = tuple[int, int]  # offset and size in bytes
Place = Path | str  # a path or an address, to be shown


class SourceError(RuntimeError):
    """Bytes that cannot be had: of which file, from which byte on, why, and what to do about it."""

    def __init__(self, place: Place, offset: int, reason: str, remedy: str = REMEDY) -> None:
        super().__init__(place, offset, reason, remedy)
        self.place, self.offset, self.reason, self.remedy = place, offset, reason, remedy

    def __str__(self) -> str:
        return f"{self.place}: byte {self.offset}: {self.reason}. {self.remedy}"


class ByteRanges(Protocol):
    """A shard that is open. `place` says where it is, `remedy` what to do if it turns out to be damaged."""

    @property
    def place(self) -> Place: ...

    @property
    def remedy(self) -> str: ...

    def read(self, ranges: Sequence[Range]) -> list[bytes]:
        """The bytes of each range; fewer where the file ends. Raises SourceError."""
        ...

    def will_need(self, ranges: Sequence[Range]) -> None:
        """Say what will be read next, to whom it helps."""
        ...

    def close(self) -> None: ...


class Source(Protocol):
    """A packed data set, somewhere. Safe to use after a fork."""

    @property
    def place(self) -> Place: ...

    def open(self, name: str, nbytes: int, sha256: str) -> ByteRanges:
        """Open a file for reading by ranges. Raises SourceError."""
        ...

    def pieces(self, name: str, most: int) -> Iterator[bytes]:
        """A whole file, from its beginning. Raises SourceError, also if it has more than `most` bytes."""
        ...


class LocalFile:
    """A file that the operating system can read: on a disk of this machine, or on one that it shares with others."""

    def __init__(self, place: Path, descriptor: int | None = None, remedy: str = REMEDY) -> None:
        self.place = place
        self.remedy = remedy
        self._descriptor = open_regular(place) if descriptor is None else descriptor

    def read(self, ranges: Sequence[Range]) -> list[bytes]:
        try:
            return [os.pread(self._descriptor, size, offset) for offset, size in ranges]
        except OSError as error:
            reason = f"it cannot be read: {error.strerror}"
            raise SourceError(self.place, ranges[0][0], reason, self.remedy) from error

    def will_need(self, ranges: Sequence[Range]) -> None:
        for offset, size in ranges:
            os.posix_fadvise(self._descriptor, offset, size, os.POSIX_FADV_WILLNEED)

    def close(self) -> None:
        os.close(self._descriptor)


class LocalFolder:
    """The source of a data set that lies in a folder."""

    def __init__(self, root: Path) -> None:
        self.place = root

    def open(self, name: str, nbytes: int, sha256: str) -> LocalFile:  # noqa: ARG002 - frames are checked, not files
        return LocalFile(self.place / name)

    def pieces(self, name: str, most: int) -> Iterator[bytes]:
        path = self.place / name
        offset = 0
        with closing(LocalFile(path)) as file:
            while piece := file.read([(offset, PIECE)])[0]:
                offset += len(piece)
                if offset > most:
                    raise SourceError(path, most, f"expected at most {most:,} bytes, but the file goes on")
                yield piece


def open_regular(path: Path) -> int:
    """A descriptor to read a file by: of no pipe, device or folder. Raises SourceError."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise SourceError(path, 0, f"it cannot be opened: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise SourceError(path, 0, "not a regular file")
    return descriptor
