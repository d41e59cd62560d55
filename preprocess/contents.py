"""What differs between a whole shard and the manifest, byte for byte.

    every tracklet: its place, its headers, the checksum of every frame, its padding -> its pixels, if wanted -> the tail

Everything in a shard but the pixels follows from the manifest: names, sizes, order, headers, padding. So damage is found
by comparing, never by guessing what a header might mean. What the disk cannot read is damage like any other.
"""

import os
import tarfile
from collections.abc import Callable, Iterator
from typing import BinaryIO, NamedTuple
from zlib import crc32

from preprocess.images import PictureError, decode, is_gray, read_header
from preprocess.options import Size
from reid.data.manifest import Manifest, ShardInfo
from reid.data.shards import frame_members, sample_json
from reid.data.ustar import BLOCK, archive_size, member_header, padded
from reid.types import Modality, Role, Split

PIECE = 1 << 20


class Damage(NamedTuple):
    """Something that is not as it was packed: in which file, which tracklet ("" for none), at which byte, and what."""

    file: str
    key: str
    offset: int
    reason: str

    def __str__(self) -> str:
        who = f", tracklet {self.key}" if self.key else ""
        return f"{self.file}{who}, byte {self.offset}: {self.reason}"


def content_damage(
    manifest: Manifest, number: int, with_pixels: bool, advance: Callable[[int], None]
) -> Iterator[Damage]:
    """What differs between a shard, which must be there, and the manifest, but for its sha256."""
    shard = manifest.shards[number]
    name, end = f"shards/{shard.path.name}", 0
    with shard.path.open("rb") as file:
        there = os.fstat(file.fileno()).st_size
        for row in range(shard.first_row, shard.first_row + shard.num_tracklets):
            start, nbytes, key = int(manifest.offset[row]), int(manifest.nbytes[row]), manifest.key(row)
            if start != end:
                yield Damage(name, key, start, f"the tracklet before it ends at {end}")
            end = start + nbytes
            try:
                file.seek(start)
                sample = file.read(max(0, min(nbytes, there - start)))
            except OSError as error:
                yield unreadable(name, error, key, start)
                continue
            wrong = list(_sample_damage(manifest, row, sample))
            yield from (Damage(name, key, offset, reason) for offset, reason in wrong)
            if with_pixels and not wrong:
                yield from _pixel_damage(manifest, row, sample, name)
            advance(len(sample))
        try:
            yield from (Damage(name, key, *found) for found in _tail_damage(shard, file, end, there))
        except OSError as error:
            yield unreadable(name, error, key, end)


def unreadable(file: str, error: OSError, key: str = "", offset: int = 0) -> Damage:
    return Damage(file, key, offset, f"cannot be read: {error.strerror}")


def _sample_damage(manifest: Manifest, row: int, sample: bytes) -> Iterator[tuple[int, str]]:
    """What differs between `sample`, the bytes of a tracklet in its shard, and the manifest: (offset, reason) of each."""
    start, position, uncopied = int(manifest.offset[row]), 0, memoryview(sample)
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
        if crc32(uncopied[position + BLOCK : end]) != checksum:
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


def _tail_damage(shard: ShardInfo, file: BinaryIO, end: int, there: int) -> Iterator[tuple[int, str]]:
    """What is wrong behind the last tracklet, in a file of `there` bytes: there must be empty blocks, and then nothing."""
    if archive_size(end) != shard.nbytes:
        yield end, f"the tracklets end here, but {shard.nbytes:,} bytes are recorded for the shard"
    file.seek(end)
    while (left := min(shard.nbytes, there) - file.tell()) > 0 and (piece := file.read(min(left, PIECE))):
        if piece.strip(b"\0"):
            yield end, "the end of the archive is not empty"
            break
    if there != shard.nbytes:
        what = "ends here" if there < shard.nbytes else "goes on"
        yield min(there, shard.nbytes), f"expected {shard.nbytes:,} bytes, but the shard {what}"


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
