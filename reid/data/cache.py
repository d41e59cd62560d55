"""Shards of a slow or distant place, copied to a fast disk of this machine when they are first needed.

    open -> is a copy here? else: lock -> make room -> copy, hashed on the way -> compare -> rename -> open

A copy is named by its sha256, so data sets can share a folder and an old copy is never taken for a new one. Any number of
processes may ask at once: one copies, the others wait for it. A lock ends with its process, and what a killed process
left is removed by the next.

The folder never holds more than it may. Room is made by removing the copies that were used least recently, and only
those that no process has open; where all are in use, a shard is read from where it is. So a cache that is too small
costs its gain, and not a copy for every frame.
"""

import fcntl
import hashlib
import logging
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from reid.data.sources import ByteRanges, LocalFile, Place, Source, SourceError

log = logging.getLogger(__name__)

GIGABYTE = 1_000_000_000
REMEDY_OF_COPY = "It is a copy: remove it, and it is made again."


class ShardCache:
    """Copies of shards in `folder`, of at most `gigabytes` together. The folder is made if it is not there.

    Raises ValueError where it cannot be made, and if others can write to it: whoever can place a copy decides what is
    learned.
    """

    def __init__(self, folder: Path, gigabytes: float) -> None:
        self.folder = Path(folder)
        self._most = int(gigabytes * GIGABYTE)
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(
                f"{self.folder}: the folder for copies of shards cannot be made on this machine: {error.strerror}. Name "
                "another one, on a fast disk, or leave the cache away."
            ) from error
        log.info("shards are copied to %s when they are needed, at most %g GB", self.folder, gigabytes)
        found = self.folder.stat()
        if found.st_uid != os.geteuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise ValueError(
                f"{self.folder}: a cache must belong to you, and nobody else may write to it; found the owner "
                f"{found.st_uid} and the mode {stat.filemode(found.st_mode)}. Name a folder that does not exist yet."
            )

    def open(self, name: str, nbytes: int, sha256: str, source: Source) -> LocalFile | None:
        """The copy of a shard, made from `source` if need be. None if there is no room for it.

        Raises SourceError if it cannot be copied, or if what was copied is not what it should be.
        """
        copy = self.folder / f"{sha256}.tar"
        descriptor = _open_copy(copy, nbytes)
        if descriptor is None:
            with self._locked():
                descriptor = _open_copy(copy, nbytes)
                if descriptor is None and self._make_room(nbytes):
                    _copy(source.pieces(name, nbytes), copy, sha256, f"{source.place}/{name}")
                    descriptor = _open_copy(copy, nbytes)
        return None if descriptor is None else LocalFile(copy, descriptor, REMEDY_OF_COPY)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One process at a time changes what is in the folder. The kernel takes the lock back if that process dies."""
        descriptor = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _make_room(self, nbytes: int) -> bool:
        """Remove what was used least recently and is not in use, until there is room. Whether there is."""
        for unfinished in self.folder.glob("*.partial"):
            unfinished.unlink()
        copies = []
        for path in self.folder.glob("*.tar"):
            with suppress(FileNotFoundError):  # somebody may remove one at any time
                found = path.stat()
                copies.append((found.st_mtime_ns, found.st_size, path))
        room = self._most - sum(size for _, size, _ in copies)
        for _, size, path in sorted(copies) if nbytes <= self._most else []:
            if room >= nbytes:
                break
            room += size if _remove_unused(path) else 0
        return room >= nbytes


class CachedSource:
    """A source whose shards are read from copies on this machine."""

    def __init__(self, source: Source, copies: ShardCache) -> None:
        self._source = source
        self._copies = copies

    @property
    def place(self) -> Place:
        return self._source.place

    def open(self, name: str, nbytes: int, sha256: str) -> ByteRanges:
        copy = self._copies.open(name, nbytes, sha256, self._source)
        if copy is None:
            _warn_once(
                f"{self._copies.folder}: full of shards that are in use, so others are read from {self.place}. Raise "
                "data.cache_gigabytes to have them here."
            )
            return self._source.open(name, nbytes, sha256)
        return copy

    def pieces(self, name: str, most: int) -> Iterator[bytes]:
        return self._source.pieces(name, most)


@cache
def _warn_once(message: str) -> None:
    log.warning(message)


def _open_copy(copy: Path, nbytes: int) -> int | None:
    """A descriptor of a whole copy, marked as used now and as in use until it is closed; None if there is none."""
    try:
        descriptor = os.open(copy, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        found = os.fstat(descriptor)
        if found.st_nlink and found.st_size == nbytes:
            os.utime(descriptor)
            return descriptor
    except BlockingIOError:
        pass  # it is being removed
    os.close(descriptor)
    return None


def _remove_unused(copy: Path) -> bool:
    """Remove a copy unless a process has it open. Whether it is gone."""
    try:
        with copy.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            copy.unlink(missing_ok=True)
    except BlockingIOError:
        return False
    except FileNotFoundError:
        return True
    return True


def _copy(pieces: Iterator[bytes], copy: Path, sha256: str, place: str) -> None:
    partial = copy.with_suffix(".partial")
    digest = hashlib.sha256()
    try:
        with partial.open("wb") as file:
            for piece in pieces:
                digest.update(piece)
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        if digest.hexdigest() != sha256:
            raise SourceError(place, 0, "its sha256 is not the one in the manifest")
        partial.replace(copy)
    except OSError as error:
        reason = f"it cannot be copied to {copy.parent}: {error.strerror}"
        raise SourceError(place, 0, reason, "Free space there, or lower data.cache_gigabytes.") from error
    finally:
        partial.unlink(missing_ok=True)
