"""One shard of a pack, from the pictures of its tracklets to a tar and a sidecar that are there whole or not at all.

    paths -> read_ahead -> bytes -> checked, or resized and encoded -> ShardWriter: one sample a tracklet, its places noted
    -> SHARD.tar -> SHARD.json, which says that the tar is finished

Nothing here knows of other shards, so any number of processes can write at once. The pictures of a shard are looked at
even where some are bad, up to a thousand, so that they can be told together.
"""

import errno
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from zlib import crc32

from preprocess.images import Picture, PictureError, Resizer, keep
from preprocess.options import BadFrames, Mode, Options
from preprocess.plan import Plan, PlannedShard, PlannedTracklet, file_size
from preprocess.publish import NewFile, whole_file, write_whole
from preprocess.records import FrameRecord, ShardRecord, TrackletRecord
from preprocess.tree import MOST_BAD_PICTURES
from reid.data.shards import frame_members
from reid.data.ustar import BLOCK, archive_size, member, padded

READ_AHEAD = 64  # files
OUT_OF_MEANS = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}  # says nothing about a picture
UNREADABLE = {errno.EIO, errno.EACCES, errno.EPERM}  # says that a picture is still there

Read = bytes | PictureError


class BadPicturesError(Exception):
    """A shard that is not written, because not all of its pictures are sound."""

    def __init__(self, mistakes: list[str]) -> None:
        super().__init__(mistakes)
        self.mistakes = mistakes


def write_shard(plan: Plan, folder: Path, shard: PlannedShard, advance: Callable[[int], None]) -> list[str]:
    """Write one shard and its sidecar. Returns what is wrong with its pictures: if there is anything, it is not written."""
    tar = folder / shard.name
    try:
        with whole_file(tar) as file:
            writer = ShardWriter(plan, shard, file)
            pictures = read_ahead(plan.root, plan.files_of(shard))
            for planned in plan.tracklets_of(shard):
                writer.add(planned, pictures)
                advance(len(planned.tracklet.frames))
            record = writer.close()
    except BadPicturesError as error:
        return error.mistakes
    write_whole(tar.with_suffix(".json"), record.to_json())
    return []


class ShardWriter:
    """A shard that is being written: its tar, and where everything lies in it."""

    def __init__(self, plan: Plan, shard: PlannedShard, file: NewFile) -> None:
        self._plan = plan
        self._shard = shard
        self._file = file
        self._prepare = _preparation(plan.options)
        self._records: list[TrackletRecord] = []
        self._skipped: list[tuple[str, str]] = []
        self._mistakes: list[str] = []

    def add(self, planned: PlannedTracklet, frames: Iterator[Read]) -> None:
        """Take the frames of a tracklet from `frames`, and put them in as one sample. Raises BadPicturesError."""
        pictures = list(self._pictures(planned, frames))
        if len(self._mistakes) >= MOST_BAD_PICTURES:
            raise BadPicturesError(self._mistakes)
        if not pictures:
            return
        description = planned.description(len(pictures))
        pieces = [*member(f"{planned.key}.json", description)]
        start = self._file.nbytes
        position = start + BLOCK + padded(len(description))
        records = []
        members = frame_members(planned.key, len(pictures))
        for (name, picture), member_name in zip(pictures, members, strict=True):
            data = picture.data
            pieces += member(member_name, data)
            records.append(FrameRecord(name, position + BLOCK, len(data), crc32(data)))
            position += BLOCK + padded(len(data))
        self._records.append(self._record(planned, [picture for _, picture in pictures], records, position))
        self._file.write(b"".join(pieces))
        assert self._file.nbytes == position

    def close(self) -> ShardRecord:
        """End the tar. Raises BadPicturesError unless its pictures are sound, or bad ones may be left out."""
        if not self._records and self._skipped:
            name, reason = self._skipped[0]
            self._mistakes.append(
                f"{self._shard.name}: not one of its pictures can be read, the first: {name}: {reason}"
            )
        if self._mistakes:
            raise BadPicturesError(self._mistakes)
        self._file.write(bytes(archive_size(self._file.nbytes) - self._file.nbytes))
        return ShardRecord(
            plan=self._plan.id,
            synthetic=self._plan.synthetic,
            pictures=self._shard.pictures,
            name=self._shard.name,
            nbytes=self._file.nbytes,
            sha256=self._file.sha256,
            tracklets=tuple(self._records),
            skipped=tuple(self._skipped),
        )

    def _pictures(self, planned: PlannedTracklet, frames: Iterator[Read]) -> Iterator[tuple[str, Picture]]:
        tracklet = planned.tracklet
        for name in tracklet.frames:
            try:
                data = next(frames)
                if isinstance(data, PictureError):
                    raise data
                yield name, self._prepare(data)
            except PictureError as error:
                if self._plan.options.bad_frames is BadFrames.SKIP:
                    self._skipped.append((name, str(error)))
                else:
                    self._mistakes.append(f"{name} (row {tracklet.row} of {tracklet.source}): {error}")

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
            shard=self._shard.number,
            offset=self._file.nbytes,
            nbytes=end - self._file.nbytes,
            width=width,
            height=height,
            is_gray=all(picture.is_gray for picture in pictures),
            frames=tuple(frames),
        )


def _preparation(options: Options) -> Callable[[bytes], Picture]:
    if options.mode is Mode.RESIZE:
        return Resizer(*options.resizing)
    assert options.check is not None
    return partial(keep, check=options.check)


def read_ahead(root: Path, files: Iterable[tuple[str, int]]) -> Iterator[Read]:
    """The bytes of files of known sizes, in order, or why one cannot be read.

    The kernel is told of 64 files before the first is read: on cold disks that is five times faster than one after the
    other. No link is followed, and nothing but a file is waited for. Raises RuntimeError if a file has another size, or is
    not there any more: whole folders vanish with their disk, and none of it may be taken for bad pictures.
    """
    waiting: deque[tuple[str, int, int | PictureError]] = deque()
    try:
        for frame, size in files:
            path = f"{root}/{frame}"
            waiting.append((path, size, _open(path, size)))
            if len(waiting) > READ_AHEAD:
                yield _read(*waiting.popleft())
        while waiting:
            yield _read(*waiting.popleft())
    finally:
        for *_, opened in waiting:
            if isinstance(opened, int):
                os.close(opened)


def _open(path: str, size: int) -> int | PictureError:
    try:
        if size == 0:
            file_size(path)
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        return _unreadable(path, error)
    except PictureError as error:
        return error
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_WILLNEED)
    return descriptor


def _read(path: str, size: int, opened: int | PictureError) -> Read:
    if isinstance(opened, PictureError):
        return opened
    try:
        data = os.read(opened, size + 1)
        while 0 < len(data) < size and (piece := os.read(opened, size + 1 - len(data))):
            data += piece
    except OSError as error:
        return _unreadable(path, error)
    finally:
        os.close(opened)
    if len(data) != size:
        found = "more" if len(data) > size else f"{len(data):,}"
        raise _changing(path, f"expected {size:,} bytes, found {found}")
    return data


def _changing(path: str, what: str) -> RuntimeError:
    return RuntimeError(
        f"{path}: {what}: the raw tree changes while it is packed. Let it rest, and run the same command again."
    )


def _unreadable(path: str, error: OSError) -> PictureError:
    """Why a picture cannot be read. Raises another error where that is not the picture's fault."""
    if error.errno in OUT_OF_MEANS:
        raise error
    if error.errno not in UNREADABLE:
        raise _changing(path, f"{error.strerror}, after it was found") from error
    return PictureError(f"cannot be read: {error.strerror}")
