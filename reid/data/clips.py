"""From the bytes of a tracklet to a clip: choose T frames, decode, augment, normalise.

    tracklet of n frames -> training_indices | test_indices   which T frames
    JPEG bytes           -> decode                            strictly, straight into the clip's memory
    clip                 -> Augmentation                      drawn once per clip
    pairs of clips       -> PairedClips                       uint8; `normalise` turns them into floats on the device

Legend: B clips of one modality, T frames, H W, 3 channels (red, green, blue). In memory the channel is the innermost
index, (B, T, H, W, 3), as JPEG decoders write it; tensors are views (B, T, 3, H, W) of it, which is what convolutions
know as `channels_last`.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import simplejpeg
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from reid.data.manifest import Manifest
from reid.data.shards import DamagedShardError, ShardReader
from reid.types import Modality

MAX_PIXELS = 4096 * 4096  # a JPEG of a few hundred bytes may claim far more

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Pixels = NDArray[np.uint8]
Indices = NDArray[np.int64]


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

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "PairedClips":
        return PairedClips(*(tensor.to(device, non_blocking=non_blocking) for tensor in self))

    def pin_memory(self) -> "PairedClips":
        return PairedClips(*(tensor.pin_memory() for tensor in self))


def test_indices(num_frames: int, clip_frames: int) -> Indices:
    """The first frame of each of T equal chunks; where frames run out, the last one again. (T,)

    24 frames: 0 4 8 12 16 20; 13 frames: 0 3 6 9 12 12; 2 frames: 0 1 1 1 1 1.
    """
    chunk = -(-num_frames // clip_frames)
    return np.minimum(np.arange(clip_frames) * chunk, num_frames - 1)


def training_indices(num_frames: int, clip_frames: int, generator: np.random.Generator) -> Indices:
    """One random frame of each of the chunks of `test_indices`. (T,), ascending"""
    chunk = -(-num_frames // clip_frames)
    start = np.arange(clip_frames) * chunk
    return np.minimum(start + generator.integers(chunk, size=clip_frames), num_frames - 1)


def decode(jpeg: bytes, picture: Pixels) -> None:
    """Decode a JPEG into `picture` (H, W, 3), resizing it if it has another size.

    Raises ValueError for anything but an intact JPEG of at most `MAX_PIXELS` pixels, in grey or colour.
    """
    height, width, colours, _ = simplejpeg.decode_jpeg_header(jpeg)
    if height * width > MAX_PIXELS:
        raise ValueError(f"a picture of {width} x {height} pixels is over the limit of {MAX_PIXELS}")
    if colours in {"CMYK", "YCCK"}:
        raise ValueError(f"a picture in {colours} is for printing; expected grey or colour")
    if (height, width) == picture.shape[:2]:
        simplejpeg.decode_jpeg(jpeg, "RGB", buffer=picture)
    else:
        decoded = Image.fromarray(simplejpeg.decode_jpeg(jpeg, "RGB"))
        picture[...] = decoded.resize((picture.shape[1], picture.shape[0]), Image.Resampling.BILINEAR)


class ClipReader:
    """Reads clips of a packed data set into given memory (T, H, W, 3). Opens its files when it first reads."""

    def __init__(self, manifest: Manifest, shape: ClipShape) -> None:
        self.manifest = manifest
        self.shape = shape

    @cached_property
    def _shards(self) -> ShardReader:
        return ShardReader(self.manifest)

    def will_need(self, choices: list[tuple[int, Indices]]) -> None:
        """Tell the system which frames of which rows are read next, so that a disk can fetch them together."""
        self._shards.will_need(choices)

    def read(self, row: int, indices: Indices, clip: Pixels) -> None:
        """Decode the frames `indices` of a tracklet into `clip`. Raises DamagedShardError, naming the frame."""
        for index, jpeg, picture in zip(indices, self._shards.read(row, indices), clip, strict=True):
            try:
                decode(jpeg, picture)
            except ValueError as error:
                frames = self.manifest.frames(row)
                key = f"{self.manifest.key(row)}.{index:03d}.jpg"
                raise DamagedShardError(frames.shard, key, int(frames.offset[index]), str(error)) from error


@dataclass(frozen=True, slots=True)
class Augmentation:
    """Pad, crop at random, flip: drawn once per clip, or once per frame. [A32]

    `grey_probability` turns that share of the visible clips grey, by a random mixture of their three channels: the
    infrared camera knows no colour, and a model trained from scratch otherwise relies on it.
    """

    padding: int = 10
    flip_probability: float = 0.5
    grey_probability: float = 0.0
    per_frame: bool = False

    def apply(self, source: Pixels, clip: Pixels, modality: Modality, generator: np.random.Generator) -> None:
        """Write the augmented `source` (T, H, W, 3) to `clip` of the same shape. Pixels from outside are black."""
        if self.per_frame:
            pieces = [slice(t, t + 1) for t in range(len(source))]
        else:
            pieces = [slice(None)]
        for piece in pieces:
            self._apply_one(source[piece], clip[piece], modality, generator)

    def _apply_one(
        self, source: Pixels, clip: Pixels, modality: Modality, generator: np.random.Generator
    ) -> None:
        shift = generator.integers(-self.padding, self.padding + 1, size=2)
        flip, grey, *cuts = generator.random(4)
        if modality is Modality.VISIBLE and grey < self.grey_probability:
            source = _mix_channels(source, np.diff([0.0, *sorted(cuts), 1.0]))
        if flip < self.flip_probability:
            source = torch.from_numpy(source).permute(0, 3, 1, 2).flip(3).permute(0, 2, 3, 1).numpy()
        _shift(source, clip, int(shift[0]), int(shift[1]))


def _shift(source: Pixels, clip: Pixels, down: int, right: int) -> None:
    """Move the pictures by whole pixels; what comes in from outside is black."""
    height, width = source.shape[1:3]
    clip[:, : max(down, 0)] = 0
    clip[:, height + min(down, 0) :] = 0
    clip[:, :, : max(right, 0)] = 0
    clip[:, :, width + min(right, 0) :] = 0
    clip[:, max(down, 0) : height + min(down, 0), max(right, 0) : width + min(right, 0)] = source[
        :, max(-down, 0) : height - max(down, 0), max(-right, 0) : width - max(right, 0)
    ]


def _mix_channels(source: Pixels, weights: NDArray[np.float64]) -> Pixels:
    """Grey pictures: the sum of red, green and blue by `weights` (3,), which add up to one."""
    red, green, blue = (np.diff(np.rint(256 * np.cumsum([0.0, *weights])))).astype(
        np.uint16
    )  # they add up to 256
    mixed = source[..., 0] * red + source[..., 1] * green + source[..., 2] * blue
    return np.repeat((mixed >> 8).astype(np.uint8)[..., None], 3, axis=-1)


def as_tensor(clips: Pixels) -> Tensor:
    """The view (..., T, 3, H, W) of clips in memory (..., T, H, W, 3)."""
    return torch.from_numpy(clips).movedim(-1, -3)


def normalise(clips: Tensor) -> Tensor:
    """uint8 (..., 3, H, W) to float32 with ImageNet's mean and deviation, where the clips are, keeping their layout."""
    mean = 255 * torch.tensor(IMAGENET_MEAN, device=clips.device)[:, None, None]
    deviation = 255 * torch.tensor(IMAGENET_STD, device=clips.device)[:, None, None]
    return clips.float().sub_(mean).div_(deviation)
