"""A raw tree -> shards and manifest: plan, write, seal.

    plan    index files -> keys, order, and which tracklets share a shard         OUT.partial/plan.json
    write   pictures -> checked -> one tar and one sidecar a shard                OUT.partial/shards/
    seal    shards read back -> tables -> dataset.json, last                      OUT.partial -> OUT, by one rename

A shard is done when its sidecar is there; tar and sidecar are each published whole, the sidecar last. So a pack that was
killed goes on where it was, any number of processes and machines can write at once without talking to each other, and
the bytes depend on none of that. OUT itself is complete or not there.
"""

import hashlib
import json
import logging
import os
import re
import shutil
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple
from zlib import crc32

from webdataset import TarWriter

from preprocess import vcm, workers
from preprocess.images import LARGEST_FILE, Picture, PictureError, Resizer, keep
from preprocess.plan import (
    PLAN_FILE,
    BadFrames,
    Mode,
    Options,
    Plan,
    PlannedShard,
    PlannedTracklet,
    identify,
    make_plan,
)
from preprocess.progress import Progress, silent
from preprocess.publish import sweep, sync_folder, whole_file, write_whole
from preprocess.statistics import count, differences
from preprocess.vcm import BadTreeError, Tree
from reid.data.manifest import (
    DESCRIPTION,
    FrameRecord,
    Manifest,
    ShardRecord,
    TrackletRecord,
    read_description,
    sha256,
    write_description,
    write_tables,
)
from reid.data.shards import BLOCK, archive_size, frame_member, padded

logger = logging.getLogger(__name__)

SYNTHETIC_FILE = "synthetic.json"
READ_AHEAD = 64


class Part(NamedTuple):
    """The share of one process of several: every `total`-th shard, from the `number`-th."""

    number: int
    total: int

    @classmethod
    def parse(cls, text: str) -> "Part":
        match = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text, re.ASCII)
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            raise ValueError(f"--part: expected I/N with I from 1 to N, found {text!r}.")
        return cls(int(match[1]), int(match[2]))


class Packed(NamedTuple):
    """What a call of `pack` left behind. `sealed` says that the data set at `out` is complete."""

    out: Path
    sealed: bool
    shards_written: int
    shards_kept: int
    description: dict[str, Any]


def pack(
    source: Path,
    out: Path,
    options: Options,
    *,
    num_workers: int = 1,
    part: Part | None = None,
    seal_only: bool = False,
    progress: Progress = silent,
) -> Packed:
    """Pack the raw tree `source` into `out`, or a part of it, or seal what the parts have written.

    Raises BadTreeError for a tree that cannot be packed (nothing is left behind, unless other parts are at work),
    ValueError for a request that cannot be met, OSError and RuntimeError for a machine that fails: what is finished
    is then kept in `OUT.partial`, and the same call goes on from there.
    """
    if num_workers < 1:
        raise ValueError(f"The number of workers must be 1 or more, found {num_workers}.")
    out = Path(out)
    tree = vcm.read(Path(source), options.mixed)
    synthesis = _synthesis(tree.root)
    dataset = "synthetic-vcm" if synthesis else "hitsz-vcm"
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        return _already_packed(out, identify(tree, dataset, options))
    stage = out.with_name(f"{out.name}.partial")
    try:
        plan = make_plan(tree, dataset, options, stage / PLAN_FILE)
        shards = [] if seal_only else _share(plan, part)
        written = _write(plan, shards, stage, num_workers, progress)
    except BadTreeError:
        if part is None and not seal_only:
            shutil.rmtree(stage, ignore_errors=True)
        raise
    if part is not None:
        return Packed(out, False, written, len(shards) - written, {})
    description = _seal(plan, stage, tree, synthesis, num_workers)
    stage.rename(out)
    sync_folder(out.parent)
    return Packed(out, True, written, len(plan.shards) - written, description)


def _synthesis(root: Path) -> dict[str, Any] | None:
    """What `synthesize` says about a tree of its own; None for a real one."""
    path = root / SYNTHETIC_FILE
    if not path.is_file():
        return None
    try:
        fields = json.loads(path.read_bytes())
    except ValueError as error:
        raise BadTreeError(f"{path}: not the description of a synthetic tree: {error}") from error
    return dict(fields)


def _already_packed(out: Path, identifier: str) -> Packed:
    """The same pack again is no work; anything else in the way is a mistake."""
    description: dict[str, Any] = {}
    if (out / DESCRIPTION).is_file():
        description, _ = read_description(out)
    if description.get("plan") != identifier:
        what = "the pack of another tree or of other options" if description else "something else"
        raise ValueError(f"{out} exists and holds {what}. Name another folder, or remove it first.")
    return Packed(out, True, 0, len(list((out / "shards").glob("*.tar"))), description)


