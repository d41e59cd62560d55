"""Frames out of tar shards: by offset, and checked.

    Manifest.frames(row) -> offsets, sizes, checksums -> bytes of the source -> crc -> JPEG bytes

A shard is a plain ustar archive that stock webdataset reads. One sample is one tracklet: `KEY.json`, then `KEY.000.jpg`,
`KEY.001.jpg` and so on. Nothing in a tar is obeyed: no header is read, no path of it is opened, no link followed, nothing
decoded by its extension.
"""

import json
from collections.abc import Iterable, Sequence
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from reid.data.manifest import Manifest
from reid.data.sources import REMEDY, ByteRanges, Place, SourceError
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
