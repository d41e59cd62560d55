"""Frames out of tar shards: by offset, checked; or a whole shard from its beginning, checked byte by byte.

    Manifest.frames(row) -> offsets, sizes, checksums -> bytes of the source -> crc -> JPEG bytes

A shard is a plain ustar archive that stock webdataset reads. One sample is one tracklet: `KEY.json`, then `KEY.000.jpg`,
`KEY.001.jpg` and so on. Everything in it but the pixels follows from the manifest: names, sizes, order, headers,
padding. So a damaged shard is found by comparing, never by guessing what a header might mean: nothing in a tar is
obeyed, no path of it is opened, no link followed, nothing decoded by its extension.
"""

import json
import os
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from reid.data.manifest import Manifest, ShardInfo
from reid.data.sources import REMEDY, ByteRanges, Place, SourceError, open_regular
from reid.data.ustar import BLOCK, archive_size, member_header, padded
from reid.types import Modality, Role, Split

LARGEST_FRAME = 32 << 20  # bytes
MOST_PIXELS = 16 << 20  # of a frame; a JPEG of a few hundred bytes may claim far more
OPEN_SHARDS = 256

Indices = Sequence[int] | NDArray[np.integer]


class DamagedShardError(RuntimeError):
    """A shard does not hold what the manifest says, or cannot be read: which shard, which tracklet, at which byte, why."""

    def __init__(self, shard: Place, key: str, offset: int, reason: str, remedy: str = REMEDY) -> None:
        super().__init__(shard, key, offset, reason, remedy)
        self.shard, self.key, self.offset, self.reason, self.remedy = shard, key, offset, reason, remedy

    def __str__(self) -> str:
        return f"{self.shard}: tracklet {self.key}, byte {self.offset}: {self.reason}. {self.remedy}"


class DamagedFrameError(DamagedShardError):
    """The bytes of one frame are not what was packed, so its neighbours may still be sound."""


def frame_members(key: str, num_frames: int) -> list[str]:
    """The names of frames in a shard. Indices are padded to equal width, so names sort in the order of filming."""
    width = max(3, len(str(num_frames - 1)))
    return [f"{key}.{index:0{width}d}.jpg" for index in range(num_frames)]


def sample_json(
    *,
    split: Split,
    role: Role,
    identity: int,
    label: int,
    modality: Modality,
    camera: int,
    tracklet: int,
    num_frames: int,
) -> bytes:
    """The first member of a sample: what a reader without the manifest needs to know about the tracklet."""
    fields = {
        "split": split.value,
        "role": role.value,
        "identity": identity,
        "label": label,
        "modality": modality.name.lower(),
        "camera": camera,
        "tracklet": tracklet,
        "num_frames": num_frames,
    }
    return json.dumps(fields, separators=(",", ":")).encode()


class ShardReader:
    """Reads frames by their offsets, each checked against its crc before anything decodes it.

    The bytes come from the manifest's source. Keeps at most `OPEN_SHARDS` shards open. Safe in forked workers.
    """

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self._shards: dict[int, ByteRanges] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"manifest": self.manifest, "_shards": {}}

    def read(self, row: int, indices: Indices) -> list[bytes]:
        """The JPEG bytes of frames `indices` of a tracklet.

        Raises DamagedFrameError for bytes that are wrong, DamagedShardError for a shard that cannot be read.
        """
        frames = self.manifest.frames(row)
        ranges = [(int(frames.offset[index]), int(frames.size[index])) for index in indices]
        for offset, size in ranges:
            if not (0 < size <= LARGEST_FRAME and offset >= 0):
                raise self.damage(row, offset, f"the manifest claims a frame of {size} bytes")
        try:
            pictures = self._open(row).read(ranges)
        except SourceError as error:
            raise _of_tracklet(self.manifest.key(row), error) from error
        for index, (offset, size), data in zip(indices, ranges, pictures, strict=True):
            if len(data) != size:
                reason = f"frame {index} has {len(data)} of its {size} bytes: the shard was cut"
                raise self.damage(row, offset, reason)
            if crc32(data) != frames.crc32[index]:
                reason = f"the checksum of frame {index} is wrong: its bytes have changed"
                raise self.damage(row, offset, reason)
        return pictures

    def will_need(self, rows_and_indices: Iterable[tuple[int, Indices]]) -> None:
        """Say which frames come next, all at once: four times faster than asking one by one on cold disks."""
        for row, indices in rows_and_indices:
            frames = self.manifest.frames(row)
            self._open(row).will_need(
                [(int(frames.offset[index]), int(frames.size[index])) for index in indices]
            )

    def damage(self, row: int, offset: int, reason: str) -> DamagedFrameError:
        """The error that says what is wrong with a frame of a tracklet."""
        shard = self._open(row)
        return DamagedFrameError(shard.place, self.manifest.key(row), offset, reason, shard.remedy)

    def close(self) -> None:
        while self._shards:
            self._shards.popitem()[1].close()

    def _open(self, row: int) -> ByteRanges:
        number = int(self.manifest.shard[row])
        if number not in self._shards:
            if len(self._shards) >= OPEN_SHARDS:
                self._shards.pop(next(iter(self._shards))).close()
            try:
                self._shards[number] = self.manifest.open_shard(number)
            except SourceError as error:
                raise _of_tracklet(self.manifest.key(row), error) from error
        return self._shards[number]


