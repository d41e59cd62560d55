"""Shards on a slow shared disk, copied to a fast one of this machine when they are first needed.

    ShardInfo -> is a copy here? else: lock -> copy, hashed on the way -> compare -> rename -> path of the copy

A copy is named by its sha256, so data sets can share a folder and an old copy is never taken for a new one. Any number
of processes may ask for the same shard at once: one copies, the others wait for it. A lock ends with its process, and
what a killed process left is written over by the next. Copies stay until somebody removes them, which is safe at any
time: a reader keeps the file that it has open, and the next one copies again.
"""

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from reid.data.manifest import ShardInfo

BLOCK_BYTES = 4 << 20


class BadCopyError(RuntimeError):
    """What was copied is not what the manifest names: the source, or the way from it, is damaged."""


class ShardCache:
    """Copies of shards in `folder`, which is made if it is not there. Nothing but paths crosses to other processes."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)

    def local(self, shard: ShardInfo) -> Path:
        """The path of the local copy of a shard. Raises BadCopyError, or OSError when a disk fails or is full."""
        copy = self.folder / f"{shard.sha256}.tar"
        if not _is_whole(copy, shard):
            with _locked(self.folder / f"{shard.sha256}.lock"):
                if not _is_whole(copy, shard):
                    _copy(shard, copy)
        return copy


def _is_whole(copy: Path, shard: ShardInfo) -> bool:
    return copy.is_file() and copy.stat().st_size == shard.nbytes


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock of a file, which the kernel takes back if this process dies."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _copy(shard: ShardInfo, copy: Path) -> None:
    partial = copy.with_suffix(".partial")
    digest = hashlib.sha256()
    try:
        with shard.path.open("rb") as source, partial.open("wb") as target:
            while block := source.read(BLOCK_BYTES):
                digest.update(block)
                target.write(block)
            target.flush()
            os.fsync(target.fileno())
        if digest.hexdigest() != shard.sha256:
            raise BadCopyError(
                f"{shard.path}: its sha256 is not the one in the manifest. Run `python -m preprocess verify` on the "
                "data set, then restore the shard or pack it again."
            )
        partial.replace(copy)
    finally:
        partial.unlink(missing_ok=True)
