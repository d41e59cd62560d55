"""From the bytes of a tracklet to a clip: choose T frames, decode, augment, normalise.

    tracklet of n frames -> training_indices | test_indices   which T frames
    JPEG bytes           -> decode                            strictly, straight into the clip's memory
    clip                 -> Augmentation                      drawn once per clip
    pairs of clips       -> PairedClips                       uint8; `normalise` turns them into floats on the device

Legend: B clips of one modality, T frames, H W, 3 channels (red, green, blue). In memory the channel is the innermost
index, (B, T, H, W, 3), as JPEG decoders write it; tensors are views (B, T, 3, H, W) of it, which is what convolutions
know as `channels_last`.
"""

import logging
from functools import cache
from typing import NamedTuple

import numpy as np
import simplejpeg
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from reid.data.augmentation import Augmentation, Change
from reid.data.manifest import Manifest
from reid.data.shards import MOST_PIXELS, DamagedFrameError, ShardReader
from reid.types import Modality

log = logging.getLogger(__name__)

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Pixels = NDArray[np.uint8]
Integers = NDArray[np.int64]


class ClipShape(NamedTuple):
    """T frames of H x W pixels."""

    frames: int = 6
    height: int = 288
    width: int = 144


class PairedClips(NamedTuple):
    """A batch of training clips: row i of both modalities shows the same identity.

    `visible` and `infrared` are uint8 (B, T, 3, H, W), `identity` is int64 (B,), 0..M-1.
    """

    visible: Tensor
    infrared: Tensor
    identity: Tensor

    def to(self, device: torch.device | str) -> "PairedClips":
        """On `device`. Nobody waits for a copy to a GPU, which is made from page-locked memory for that."""
        if torch.device(device).type == "cuda":
            return PairedClips(*(tensor.pin_memory().to(device, non_blocking=True) for tensor in self))
        return PairedClips(*(tensor.to(device) for tensor in self))


