"""What can happen to a film between the camera and the network: eight corruptions, each in five severities.

    clips uint8 (B, T, 3, H, W), rows of the manifest (B,) -> corrupted -> uint8, the same shape

What is random about a corruption (where the occluder stands, which way the picture is shifted) is drawn once a clip and
holds for all its frames; sensor noise alone is drawn anew for every frame. The draw is a function of (seed, row of the
manifest, corruption): it depends neither on batches nor on processes, and the five severities of a clip share it, so that
severity 5 is more of the same and not another accident.

Legend: T frames of H x W pixels, 3 channels; a clip is uint8 (T, 3, H, W). Lengths in pixels are those of a picture that
is 288 pixels high, and shrink with it.
"""

import math
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import NamedTuple

import numpy as np
import simplejpeg
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms.v2.functional import gaussian_blur, resize

SEVERITIES = range(1, 6)
REFERENCE_HEIGHT = 288

Draw = np.random.Generator


class Corruption(StrEnum):
    ILLUMINATION = "illumination"
    BLUR = "blur"
    NOISE = "noise"
    OCCLUSION = "occlusion"
    CROP_SHIFT = "crop_shift"
    FRAME_DROP = "frame_drop"
    JPEG = "jpeg"
    LOW_RESOLUTION = "low_resolution"


class Ladder(NamedTuple):
    """A corruption of one clip, its amount at severity 1 to 5, and the unit of that amount."""

    apply: Callable[[Tensor, float, Draw], Tensor]
    amounts: tuple[float, float, float, float, float]
    unit: str


def corrupted(
    clips: Tensor, rows: NDArray[np.int64], corruption: Corruption, severity: int, *, seed: int = 0
) -> Tensor:
    """Clips (B, T, 3, H, W), uint8 on the CPU, of the manifest's `rows` (B,), corrupted. Severity 0 changes nothing.

    Raises ValueError for any other severity than 0 to 5.
    """
    if severity not in {0, *SEVERITIES}:
        raise ValueError(f"expected a severity from 0 to {SEVERITIES[-1]}, found {severity}")
    if severity == 0:
        return clips
    ladder = LADDERS[corruption]
    changed = torch.empty_like(clips)
    for clip, place, row in zip(clips, changed, rows.tolist(), strict=True):
        place.copy_(ladder.apply(clip, ladder.amounts[severity - 1], _draw(seed, row, corruption)))
    return changed


def _draw(seed: int, row: int, corruption: Corruption) -> Draw:
    place = 1 + list(Corruption).index(corruption)
    return np.random.Generator(np.random.Philox([seed, row, place]))


def _illumination(clip: Tensor, stops: float, draw: Draw) -> Tensor:
    """Darker or brighter by a factor of 2^stops."""
    gain = 2.0 ** (stops * draw.choice([-1, 1]))
    return _as_pixels(clip.float() * gain)


def _blur(clip: Tensor, deviation: float, _: Draw) -> Tensor:
    """Out of focus: a Gaussian of that standard deviation."""
    sigma = deviation * clip.shape[-2] / REFERENCE_HEIGHT
    size = 2 * math.ceil(3 * sigma) + 1
    blurred: Tensor = gaussian_blur(clip, [size, size], [sigma, sigma])
    return blurred


def _noise(clip: Tensor, deviation: float, draw: Draw) -> Tensor:
    """Sensor noise, other in each frame, equal in the three channels: an infrared picture stays grey."""
    frames, _, height, width = clip.shape
    noise = draw.standard_normal((frames, 1, height, width), dtype=np.float32)
    return _as_pixels(clip.float() + deviation * torch.from_numpy(noise))


def _occlusion(clip: Tensor, share: float, draw: Draw) -> Tensor:
    """A flat grey box stands before that share of the picture, and does not move."""
    height, width = (round(length * share**0.5) for length in clip.shape[-2:])
    top, left = (
        round(draw.random() * (whole - part))
        for whole, part in zip(clip.shape[-2:], (height, width), strict=True)
    )
    changed = clip.clone()
    changed[..., top : top + height, left : left + width] = int(draw.integers(256))
    return changed


def _crop_shift(clip: Tensor, share: float, draw: Draw) -> Tensor:
    """The detector's box is off by that share of its height and width, in one direction; edges are repeated."""
    angle = draw.uniform(0, 2 * math.pi)
    height, width = clip.shape[-2:]
    down, right = round(share * height * math.sin(angle)), round(share * width * math.cos(angle))
    rows = (torch.arange(height) - down).clamp(0, height - 1)
    columns = (torch.arange(width) - right).clamp(0, width - 1)
    return clip[..., rows, :][..., columns]


def _frame_drop(clip: Tensor, share: float, draw: Draw) -> Tensor:
    """That share of the frames, rounded up, never arrived: the frame before stands still. One always arrives."""
    num_frames = len(clip)
    num_dropped = min(math.ceil(share * num_frames), num_frames - 1)
    kept = np.sort(draw.permutation(num_frames)[num_dropped:])
    shown = kept[np.maximum(np.searchsorted(kept, np.arange(num_frames), side="right") - 1, 0)]
    return clip[torch.from_numpy(shown)]


def _jpeg(clip: Tensor, quality: float, _: Draw) -> Tensor:
    """Compressed once more, with half the resolution of colour."""
    frames = clip.permute(0, 2, 3, 1).contiguous().numpy()
    coded = (
        simplejpeg.encode_jpeg(frame, quality=round(quality), colorspace="RGB", colorsubsampling="420")
        for frame in frames
    )
    decoded = np.stack([simplejpeg.decode_jpeg(jpeg, "RGB") for jpeg in coded])
    return torch.from_numpy(decoded).permute(0, 3, 1, 2)


def _low_resolution(clip: Tensor, factor: float, _: Draw) -> Tensor:
    """Seen from further away: so many times fewer pixels in height and in width, and enlarged again."""
    height, width = clip.shape[-2:]
    small = resize(clip, [max(1, round(height / factor)), max(1, round(width / factor))], antialias=True)
    enlarged: Tensor = resize(small, [height, width], antialias=True)
    return enlarged


def _as_pixels(values: Tensor) -> Tensor:
    return values.round_().clamp_(0, 255).to(torch.uint8)


LADDERS: Mapping[Corruption, Ladder] = {
    Corruption.ILLUMINATION: Ladder(_illumination, (0.5, 1, 1.5, 2, 2.5), "stops, darker or brighter"),
    Corruption.BLUR: Ladder(_blur, (1, 2, 3, 4.5, 6), "pixels of 288, standard deviation"),
    Corruption.NOISE: Ladder(_noise, (8, 16, 26, 38, 52), "grey levels of 255, standard deviation"),
    Corruption.OCCLUSION: Ladder(_occlusion, (0.1, 0.2, 0.3, 0.4, 0.5), "share of the picture"),
    Corruption.CROP_SHIFT: Ladder(_crop_shift, (0.05, 0.1, 0.15, 0.2, 0.25), "share of height and width"),
    Corruption.FRAME_DROP: Ladder(_frame_drop, (1 / 6, 1 / 3, 1 / 2, 2 / 3, 5 / 6), "share of the frames"),
    Corruption.JPEG: Ladder(_jpeg, (40, 25, 15, 10, 5), "quality of 100"),
    Corruption.LOW_RESOLUTION: Ladder(_low_resolution, (2, 3, 4, 6, 8), "times fewer pixels a side"),
}