def _share(plan: Plan, part: Part | None) -> list[PlannedShard]:
    return plan.shards if part is None else plan.shards[part.number - 1 :: part.total]


def _write(plan: Plan, shards: list[PlannedShard], stage: Path, num_workers: int, progress: Progress) -> int:
    """Write the shards that are not there yet, and return how many those were."""
    (stage / "shards").mkdir(parents=True, exist_ok=True)
    total = sum(plan.num_frames_of(shard) for shard in shards)
    write = partial(_write_shard, plan, stage / "shards")
    return sum(workers.run(write, shards, num_workers, lambda done: progress(done, total)))


def _write_shard(plan: Plan, folder: Path, shard: PlannedShard, advance: Callable[[int], None]) -> bool:
    """Write one shard and its sidecar; False if they are there already."""
    tar = folder / shard.name
    if _is_finished(tar, plan.id):
        advance(plan.num_frames_of(shard))
        return False
    with whole_file(tar) as file:
        contents = _Contents(plan, file)
        frames = _read_ahead(
            plan.root, [frame for each in plan.tracklets_of(shard) for frame in each.tracklet.frames]
        )
        for planned in plan.tracklets_of(shard):
            contents.add(planned, frames)
            advance(len(planned.tracklet.frames))
        record = contents.close(shard)
    write_whole(tar.with_suffix(".json"), record.to_json())
    return True


def _is_finished(tar: Path, plan_id: str) -> bool:
    sidecar = tar.with_suffix(".json")
    if not (sidecar.is_file() and tar.is_file()):
        return False
    record = ShardRecord.from_json(sidecar.read_bytes())
    return record.plan == plan_id and record.nbytes == tar.stat().st_size


class _Contents:
    """A shard that is being written: its tar, the sha256 of what went into it, and where everything lies."""

    def __init__(self, plan: Plan, file: BinaryIO) -> None:
        self._plan = plan
        self._file = file
        self._digest = hashlib.sha256()
        self._tar = TarWriter(self, user="", group="", mode=0o444, mtime=0, encoder=False, compress=False)
        self._prepare = _preparation(plan.options)
        self._records: list[TrackletRecord] = []
        self._skipped: list[tuple[str, str]] = []
        self._position = 0

    def write(self, data: bytes) -> int:
        """What the tar writer calls."""
        self._digest.update(data)
        return self._file.write(data)

    def add(self, planned: PlannedTracklet, frames: Iterator[bytes]) -> None:
        """Take the frames of a tracklet from `frames`, and put them in as one sample."""
        pictures = dict(self._pictures(planned, frames))
        if not pictures:
            return
        start = self._position
        self._add_member(f"{planned.key}.json", planned.description(len(pictures)))
        places = [
            self._add_member(frame_member(planned.key, index, len(pictures)), picture.data)
            for index, picture in enumerate(pictures.values())
        ]
        self._records.append(self._record(planned, pictures, start, places))

    def close(self, shard: PlannedShard) -> ShardRecord:
        """End the tar. Raises RuntimeError if it is not what was planned: the tree has changed meanwhile."""
        self._tar.close()
        nbytes = self._file.tell()
        assert nbytes == archive_size(self._position)
        if shard.nbytes not in (None, nbytes):
            raise RuntimeError(
                f"{shard.name}: planned with {shard.nbytes:,} bytes, but its pictures take {nbytes:,}: the raw tree "
                "changes while it is packed. Let it rest, remove the unfinished pack, and start again."
            )
        if not self._records:
            raise BadTreeError(
                f"{shard.name}: not one of its pictures can be read, the first: {self._skipped[0]}"
            )
        records, skipped = tuple(self._records), tuple(self._skipped)
        return ShardRecord(self._plan.id, shard.name, nbytes, self._digest.hexdigest(), records, skipped)

    def _pictures(self, planned: PlannedTracklet, frames: Iterator[bytes]) -> Iterator[tuple[str, Picture]]:
        tracklet = planned.tracklet
        for name in tracklet.frames:
            try:
                yield name, self._prepare(next(frames))
            except PictureError as error:
                if self._plan.options.bad_frames is BadFrames.FAIL:
                    where = f"{self._plan.root / name} (row {tracklet.row} of {tracklet.source})"
                    raise BadTreeError(f"{where}: {error}") from error
                self._skipped.append((name, str(error)))

    def _add_member(self, name: str, data: bytes) -> tuple[int, int, int]:
        """Offset, size and crc of a member's content."""
        key, _, extension = name.partition(".")
        self._tar.write({"__key__": key, extension: data})
        offset = self._position + BLOCK
        self._position = offset + padded(len(data))
        return offset, len(data), crc32(data)

    def _record(
        self,
        planned: PlannedTracklet,
        pictures: dict[str, Picture],
        start: int,
        places: list[tuple[int, int, int]],
    ) -> TrackletRecord:
        tracklet = planned.tracklet
        sizes = {picture.size for picture in pictures.values()}
        height, width = sizes.pop() if len(sizes) == 1 else (0, 0)
        return TrackletRecord(
            key=planned.key,
            split=tracklet.split,
            role=tracklet.role,
            identity=tracklet.identity,
            label=planned.label,
            modality=tracklet.modality,
            camera=tracklet.camera,
            tracklet=tracklet.tracklet,
            source=tracklet.source,
            row=tracklet.row,
            offset=start,
            nbytes=self._position - start,
            width=width,
            height=height,
            is_gray=all(picture.is_gray for picture in pictures.values()),
            frames=tuple(FrameRecord(name, *place) for name, place in zip(pictures, places, strict=True)),
        )


