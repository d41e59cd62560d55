"""Reads a packed data set back and names all damage, in one run.

    dataset.json, against itself and against what shards say -> digests of the tables -> the list of files, both ways
    -> every shard, by several processes: its sidecar, its sha256, and what `contents.py` finds in it

`quick` believes a shard whose sha256 is right, because the packer compared its bytes with the tables when it sealed them;
what is wrong with any other shard is named as closely as else.

Nothing stops at the first damage, nor at what the disk cannot read. If the description or a table is damaged, shards are
still compared with their sidecars, which carry digests of themselves.
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from preprocess import workers
from preprocess.contents import Damage, content_damage, unreadable
from preprocess.progress import Progress, silent
from preprocess.records import ShardRecord
from preprocess.statistics import count
from reid.data.description import DESCRIPTION, TABLES, DamagedManifestError, read_description
from reid.data.manifest import Manifest, sha256

MOST_IN_A_SHARD = 1_000


class Verified(NamedTuple):
    """What was looked at, and all that is wrong with it. `id` is that of the data set, "" if it cannot be told."""

    id: str
    shards: int
    tracklets: int
    frames: int
    nbytes: int
    decoded: bool
    damages: list[Damage]


def verify(root: Path, *, quick: bool = False, num_workers: int = 1, progress: Progress = silent) -> Verified:
    """Compare a packed data set with what its packer wrote. Raises ValueError if `root` is none at all.

    `quick` decodes nothing, and looks closely only where a sha256 is wrong.
    """
    workers.check(num_workers)
    identifier = ""
    damages: list[Damage] = []
    manifest = None
    try:
        description, identifier = read_description(root)
        for table in TABLES:
            expected = description["files"][table]["sha256"]
            damages += _file_damage(root / table, table, expected, f"that {DESCRIPTION} names")
        if not damages:
            manifest = Manifest(root, description, identifier)
    except DamagedManifestError as error:
        damages.append(Damage(_name(error, root), "", 0, error.reason))
    except ValueError as error:
        if not (root / "shards").is_dir():
            raise
        damages.append(Damage(DESCRIPTION, "", 0, str(error)))
    if manifest is None:
        damages += _against_sidecars(root)
        return Verified(identifier, 0, 0, 0, 0, False, sorted(damages))
    damages = [*_description_damage(manifest), *_stray_files(manifest)]
    total = sum(shard.nbytes for shard in manifest.shards)
    check = partial(_check_shard, manifest, not quick)
    for found in workers.run(
        check, range(len(manifest.shards)), num_workers, lambda done: progress(done, total)
    ):
        damages += found
    frames = int(manifest.num_frames.sum(dtype="int64"))
    return Verified(
        identifier, len(manifest.shards), len(manifest), frames, total, not quick, sorted(damages)
    )


def _name(error: DamagedManifestError, root: Path) -> str:
    place = Path(error.place)
    return "manifest" if place == root else place.relative_to(root).as_posix()


def _file_damage(path: Path, name: str, expected: str, whose: str, key: str = "") -> Iterator[Damage]:
    """What is wrong with a file as a whole, whose sha256 should be the `expected` one."""
    try:
        if not path.exists():
            yield Damage(name, key, 0, "is missing")
        elif path.is_symlink() or not path.is_file():
            yield Damage(name, key, 0, "is a link or no regular file")
        elif sha256(path) != expected:
            yield Damage(name, key, 0, f"its sha256 is not the one {whose}")
    except OSError as error:
        yield unreadable(name, error, key)


def _against_sidecars(root: Path) -> Iterator[Damage]:
    """What can be said about shards when the tables cannot be trusted."""
    try:
        stems = sorted({path.stem for path in (root / "shards").iterdir()})
    except OSError as error:
        yield unreadable("shards", error)
        return
    for stem in stems:
        tar = root / "shards" / f"{stem}.tar"
        try:
            record = ShardRecord.read(tar.with_suffix(".json"))
        except ValueError as error:
            yield Damage(f"shards/{stem}.json", "", 0, str(error))
        else:
            yield from _file_damage(tar, f"shards/{tar.name}", record.sha256, "in its sidecar")


def _description_damage(manifest: Manifest) -> Iterator[Damage]:
    """Where the description contradicts the tables, or the sidecar of the first shard."""
    if count(manifest) != manifest.counts:
        yield Damage(DESCRIPTION, "", 0, "its counts are not those of the tables")
    if any(shard.path.name.rsplit("-", 4)[0] != manifest.name for shard in manifest.shards):
        yield Damage(DESCRIPTION, "", 0, "its name is not that of the shards")
    try:
        record = ShardRecord.read(manifest.shards[0].path.with_suffix(".json"))
    except ValueError:
        return  # told with the shard
    for field in ("plan", "synthetic"):
        if getattr(record, field) != manifest.description[field]:
            yield Damage(DESCRIPTION, "", 0, f"its field {field} is not that of the shards")


def _stray_files(manifest: Manifest) -> Iterator[Damage]:
    """Files that the manifest does not know. A missing one is found when it is opened."""
    known = {DESCRIPTION, *TABLES}
    for shard in manifest.shards:
        known |= {f"shards/{shard.path.name}", f"shards/{shard.path.stem}.json"}
    for path in sorted(manifest.root.rglob("*")):
        name = path.relative_to(manifest.root).as_posix()
        if path.is_symlink() and name not in known:
            yield Damage(name, "", 0, "a link that no packer made")
        elif not path.is_dir() and name not in known:
            yield Damage(name, "", 0, "a file that the manifest does not know")


def _check_shard(
    manifest: Manifest, with_pixels: bool, number: int, advance: Callable[[int], None]
) -> list[Damage]:
    found: list[Damage] = []
    for damage in _shard_damage(manifest, with_pixels, number, advance):
        if len(found) == MOST_IN_A_SHARD:
            found.append(damage._replace(reason="and more, not listed"))
            break
        found.append(damage)
    return found


def _shard_damage(
    manifest: Manifest, with_pixels: bool, number: int, advance: Callable[[int], None]
) -> Iterator[Damage]:
    shard = manifest.shards[number]
    name, first_key = f"shards/{shard.path.name}", manifest.key(shard.first_row)
    sidecar = shard.path.with_suffix(".json")
    yield from _file_damage(sidecar, f"shards/{sidecar.name}", shard.sidecar_sha256, "in the manifest")
    wrong = list(_file_damage(shard.path, name, shard.sha256, "in the manifest", first_key))
    yield from wrong
    try:
        manifest.frames(shard.first_row)
    except DamagedManifestError as error:
        yield Damage(TABLES[2], first_key, 0, error.reason)
        return
    if not (wrong or with_pixels):
        advance(shard.nbytes)
    elif shard.path.is_file() and not shard.path.is_symlink():
        try:
            yield from content_damage(manifest, number, with_pixels, advance)
        except OSError as error:
            yield unreadable(name, error, first_key)