def _of_tracklet(key: str, error: SourceError) -> DamagedShardError:
    return DamagedShardError(error.place, key, error.offset, error.reason, error.remedy)


def stream(shard: Path, manifest: Manifest) -> Iterator[tuple[str, list[bytes]]]:
    """Every tracklet of a shard, in order, as (key, JPEG bytes of its frames): one sequential read, nothing skipped.

    Every byte is compared with the manifest before the tracklet it belongs to is handed out. Raises DamagedShardError at
    the first that differs, also where the shard ends early or goes on for too long; ValueError for an unknown shard.
    """
    info = _find(shard, manifest)
    try:
        descriptor = open_regular(shard)
    except SourceError as error:
        raise _of_tracklet(manifest.key(info.first_row), error) from error
    with os.fdopen(descriptor, "rb") as file:
        for row in range(info.first_row, info.first_row + info.num_tracklets):
            start = int(manifest.offset[row])
            sample = file.read(int(manifest.nbytes[row]))
            for offset, reason in sample_damage(manifest, row, sample):
                raise DamagedShardError(shard, manifest.key(row), offset, reason)
            frames = manifest.frames(row)
            places = zip((frames.offset - start).tolist(), frames.size.tolist(), strict=True)
            yield manifest.key(row), [sample[offset : offset + size] for offset, size in places]
        for offset, reason in tail_damage(info, file):
            raise DamagedShardError(shard, "after the last", offset, reason)


def _find(shard: Path, manifest: Manifest) -> ShardInfo:
    for info in manifest.shards:
        if info.path.name == shard.name:
            return info
    raise ValueError(f"{shard}: the manifest of {manifest.root} knows no shard of this name.")


def sample_damage(manifest: Manifest, row: int, sample: bytes) -> Iterator[tuple[int, str]]:
    """What differs between `sample`, the bytes of a tracklet in its shard, and the manifest: (offset, reason) of each."""
    start, position = int(manifest.offset[row]), 0
    for name, size, checksum, recorded in _members(manifest, row):
        if recorded is not None and recorded != start + position + BLOCK:
            yield (
                recorded,
                f"the manifest places {name} here, but it can only be at {start + position + BLOCK}",
            )
        header = sample[position : position + BLOCK]
        if header != member_header(name, size):
            yield start + position, _header_damage(header, name, size)
        end = position + BLOCK + size
        if len(sample) < end:
            yield start + len(sample), f"{name} is cut: the shard ends here"
            return
        if crc32(sample[position + BLOCK : end]) != checksum:
            yield start + position + BLOCK, f"the content of {name} has changed: its checksum is wrong"
        position += BLOCK + padded(size)
        if sample[end:position].strip(b"\0"):
            yield start + end, f"the padding after {name} is not empty"
    if position != manifest.nbytes[row] or len(sample) != position:
        yield start, f"the tracklet takes {position} bytes, but {manifest.nbytes[row]} are recorded or there"


def _members(manifest: Manifest, row: int) -> Iterator[tuple[str, int, int, int | None]]:
    """Name, size, crc and recorded offset (unknown for the description) of every member that a tracklet must have."""
    key, frames = manifest.key(row), manifest.frames(row)
    description = sample_json(
        split=list(Split)[manifest.split[row]],
        role=list(Role)[manifest.role[row]],
        identity=int(manifest.identity[row]),
        label=int(manifest.label[row]),
        modality=Modality(manifest.modality[row]),
        camera=int(manifest.camera[row]),
        tracklet=int(manifest.tracklet[row]),
        num_frames=len(frames.size),
    )
    yield f"{key}.json", len(description), crc32(description), None
    names = frame_members(key, len(frames.size))
    yield from zip(names, frames.size.tolist(), frames.crc32.tolist(), frames.offset.tolist(), strict=True)


def _header_damage(header: bytes, name: str, size: int) -> str:
    if len(header) < BLOCK:
        return f"the header of {name} is cut"
    if not any(header):
        return f"empty blocks where the header of {name} should be"
    try:
        found = tarfile.TarInfo.frombuf(header, "ascii", "strict")
    except (tarfile.HeaderError, UnicodeError):
        return f"the header of {name} is damaged"
    if found.type != tarfile.REGTYPE:
        return f"expected the file {name}, found a member of type {found.type!r} named {found.name!r}"
    if (found.name, found.size) != (name, size):
        return f"expected {name} of {size} bytes, found {found.name!r} of {found.size} bytes"
    return f"the header of {name} has attributes that the packer does not write"


def tail_damage(shard: ShardInfo, file: BinaryIO) -> Iterator[tuple[int, str]]:
    """What is wrong behind the last tracklet, where `file` stands: there must be empty blocks, and then nothing."""
    position = file.tell()
    if archive_size(position) != shard.nbytes:
        yield position, f"the tracklets end here, but {shard.nbytes:,} bytes are recorded for the shard"
    if any(file.read(max(0, shard.nbytes - position))):
        yield position, "the end of the archive is not empty"
    if file.tell() != shard.nbytes:
        yield file.tell(), f"expected {shard.nbytes:,} bytes, but the shard ends here"
    elif file.read(1):
        yield shard.nbytes, f"expected {shard.nbytes:,} bytes, but the shard goes on"
