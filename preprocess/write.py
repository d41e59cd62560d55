"""One shard of a pack, from the pictures of its tracklets to a tar and a sidecar that are there whole or not at all.

    paths -> read_ahead -> bytes -> checked, or resized and encoded -> ShardWriter: one sample a tracklet, its places noted
    -> SHARD.tar -> SHARD.json, which says that the tar is finished

Nothing here knows of other shards, so any number of processes can write at once.
"""

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO
from zlib import crc32

from preprocess.images import Picture, PictureError, Resizer, keep
from preprocess.options import BadFrames, Mode, Options
from preprocess.plan import Plan, PlannedShard, PlannedTracklet
from preprocess.publish import whole_file, write_whole
from preprocess.records import FrameRecord, ShardRecord, TrackletRecord, read_finished
from preprocess.tree import BadTreeError
from reid.data.shards import LARGEST_FRAME, frame_members
from reid.data.ustar import BLOCK, archive_size, member, padded

READ_AHEAD = 64  # files
PIECE = 64 << 10  # bytes that are asked for at once; most pictures are smaller


def write_shard(plan: Plan, folder: Path, shard: PlannedShard, advance: Callable[[int], None]) -> bool:
    """Write one shard and its sidecar; False if they are there already."""
    tar = folder / shard.name
    if read_finished(tar, plan.id):
        advance(plan.num_frames_of(shard))
        return False
    with whole_file(tar) as file:
        writer = ShardWriter(plan, shard, file)
        tracklets = plan.tracklets_of(shard)
        frames = read_ahead(plan.root, (frame for each in tracklets for frame in each.tracklet.frames))
        for planned in tracklets:
            writer.add(planned, frames)
            advance(len(planned.tracklet.frames))
        record = writer.close()
    write_whole(tar.with_suffix(".json"), record.to_json())
    return True


class ShardWriter:
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


def read_ahead(root: Path, frames: Iterable[str]) -> Iterator[bytes]:
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
