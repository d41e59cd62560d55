"""A raw tree -> shards and manifest: plan, write, seal.

    plan    index files -> keys, order, and which tracklets share a shard         OUT.partial/plan.json
    write   pictures -> checked -> one tar and one sidecar a shard                OUT.partial/shards/
    seal    shards read back -> tables -> dataset.json, last                      OUT.partial -> OUT, by one rename

A shard is done when its sidecar is there; tar and sidecar are each published whole, the sidecar last. So a pack that was
killed goes on where it was, any number of processes and machines can write at once without talking to each other, and
the bytes depend on none of that. OUT itself is complete or not there.
"""

import hashlib
import os
import re
import shutil
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple
from zlib import crc32

from preprocess import buptcampus, vcm, workers
from preprocess.images import Picture, PictureError, Resizer, keep
from preprocess.options import BadFrames, Mode, Options
from preprocess.plan import (
    PLAN_FILE,
    Plan,
    PlannedShard,
    PlannedTracklet,
    identify,
    make_plan,
)
from preprocess.progress import Progress, Show, hidden
from preprocess.publish import sync, whole_file, write_whole
from preprocess.records import FrameRecord, ShardRecord, TrackletRecord, read_finished
from preprocess.seal import seal
from preprocess.tree import BadTreeError, Tree
from reid.data.manifest import DESCRIPTION, read_description
from reid.data.shards import LARGEST_FRAME, frame_members
from reid.data.ustar import BLOCK, archive_size, member, padded

READ_AHEAD = 64  # files
PIECE = 64 << 10  # bytes that are asked for at once; most pictures are smaller


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
    show: Show = hidden,
) -> Packed:
    """Pack the raw tree `source` into `out`, or a part of it, or seal what the parts have written.

    Raises BadTreeError for a tree that cannot be packed (nothing is left behind but what an earlier call or another
    part wrote), ValueError for a request that cannot be met, OSError and RuntimeError for a machine that fails: what
    is finished is then kept in `OUT.partial`, and the same call goes on from there.
    """
    if num_workers < 1:
        raise ValueError(f"The number of workers must be 1 or more, found {num_workers}.")
    out = Path(out)
    source = Path(source)
    tree = _read_tree(source, options)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        return _already_packed(out, identify(tree, options))
    stage = out.with_name(f"{out.name}.partial")
    is_first = part is None and not seal_only and not stage.exists()
    try:
        plan = make_plan(tree, options, stage / PLAN_FILE)
        shards = [] if seal_only else _share(plan, part)
        with show("packing", "frames") as progress:
            written = _write(plan, shards, stage, num_workers, progress)
    except BadTreeError:
        if is_first:
            shutil.rmtree(stage, ignore_errors=True)
        raise
    if part is not None:
        return Packed(out, False, written, len(shards) - written, {})
    with show("reading back", "shards") as progress:
        description = seal(plan, stage, tree, num_workers, progress)
    stage.rename(out)
    sync(out.parent)
    return Packed(out, True, written, len(plan.shards) - written, description)


def _read_tree(source: Path, options: Options) -> Tree:
    if buptcampus.is_here(source):
        return buptcampus.read(source, options.mixed, fake_infrared=options.fake_infrared)
    if options.fake_infrared:
        raise ValueError(
            f"{source} is no BUPTCampus tree, and only that has generated infrared pictures: leave --fake-infrared out."
        )
    return vcm.read(source, options.mixed)


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
    if read_finished(tar, plan.id):
        advance(plan.num_frames_of(shard))
        return False
    with whole_file(tar) as file:
        contents = _Contents(plan, shard, file)
        frames = _read_ahead(
            plan.root, [frame for each in plan.tracklets_of(shard) for frame in each.tracklet.frames]
        )
        for planned in plan.tracklets_of(shard):
            contents.add(planned, frames)
            advance(len(planned.tracklet.frames))
        record = contents.close()
    write_whole(tar.with_suffix(".json"), record.to_json())
    return True


class _Contents:
    """A shard that is being written: its tar, the sha256 of what went into it, and where everything lies."""

    def __init__(self, plan: Plan, shard: PlannedShard, file: BinaryIO) -> None:
        self._plan = plan
        self._shard = shard
        self._number = plan.shards.index(shard)
        self._file = file
        self._digest = hashlib.sha256()
        self._prepare = _preparation(plan.options)
        self._records: list[TrackletRecord] = []
        self._skipped: list[tuple[str, str]] = []
        self._position = 0

    def add(self, planned: PlannedTracklet, frames: Iterator[bytes]) -> None:
        """Take the frames of a tracklet from `frames`, and put them in as one sample."""
        pictures = list(self._pictures(planned, frames))
        if not pictures:
            return
        description = planned.description(len(pictures))
        pieces = [*member(f"{planned.key}.json", description)]
        position = self._position + BLOCK + padded(len(description))
        records = []
        members = frame_members(planned.key, len(pictures))
        for (name, picture), member_name in zip(pictures, members, strict=True):
            data = picture.data
            pieces += member(member_name, data)
            records.append(FrameRecord(name, position + BLOCK, len(data), crc32(data)))
            position += BLOCK + padded(len(data))
        self._records.append(self._record(planned, [picture for _, picture in pictures], records, position))
        self._write(b"".join(pieces))
        assert self._position == position

    def close(self) -> ShardRecord:
        """End the tar. Raises RuntimeError if it is not what was planned: the tree has changed meanwhile."""
        nbytes, shard = archive_size(self._position), self._shard
        self._write(bytes(nbytes - self._position))
        if shard.nbytes not in (None, nbytes):
            raise RuntimeError(
                f"{shard.name}: planned with {shard.nbytes:,} bytes, but its pictures take {nbytes:,}: the raw tree "
                "changes while it is packed. Let it rest, remove the unfinished pack, and start again."
            )
        if not self._records:
            raise BadTreeError(
                f"{shard.name}: not one of its pictures can be read, the first: {self._skipped[0]}"
            )
        return ShardRecord(
            plan=self._plan.id,
            name=shard.name,
            nbytes=nbytes,
            sha256=self._digest.hexdigest(),
            tracklets=tuple(self._records),
            skipped=tuple(self._skipped),
        )

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

    def _write(self, data: bytes) -> None:
        self._digest.update(data)
        self._file.write(data)
        self._position += len(data)

    def _record(
        self, planned: PlannedTracklet, pictures: list[Picture], frames: list[FrameRecord], end: int
    ) -> TrackletRecord:
        tracklet = planned.tracklet
        sizes = {picture.size for picture in pictures}
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
            shard=self._number,
            offset=self._position,
            nbytes=end - self._position,
            width=width,
            height=height,
            is_gray=all(picture.is_gray for picture in pictures),
            frames=tuple(frames),
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
    folder = f"{root}/"
    try:
        for frame in frames:
            descriptor = os.open(folder + frame, flags)
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
    """A whole file, or as much of it as shows that it is larger than a frame may be."""
    pieces, size = [], 0
    try:
        while size <= LARGEST_FRAME and (piece := os.read(descriptor, PIECE)):
            pieces.append(piece)
            size += len(piece)
    finally:
        os.close(descriptor)
    return b"".join(pieces)
