"""Opens a packed data set wherever it is: in a folder, on a web server, with or without copies on this machine.

root, cache -> Source -> tables, in files of this machine -> Manifest
"""

import hashlib
import os
import weakref
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from reid.data.cache import CachedSource, ShardCache
from reid.data.description import DESCRIPTION, LARGEST_DESCRIPTION, TABLES, parse_description
from reid.data.manifest import Manifest
from reid.data.sources import LocalFile, LocalFolder, Source
from reid.data.web import WebFolder, is_address


def open_dataset(root: str, cache: Path | None = None, cache_gigabytes: float = 200.0) -> Manifest:
    """Open the packed data set at a path, or at an address `http(s)://HOST/FOLDER`.

    With a `cache`, each shard is copied into that folder before its first frame is read, and so are the tables of a data
    set on a web server; it holds at most `cache_gigabytes`. Raises ValueError if there is no data set, SourceError if it
    cannot be reached.
    """
    source: Source = WebFolder(root) if is_address(root) else LocalFolder(Path(root))
    files = source if cache is None else CachedSource(source, ShardCache(cache, cache_gigabytes))
    if not is_address(root):
        return Manifest.open(Path(root), files)
    data = b"".join(source.pieces(DESCRIPTION, LARGEST_DESCRIPTION))
    description, digest = parse_description(data, f"{source.place}/{DESCRIPTION}")
    expected = description["files"]
    tables = [_table(files, name, expected[name]["nbytes"], expected[name]["sha256"]) for name in TABLES]
    manifest = _DistantManifest.described(
        Path(root), description, digest, files, [table.place for table in tables]
    )
    manifest.arguments = (root, cache, cache_gigabytes)
    for table in tables:  # while one is open, it stays in the cache
        weakref.finalize(manifest, table.close)
    return manifest


class _DistantManifest(Manifest):
    """The manifest of a data set whose tables are not on a disk of this machine."""

    arguments: tuple[Any, ...] = ()

    def __reduce__(self) -> tuple[Any, ...]:
        return open_dataset, self.arguments


def _table(source: Source, name: str, nbytes: int, sha256: str) -> LocalFile:
    """A table as an open file of this machine: a copy in the cache, or one without a name, which nothing leaves behind.

    Raises ValueError if it is not the described one.
    """
    found = source.open(name, nbytes, sha256)
    if isinstance(found, LocalFile):
        return found
    found.close()
    digest = hashlib.sha256()
    with TemporaryFile() as file:
        for piece in source.pieces(name, nbytes):
            digest.update(piece)
            file.write(piece)
        file.flush()
        descriptor = os.dup(file.fileno())
    if digest.hexdigest() != sha256:
        raise ValueError(
            f"{source.place}/{name}: its sha256 is not the one that {DESCRIPTION} names. Restore it on the server."
        )
    return LocalFile(Path(f"/proc/self/fd/{descriptor}"), descriptor)
