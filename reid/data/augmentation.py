"""What training does to the pictures of a clip: drawn once a clip, so that all its frames change alike.

    (number of frames, modality, generator) -> Augmentation.draw -> a Change a frame -> Change.apply, on uint8 (H, W, 3)

Every option draws its own numbers whether it is asked for or not, so asking for one leaves the others as they were.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from reid.types import Modality

SMALLEST_ERASED, LARGEST_ERASED = 0.02, 0.4  # shares of the picture
FLATTEST_ERASED = 0.3  # height over width; the tallest is as much taller than wide
ERASED = np.array((124, 116, 104), dtype=np.uint8)  # ImageNet's mean: about zero, once normalised

Pixels = NDArray[np.uint8]


class Erasure(NamedTuple):
    """A rectangle that is painted over: its share of the picture, its height over its width, and its place, 0 to 1."""

    area: float
    aspect: float
    down: float
    right: float

    def within(self, height: int, width: int) -> tuple[slice, slice]:
        """Its rows and columns in a picture of `height` x `width`, as far as the picture goes."""
        area = self.area * height * width
        rows = min(height, round(math.sqrt(area * self.aspect)))
        columns = min(width, round(math.sqrt(area / self.aspect)))
        top, left = int(self.down * (height - rows + 1)), int(self.right * (width - columns + 1))
        return slice(top, top + rows), slice(left, left + columns)


class Change(NamedTuple):
    """What augmentation does to a picture: move it by whole pixels, mirror it, mix its channels to grey, erase a part."""

    down: int
    right: int
    mirrored: bool
    mixture: NDArray[np.uint16] | None  # (3,), in 256ths
    erasure: Erasure | None = None

    def apply(self, source: Pixels, picture: Pixels) -> None:
        """Write the changed `source` to `picture`, both (H, W, 3). What comes in from outside is black."""
        if self.mixture is not None:
            source = _mixed(source, self.mixture)
        if self.mirrored:
            source = torch.from_numpy(source).flip(1).numpy()  # ten times faster than a reversed view
        rows_from, rows_to = _overlap(self.down, source.shape[0])
        columns_from, columns_to = _overlap(self.right, source.shape[1])
        picture[: rows_to.start] = 0
        picture[rows_to.stop :] = 0
        picture[:, : columns_to.start] = 0
        picture[:, columns_to.stop :] = 0
        picture[rows_to, columns_to] = source[rows_from, columns_from]
        if self.erasure is not None:
            picture[self.erasure.within(*picture.shape[:2])] = ERASED


def _overlap(shift: int, length: int) -> tuple[slice, slice]:
    """What stays in sight of a line of pixels that is moved by `shift`: where it was, and where it comes to lie."""
    start, stop = max(0, shift), min(length, length + shift)
    return slice(start - shift, stop - shift), slice(start, stop)


def _mixed(source: Pixels, mixture: NDArray[np.uint16]) -> Pixels:
    mixed = source[..., 0] * mixture[0]  # at most 255 * 256, which uint16 holds
    mixed += source[..., 1] * mixture[1]
    mixed += source[..., 2] * mixture[2]
    mixed >>= 8
    grey = np.empty_like(source)
    for channel in range(3):
        grey[..., channel] = mixed
    return grey


@dataclass(frozen=True, slots=True)
class Augmentation:
    """Pad, crop at random, flip: drawn once per clip, or once per frame. [A32]

    `grey_probability` turns that share of the visible clips grey, by a random mixture of their three channels: the
    infrared camera knows no colour, and a model that is trained from scratch relies on it.

    Channel augmentation (Ye et al., ICCV 2021): `exchange_probability` puts one channel of a visible clip in the place of
    all three; `erasing_probability` paints a rectangle of 2 to 40 % of a clip of either modality with the mean of each
    channel.
    """

    padding: int = 10
    flip_probability: float = 0.5
    grey_probability: float = 0.0
    exchange_probability: float = 0.0
    erasing_probability: float = 0.0
    per_frame: bool = False

    def draw(self, num_frames: int, modality: Modality, generator: np.random.Generator) -> list[Change]:
        """What happens to each of the frames of a clip."""
        moves = [self._move(modality, generator) for _ in range(num_frames if self.per_frame else 1)]
        changes = [self._augment_channels(move, modality, generator) for move in moves]
        return changes if self.per_frame else changes * num_frames

    def _move(self, modality: Modality, generator: np.random.Generator) -> Change:
        down, right = generator.integers(-self.padding, self.padding, size=2, endpoint=True).tolist()
        flip, grey, *cuts = generator.random(4).tolist()
        mixture = None
        if modality is Modality.VISIBLE and grey < self.grey_probability:
            mixture = np.diff([0, *sorted(round(256 * cut) for cut in cuts), 256]).astype(np.uint16)
        return Change(down, right, flip < self.flip_probability, mixture)

    def _augment_channels(self, change: Change, modality: Modality, generator: np.random.Generator) -> Change:
        exchange, channel, erase, area, aspect, down, right = generator.random(7).tolist()
        if modality is Modality.VISIBLE and exchange < self.exchange_probability:
            mixture = np.zeros(3, dtype=np.uint16)
            mixture[int(3 * channel)] = 256
            change = change._replace(mixture=mixture)
        if erase < self.erasing_probability:
            share = SMALLEST_ERASED + area * (LARGEST_ERASED - SMALLEST_ERASED)
            change = change._replace(erasure=Erasure(share, FLATTEST_ERASED ** (1 - 2 * aspect), down, right))
        return change