def chunk_frames(num_frames: int, clip_frames: int) -> int:
    """Frames of each of the T equal chunks of a tracklet: it has so many test clips, one for each place in a chunk."""
    return -(-num_frames // clip_frames)


def test_indices(num_frames: int, clip_frames: int, place: int = 0) -> Integers:  # noqa: PT028 - no test
    """Frame `place` of each of T equal chunks, by default the first; where frames run out, the last one again. (T,)

    24 frames: 0 4 8 12 16 20; 13 frames: 0 3 6 9 12 12; 2 frames: 0 1 1 1 1 1.
    """
    chunk = chunk_frames(num_frames, clip_frames)
    indices: Integers = np.minimum(np.arange(clip_frames) * chunk + place, num_frames - 1)
    return indices


def training_indices(num_frames: int, clip_frames: int, generator: np.random.Generator) -> Integers:
    """One random frame of each of the chunks of `test_indices`. (T,), ascending"""
    chunk = chunk_frames(num_frames, clip_frames)
    places = np.arange(clip_frames) * chunk + generator.integers(chunk, size=clip_frames)
    indices: Integers = np.minimum(places, num_frames - 1)
    return indices


def decode(jpeg: bytes, picture: Pixels, plane: Pixels | None = None) -> None:
    """Decode a JPEG into `picture` (H, W, 3), resizing it if it has another size.

    If R = G = B is known, a `plane` (H, W, 1) to decode into gives the same pixels for four fifths of the time: the
    brightness alone is decoded, and written to each channel.

    Raises ValueError for anything but an intact JPEG of at most `MOST_PIXELS` pixels, in grey or colour.
    """
    height, width, colours, _ = simplejpeg.decode_jpeg_header(jpeg)
    if height * width > MOST_PIXELS:
        raise ValueError(f"a picture of {width} x {height} pixels is over the limit of {MOST_PIXELS}")
    if colours in {"CMYK", "YCCK"}:
        raise ValueError(f"a picture in {colours} is for printing; expected grey or colour")
    if (height, width) != picture.shape[:2]:
        decoded = Image.fromarray(simplejpeg.decode_jpeg(jpeg, "RGB"))
        size = (picture.shape[1], picture.shape[0])
        picture[...] = np.asarray(decoded.resize(size, Image.Resampling.BILINEAR))
    elif plane is None:
        simplejpeg.decode_jpeg(jpeg, "RGB", buffer=picture)
    else:
        simplejpeg.decode_jpeg(jpeg, "GRAY", buffer=plane)
        for channel in range(3):  # twice as fast as all at once
            picture[..., channel] = plane[..., 0]


class ClipReader:
    """Reads clips of a packed data set into given memory. Opens its files when it first reads.

    `clips` are always uint8 (b, T, H, W, 3), one for each of the manifest's `rows` (b,). What cannot be read raises
    DamagedShardError, which names shard, tracklet, frame and offset.
    """

    def __init__(
        self, manifest: Manifest, shape: ClipShape, augmentation: Augmentation | None = None
    ) -> None:
        if augmentation is not None and augmentation.padding >= min(shape.height, shape.width):
            raise ValueError(
                f"A padding of {augmentation.padding} pixels can move a picture of {shape.height} x {shape.width} out "
                "of sight. Choose a smaller padding or larger pictures."
            )
        self._manifest = manifest
        self._shards = ShardReader(manifest)
        self._num_frames = shape.frames
        self._augmentation = augmentation
        self._stored, self._changed = np.empty((2, shape.height, shape.width, 3), dtype=np.uint8)
        self._plane = np.empty((shape.height, shape.width, 1), dtype=np.uint8)
        _warn_if_stored_differently(manifest, shape)

    def close(self) -> None:
        self._shards.close()

    def read_for_test(self, rows: Integers, clips: Pixels, place: int = 0) -> None:
        """Evenly spaced frames, as they are, or none: a protocol has no substitutes."""
        choices = [
            (row, test_indices(int(self._manifest.num_frames[row]), self._num_frames, place))
            for row in rows.tolist()
        ]
        self._shards.will_need(choices)
        for (row, indices), clip in zip(choices, clips, strict=True):
            self._read(row, indices, [None] * self._num_frames, clip)

    def read_for_training(
        self, rows: Integers, generators: list[np.random.Generator], clips: Pixels
    ) -> list[DamagedFrameError]:
        """Random frames, augmented, both drawn by the generator of each clip.

        Instead of a damaged frame, its nearest sound one is read. Returns the damage, for a quarantine to judge.
        """
        choices = [
            (row, training_indices(int(self._manifest.num_frames[row]), self._num_frames, generator))
            for row, generator in zip(rows.tolist(), generators, strict=True)
        ]
        self._shards.will_need(choices)
        damage: list[DamagedFrameError] = []
        for (row, indices), generator, clip in zip(choices, generators, clips, strict=True):
            changes: list[Change | None] = [None] * self._num_frames
            if self._augmentation is not None:
                modality = Modality(int(self._manifest.modality[row]))
                changes = [*self._augmentation.draw(self._num_frames, modality, generator)]
            try:
                self._read(row, indices, changes, clip)
            except DamagedFrameError:
                sound = np.array([self._nearest_sound(row, index, damage) for index in indices.tolist()])
                self._read(row, sound, changes, clip)
        return damage

    def _read(self, row: int, indices: Integers, changes: list[Change | None], clip: Pixels) -> None:
        jpegs = self._shards.read(row, indices)
        for index, jpeg, change, picture in zip(indices.tolist(), jpegs, changes, clip, strict=True):
            self._decode(row, index, jpeg, picture if change is None else self._stored)
            if change is not None:
                change.apply(self._stored, self._changed)
                picture[...] = self._changed  # in one pass: single pixels written to cold memory wait for it

    def _decode(self, row: int, index: int, jpeg: bytes, picture: Pixels) -> None:
        try:
            decode(jpeg, picture, self._plane if self._manifest.is_gray[row] else None)
        except ValueError as error:
            offset = int(self._manifest.frames(row).offset[index])
            raise self._shards.damage(row, offset, f"frame {index} cannot be decoded: {error}") from error

    def _nearest_sound(self, row: int, index: int, damage: list[DamagedFrameError]) -> int:
        """The frame of a tracklet that is nearest to frame `index` and sound, of two the earlier one.

        Depends on the tracklet alone. Damage on the way there is added to `damage`; without a sound frame it is raised.
        """
        found: list[DamagedFrameError] = []
        frames = range(int(self._manifest.num_frames[row]))
        for near in sorted(frames, key=lambda frame: abs(frame - index)):
            try:
                self._decode(row, near, self._shards.read(row, [near])[0], self._stored)
            except DamagedFrameError as error:
                found.append(error)
            else:
                damage.extend(found)
                return near
        reason = f"none of {len(frames)} frames is sound, as {found[0].reason}"
        raise self._shards.damage(row, found[0].offset, reason)


def _warn_if_stored_differently(manifest: Manifest, shape: ClipShape) -> None:
    differs = (manifest.height != shape.height) | (manifest.width != shape.width)
    if differs.any():
        _warn_once(
            f"{manifest.place}: {np.count_nonzero(differs)} of {differs.size} tracklets are not stored as "
            f"{shape.height} x {shape.width}, so their frames are resized each time they are read. Pack with "
            f"`--mode resize --size {shape.height}x{shape.width}` to do it once."
        )


@cache
def _warn_once(message: str) -> None:
    log.warning(message)


def as_tensor(clips: Pixels) -> Tensor:
    """The view (..., T, 3, H, W) of clips in memory (..., T, H, W, 3)."""
    return torch.from_numpy(clips).movedim(-1, -3)


def normalise(clips: Tensor) -> Tensor:
    """uint8 (..., 3, H, W) to float32 with ImageNet's mean and deviation, where the clips are, keeping their layout."""
    mean, deviation = (_row(of_channels, clips) for of_channels in (IMAGENET_MEAN, IMAGENET_STD))
    return clips.float().sub_(mean).div_(deviation)


def _row(of_channels: tuple[float, float, float], clips: Tensor) -> Tensor:
    """A row of pixels of one colour, (3, 1, W), laid out as in `clips`: a CPU is three times faster than with (3, 1, 1)."""
    # Filled where it is: a copy to a GPU would wait until all is computed there that was asked of it so far.
    columns = [torch.full(clips.shape[-1:], of_channel, device=clips.device) for of_channel in of_channels]
    return (255 * torch.stack(columns, dim=1)).T[:, None]
