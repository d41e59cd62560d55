"""Files that are either whole or not there, whatever kills the writer, and the place where a folder may appear.

    temporary name -> written, hashed on the way -> fsync -> rename -> fsync of the folder

Temporary names carry machine and process, so writers never meet; `sweep` removes those that a killed writer left.
"""

import hashlib
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

TEMPORARY = ".tmp-"


class NewFile:
    """A file that is being written, with the sha256 and the number of the bytes so far. It can only grow."""

    closed = False  # pyarrow asks

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self.nbytes = 0

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    def write(self, data: bytes) -> int:
        self._digest.update(data)
        self.nbytes += len(data)
        return self._file.write(data)

    def tell(self) -> int:
        return self.nbytes

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        """Nothing: whoever opened the file closes it."""


@contextmanager
def whole_file(path: Path) -> Iterator[NewFile]:
    """A file to write, which becomes `path` when the block ends well and vanishes when it does not."""
    temporary = path.with_name(f"{TEMPORARY}{socket.gethostname()}-{os.getpid()}-{path.name}")
    try:
        with temporary.open("wb") as file:
            yield NewFile(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


def write_whole(path: Path, data: bytes) -> None:
    with whole_file(path) as file:
        file.write(data)


def sync(path: Path) -> None:
    """Make a file, or the names in a folder, last through a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sweep(folder: Path) -> None:
    """Remove what killed writers left below a folder."""
    for path in folder.rglob(f"{TEMPORARY}*"):
        path.unlink()


def destination(out: Path) -> Path:
    """The real path of a folder that is to appear, whole, by a rename. Raises ValueError where none can."""
    if out.is_symlink() and not out.exists():
        raise ValueError(f"{out} is a link that leads nowhere. Name another folder, or remove it first.")
    real = out.resolve()
    if real.is_mount():
        raise ValueError(
            f"{out} is a mount point, which nothing can be renamed to. Name a folder below it that does not exist yet."
        )
    if real == Path.cwd():
        raise ValueError(f"{out} is the current folder, which cannot be replaced. Name a new folder in it.")
    return real


def is_free(out: Path) -> bool:
    """Whether nothing stands in the way of a folder that is to appear."""
    return not out.exists() or (out.is_dir() and not any(out.iterdir()))
