"""Files of a slow or distant data set, copied to a fast disk of this machine when they are first needed.

    open -> is a copy here? else: make room, take the place -> copy, hashed on the way -> compare -> rename -> open

A copy is named by its sha256, so data sets can share a folder and an old copy is never taken for a new one. Any number of
processes may ask at once: one copies, the others who want the same file wait for it, and different files are copied side
by side. A lock ends with its process, and what a killed process left is removed by the next.

The folder never holds more than it may: a copy that is being made counts as if it were whole. Room is made by removing the
copies that were used least recently, and only those that no process has open; where all are in use, a file is read from
where it is. So a cache that is too small costs its gain, and not a copy for every frame.
"""

import fcntl
import hashlib
import logging
import os
import re
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from reid.data.sources import ByteRanges, LocalFile, Place, Source, SourceError

log = logging.getLogger(__name__)

GIGABYTE = 1_000_000_000
UNFINISHED = ".partial"
OURS = re.compile(r"[0-9a-f]{64}\.[a-z]+", re.ASCII)
REMEDY_OF_COPY = "It is a copy: remove it, and it is made again."


class ShardCache:
    """Copies of files in `folder`, of at most `gigabytes` together. The folder is made if it is not there.

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
        """The copy of a file, made from `source` if need be. None if there is no room for it.

        Raises SourceError if it cannot be copied, or if what was copied is not what it should be.
        """
        copy = self.folder / f"{sha256}{Path(name).suffix}"
        try:
            descriptor = _open_copy(copy, nbytes)
            if descriptor is None:
                descriptor = self._make(copy, nbytes, source, name)
        except OSError as error:
            reason = f"it cannot be copied to {self.folder}: {error.strerror}"
            remedy = "Free space there, or lower data.cache_gigabytes."
            raise SourceError(f"{source.place}/{name}", 0, reason, remedy) from error
        return None if descriptor is None else LocalFile(copy, descriptor, REMEDY_OF_COPY)

    def _make(self, copy: Path, nbytes: int, source: Source, name: str) -> int | None:
        """A descriptor of a copy that this process makes, or waits for. None if there is no room for it."""
        unfinished = copy.with_suffix(UNFINISHED)
        while True:
            with self._locked():
                descriptor = _open_copy(copy, nbytes)
                if descriptor is not None:
                    return descriptor
                begun = os.open(unfinished, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                if _lock(begun, fcntl.LOCK_EX) and os.fstat(begun).st_nlink:  # else it was given up since
                    break
            fcntl.flock(begun, fcntl.LOCK_SH)  # waits for whoever makes it
            os.close(begun)
        with ExitStack() as undo:
            undo.callback(os.close, begun)
            undo.callback(unfinished.unlink, missing_ok=True)
            with self._locked():
                if not self._make_room(begun, nbytes):
                    return None
            _fill(begun, source.pieces(name, nbytes), copy.stem, f"{source.place}/{name}")
            with self._locked():
                fcntl.flock(begun, fcntl.LOCK_SH)
                unfinished.replace(copy)
            undo.pop_all()
        return begun

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One process at a time changes names in the folder. The kernel takes the lock back if that process dies."""
        descriptor = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _make_room(self, begun: int, nbytes: int) -> bool:
        """Remove what was used least recently and is not in use, until there is room for `begun`. Whether there is."""
        os.ftruncate(begun, 0)  # a killed process may have left it
        room, copies = self._most, []
        for path in self.folder.iterdir():
            if not OURS.fullmatch(path.name):
                continue
            with suppress(FileNotFoundError):  # somebody may remove one at any time
                found = path.stat()
                if path.suffix != UNFINISHED:
                    copies.append((found.st_mtime_ns, found.st_size, path))
                elif _remove_unused(path):
                    continue
                room -= found.st_size
        for _, size, path in sorted(copies) if nbytes <= self._most else []:
            if room >= nbytes:
                break
            room += size if _remove_unused(path) else 0
        if room < nbytes:
            return False
        os.ftruncate(begun, nbytes)
        return True


class CachedSource:
    """A source whose files are read from copies on this machine."""

    def __init__(self, source: Source, copies: ShardCache) -> None:
        self._source = source
        self._copies = copies
        self._was_full = False

    @property
    def place(self) -> Place:
        return self._source.place

    def open(self, name: str, nbytes: int, sha256: str) -> ByteRanges:
        copy = self._copies.open(name, nbytes, sha256, self._source)
        if copy is not None:
            return copy
        if not self._was_full:
            self._was_full = True
            log.warning(
                "%s: full of shards that are in use, so others are read from %s. Raise data.cache_gigabytes to have them "
                "here.",
                self._copies.folder,
                self.place,
            )
        return self._source.open(name, nbytes, sha256)

    def pieces(self, name: str, most: int) -> Iterator[bytes]:
        return self._source.pieces(name, most)


def _lock(descriptor: int, kind: int) -> bool:
    """Take a lock if nobody has one that forbids it."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _open_copy(copy: Path, nbytes: int) -> int | None:
    """A descriptor of a whole copy, marked as used now and as in use until it is closed; None if there is none."""
    try:
        descriptor = os.open(copy, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    if _lock(descriptor, fcntl.LOCK_SH):  # else it is being removed
        found = os.fstat(descriptor)
        if found.st_nlink and found.st_size == nbytes:
            os.utime(descriptor)
            return descriptor
    os.close(descriptor)
    return None


def _remove_unused(path: Path) -> bool:
    """Remove a file unless a process has it open. Whether it is gone."""
    try:
        with path.open("rb") as file:
            if not _lock(file.fileno(), fcntl.LOCK_EX):
                return False
            path.unlink(missing_ok=True)
    except FileNotFoundError:
        pass
    return True


def _fill(begun: int, pieces: Iterator[bytes], sha256: str, place: str) -> None:
    """Write a copy. Raises SourceError if it is not what it should be."""
    digest = hashlib.sha256()
    with os.fdopen(begun, "wb", closefd=False) as file:
        for piece in pieces:
            digest.update(piece)
            file.write(piece)
        file.flush()
        os.fsync(begun)
    if digest.hexdigest() != sha256:
        raise SourceError(place, 0, "its sha256 is not the recorded one")