def _preparation(options: Options) -> Callable[[bytes], Picture]:
    if options.mode is Mode.RESIZE:
        return Resizer(options.size, options.quality)
    return partial(keep, check=options.check)


def _read_ahead(root: Path, frames: list[str]) -> Iterator[bytes]:
    """The bytes of files, in order. The kernel is told of 64 files before the first is read: on cold disks that is five
    times faster than one after the other. No link is followed, and nothing but a file is waited for.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    opened: deque[int] = deque()
    try:
        for frame in frames:
            descriptor = os.open(f"{root}/{frame}", flags)
            opened.append(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_WILLNEED)
            if len(opened) > READ_AHEAD:
                yield _read(opened.popleft())
        while opened:
            yield _read(opened.popleft())
    finally:
        for descriptor in opened:
            os.close(descriptor)


def _read(descriptor: int) -> bytes:
    with open(descriptor, "rb") as file:
        return file.read(LARGEST_FILE + 1)


def _seal(
    plan: Plan, stage: Path, tree: Tree, synthesis: dict[str, Any] | None, num_workers: int
) -> dict[str, Any]:
    """Read every shard back, write the tables, and `dataset.json` last. Returns what that says."""
    folder = stage / "shards"
    sweep(stage)
    missing = [shard.name for shard in plan.shards if not _is_finished(folder / shard.name, plan.id)]
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(plan.shards)} shards are not written yet, the first is {missing[0]}. Run the "
            "parts that write them, then seal again."
        )
    logger.info("reading %d shards back", len(plan.shards))
    for _ in workers.run(partial(_check_shard, folder), plan.shards, num_workers, lambda _: None):
        pass
    expected = {name for shard in plan.shards for name in (shard.name, f"{Path(shard.name).stem}.json")}
    for path in folder.iterdir():
        if path.name not in expected:
            path.unlink()
    skipped: list[tuple[str, str]] = []
    write_tables(stage, _records(folder, plan.shards, skipped))
    fields: dict[str, Any] = {
        "name": plan.dataset,
        "synthetic": synthesis is not None,
        "plan": plan.id,
        "protocol": {"minimum_frames": plan.options.minimum_frames, "mixed": plan.options.mixed},
        "options": plan.options.decisive(),
        "source": {
            "layout": tree.layout.name,
            "mixed_rows": tree.num_mixed,
            "notes": tree.notes,
            "skipped_frames": skipped,
            "synthesis": synthesis,
        },
    }
    counted = count(Manifest(stage, {**fields, "counts": {}}, digest=""))
    fields["source"]["differences"] = (
        [] if synthesis else differences(counted, tree, plan.options.minimum_frames)
    )
    write_whole(stage / DESCRIPTION, write_description(stage, {**fields, "counts": counted}))
    (stage / PLAN_FILE).unlink(missing_ok=True)
    return read_description(stage)[0]


def _check_shard(folder: Path, shard: PlannedShard, advance: Callable[[int], None]) -> None:
    """Compare what lies on disk with what was written. A shard that differs is forgotten, and an error."""
    sidecar = (folder / shard.name).with_suffix(".json")
    if sha256(folder / shard.name) != ShardRecord.from_json(sidecar.read_bytes()).sha256:
        sidecar.unlink()
        raise RuntimeError(
            f"{folder / shard.name}: what lies on disk is not what was written. Check the disk, and run the same "
            "command again: it writes this shard anew."
        )
    advance(1)


def _records(
    folder: Path, shards: list[PlannedShard], skipped: list[tuple[str, str]]
) -> Iterator[tuple[ShardRecord, str]]:
    """Each shard's record with the sha256 of its sidecar; skipped frames are added to `skipped` on the way."""
    for shard in shards:
        data = (folder / shard.name).with_suffix(".json").read_bytes()
        record = ShardRecord.from_json(data)
        skipped += record.skipped
        yield record, hashlib.sha256(data).hexdigest()
