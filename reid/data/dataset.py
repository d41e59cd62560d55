"""Opens a packed data set wherever it is: in a folder, on a web server, with or without copies on this machine.

root, cache -> Source -> tables, on a disk of this machine -> Manifest
"""

import hashlib
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from reid.data.cache import CachedSource, ShardCache
from reid.data.manifest import DESCRIPTION, LARGEST_DESCRIPTION, TABLES, Manifest, read_description
from reid.data.sources import LocalFolder, Source
from reid.data.web import WebFolder, is_address


def open_dataset(root: str, cache: Path | None = None, cache_gigabytes: float = 200.0) -> Manifest:
    """Open the packed data set at a path, or at an address `http(s)://HOST/FOLDER`.

    With a `cache`, each shard is copied into that folder before its first frame is read; it holds at most
    `cache_gigabytes`. Raises ValueError if there is no data set, SourceError if it cannot be reached.
    """
    source: Source = WebFolder(root) if is_address(root) else LocalFolder(Path(root))
    shards = source if cache is None else CachedSource(source, ShardCache(cache, cache_gigabytes))
    if not is_address(root):
        return Manifest.open(Path(root), shards)
    with TemporaryDirectory(prefix="reid-tables-", dir=cache) as folder:
        _fetch_tables(source, Path(folder))
        manifest = _DistantManifest.open(Path(folder), shards)  # what it maps of a table outlives the name
    manifest.arguments = (root, cache, cache_gigabytes)
    return manifest


class _DistantManifest(Manifest):
    """The manifest of a data set whose tables are not on a disk of this machine."""

    arguments: tuple[Any, ...] = ()

    def __reduce__(self) -> tuple[Any, ...]:
        return open_dataset, self.arguments


def _fetch_tables(source: Source, folder: Path) -> None:
    """Copy the description and the tables to a folder. Raises ValueError for tables that are not the described ones."""
    _fetch(source, DESCRIPTION, LARGEST_DESCRIPTION, folder)
    description, _ = read_description(folder)
    (folder / TABLES[0]).parent.mkdir()
    for table in TABLES:
        expected = description["files"][table]
        if _fetch(source, table, expected["nbytes"], folder) != expected["sha256"]:
            raise ValueError(
                f"{source.place}/{table}: its sha256 is not the one that {DESCRIPTION} names. Restore it on the server."
            )


def _fetch(source: Source, name: str, most: int, folder: Path) -> str:
    """Copy a file and return its sha256."""
    digest = hashlib.sha256()
    with (folder / name).open("wb") as file:
        for piece in source.pieces(name, most):
            digest.update(piece)
            file.write(piece)
    return digest.hexdigest()
