"""Reads a packed data set back and names all damage, in one run.

    dataset.json -> digests of the tables -> the list of files, both ways -> every shard, by several processes:
    its sidecar, its sha256, every byte outside the pictures, the checksum of every frame, and its pixels

`quick` believes a shard whose sha256 is right, because the packer compared its bytes with the tables when it sealed them;
what is wrong with any other shard is named as closely as else.

Nothing stops at the first damage. If the tables themselves are damaged, shards are still compared with their sidecars.
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from preprocess import workers
from preprocess.images import PictureError, decode, is_gray, read_header
from preprocess.options import Size
from preprocess.progress import Progress, silent
from preprocess.records import ShardRecord
from preprocess.statistics import count
from reid.data.manifest import DESCRIPTION, TABLES, Manifest, read_description, sha256
from reid.data.shards import sample_damage, tail_damage

MOST_IN_A_SHARD = 1_000


class Damage(NamedTuple):
    """Something that is not as it was packed: in which file, which tracklet ("" for none), at which byte, and what."""

    file: str
    key: str
    offset: int
    reason: str

    def __str__(self) -> str:
        who = f", tracklet {self.key}" if self.key else ""
        return f"{self.file}{who}, byte {self.offset}: {self.reason}"


class Verified(NamedTuple):
    """What was looked at, and all that is wrong with it."""

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
    description, _ = read_description(root)
    damages = list(_table_damage(root, description["files"]))
    try:
        manifest = Manifest.open(root)
    except ValueError as error:
        if not damages:
            damages.append(Damage("manifest", "", 0, str(error)))
        damages += _against_sidecars(root)
        return Verified(0, 0, 0, 0, False, damages)
    if count(manifest) != description["counts"]:
        damages.append(Damage(DESCRIPTION, "", 0, "its counts are not those of the tables"))
    damages += _stray_files(manifest)
    total = sum(shard.nbytes for shard in manifest.shards)
    check = partial(_check_shard, manifest, not quick)
    for found in workers.run(
        check, range(len(manifest.shards)), num_workers, lambda done: progress(done, total)
    ):
        damages += found
    frames = int(manifest.num_frames.sum(dtype="int64"))
    return Verified(len(manifest.shards), len(manifest), frames, total, not quick, sorted(damages))


def _table_damage(root: Path, files: dict[str, dict[str, object]]) -> Iterator[Damage]:
    for table in TABLES:
        if not (root / table).is_file():
            yield Damage(table, "", 0, "is missing")
        elif sha256(root / table) != files[table].get("sha256"):
            yield Damage(table, "", 0, f"its sha256 is not the one {DESCRIPTION} names")


def _against_sidecars(root: Path) -> Iterator[Damage]:
    """What can be said about shards when the tables cannot be trusted."""
    for tar in sorted((root / "shards").glob("*.tar")):
        try:
            record = ShardRecord.read(tar.with_suffix(".json"))
        except (OSError, ValueError) as error:
            yield Damage(f"shards/{tar.stem}.json", "", 0, str(error))
            continue
        if tar.stat().st_size != record.nbytes or sha256(tar) != record.sha256:
            yield Damage(f"shards/{tar.name}", "", 0, "its sha256 is not the one in its sidecar")


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
    yield from _sidecar_damage(manifest, number)
    if shard.path.is_symlink() or not shard.path.is_file():
        what = "is missing" if not shard.path.exists() else "is a link or no regular file"
        yield Damage(name, first_key, 0, what)
        return
    as_packed = sha256(shard.path) == shard.sha256
    if not as_packed:
        yield Damage(name, first_key, 0, "its sha256 is not the one in the manifest")
    if as_packed and not with_pixels:
        advance(shard.nbytes)
        return
    yield from content_damage(manifest, number, with_pixels, advance)


def content_damage(
    manifest: Manifest, number: int, with_pixels: bool, advance: Callable[[int], None]
) -> Iterator[Damage]:
    """What differs between a shard and the manifest, byte for byte but for the shard's sha256. It must be there."""
    shard = manifest.shards[number]
    name, key = f"shards/{shard.path.name}", ""
    with shard.path.open("rb") as file:
        for row in range(shard.first_row, shard.first_row + shard.num_tracklets):
            start, key = int(manifest.offset[row]), manifest.key(row)
            if start != file.tell():
                yield Damage(name, key, start, f"the tracklet before it ends at {file.tell()}")
                file.seek(start)
            sample = file.read(int(manifest.nbytes[row]))
            wrong = list(sample_damage(manifest, row, sample))
            yield from (Damage(name, key, offset, reason) for offset, reason in wrong)
            if with_pixels and not wrong:
                yield from _pixel_damage(manifest, row, sample, name)
            advance(len(sample))
        yield from (Damage(name, key, offset, reason) for offset, reason in tail_damage(shard, file))


def _sidecar_damage(manifest: Manifest, number: int) -> Iterator[Damage]:
    shard = manifest.shards[number]
    sidecar = shard.path.with_suffix(".json")
    name = f"shards/{sidecar.name}"
    if sidecar.is_symlink() or not sidecar.is_file():
        yield Damage(name, "", 0, "is missing, or no regular file")
    elif sha256(sidecar) != shard.sidecar_sha256:
        yield Damage(name, "", 0, "its sha256 is not the one in the manifest")


def _pixel_damage(manifest: Manifest, row: int, sample: bytes, name: str) -> Iterator[Damage]:
    """Frames that cannot be decoded, or are not of the size or the colours that the manifest claims."""
    frames = manifest.frames(row)
    claimed = Size(int(manifest.height[row]), int(manifest.width[row]))
    for index, (offset, size) in enumerate(zip(frames.offset.tolist(), frames.size.tolist(), strict=True)):
        first = offset - int(manifest.offset[row])
        data = sample[first : first + size]
        try:
            header = read_header(data)
            pixels = decode(data, header)
        except PictureError as error:
            yield Damage(name, manifest.key(row), offset, f"frame {index}: {error}")
            continue
        if any(claimed) and header.size != claimed:
            reason = f"frame {index} is {header.size}, but the manifest claims {claimed}"
            yield Damage(name, manifest.key(row), offset, reason)
        if manifest.is_gray[row] and not is_gray(pixels):
            yield Damage(
                name, manifest.key(row), offset, f"frame {index} has colour, but the manifest claims grey"
            )
