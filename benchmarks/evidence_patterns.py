"""Clips of identities that no single frame, or no single part, tells apart.

    identity (B,) -> motion | disordered | arrangement -> patterns (B, T, K), 0..3 -> film -> uint8 clips

A pattern fills a part of a frame; there are four, and six orders in which four things can follow each other in a circle.
Those are the six identities. Where a clip begins in its circle is drawn anew each time, so every part of every frame shows
each pattern equally often, whoever is seen.

* `motion`: all parts show the same pattern, and the order is that of the frames. A clip is two full turns: whatever the
  identity, it holds the same frames, and what does not look at their order is at chance by construction.
* `disordered`: the same frames shuffled, which nobody can tell apart.
* `arrangement`: all frames are the same, and the order is that of the four parts from head to foot. What adds up votes of
  single parts, as a linear map of concatenated stripes does, cannot count an order; what sees two parts at once can.

Legend: B clips, T frames, K parts.
"""

import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from reid.types import Modality

NUM_PATTERNS = NUM_PARTS = 4
ORDERS = torch.tensor([(0, *rest) for rest in itertools.permutations(range(1, NUM_PATTERNS))])
NUM_IDENTITIES = len(ORDERS)
TURNS = 2

Draw = Callable[[Tensor, torch.Generator], Tensor]


def circle(identity: Tensor, length: int, generator: torch.Generator) -> Tensor:
    """Patterns in the order of each identity (B,), from a random place of the circle on: (B, length)."""
    start = torch.randint(NUM_PATTERNS, (len(identity), 1), generator=generator)
    places = (start + torch.arange(length)) % NUM_PATTERNS
    return ORDERS[identity].gather(1, places)


def motion(identity: Tensor, generator: torch.Generator) -> Tensor:
    """(B,) -> patterns (B, T, K), T = 8."""
    turns = circle(identity, TURNS * NUM_PATTERNS, generator)
    return turns[:, :, None].expand(-1, -1, NUM_PARTS)


def disordered(identity: Tensor, generator: torch.Generator) -> Tensor:
    """`motion` with the frames of every clip in an order of its own."""
    patterns = motion(identity, generator)
    order = torch.rand(patterns.shape[:2], generator=generator).argsort(1)
    return patterns.gather(1, order[:, :, None].expand_as(patterns))


def arrangement(identity: Tensor, generator: torch.Generator) -> Tensor:
    """(B,) -> patterns (B, T, K), T = 2."""
    return circle(identity, NUM_PARTS, generator)[:, None].expand(-1, 2, -1)


def patterns_alone(identity: Tensor, _: torch.Generator) -> Tensor:
    """(B,) -> patterns (B, 1, K): here the four patterns are the identities."""
    return identity[:, None, None].expand(-1, 1, NUM_PARTS)


def film(patterns: Tensor, modality: Modality, generator: torch.Generator, side: int = 16) -> Tensor:
    """Patterns (B, T, K) -> uint8 clips (B, T, 3, K * side, 2 * side): each part is a grating in one of four directions.

    Every frame has noise and its own place of the bars; every clip its own light, contrast and, if visible, colours.
    """
    clips, frames, parts = patterns.shape

    def random(*shape: int) -> Tensor:
        return torch.rand(clips, *shape, generator=generator)

    down, right = torch.meshgrid(
        torch.arange(side, dtype=torch.float32), torch.arange(2 * side, dtype=torch.float32), indexing="ij"
    )
    angle = patterns[..., None, None] * math.pi / NUM_PATTERNS
    along = angle.cos() * right + angle.sin() * down  # (B, T, K, side, 2*side)
    wave = torch.sin(2 * math.pi * (along / 8 + random(frames, parts, 1, 1)))
    pictures = wave.flatten(2, 3)[:, :, None]  # (B, T, 1, K*side, 2*side)
    colours = (
        random(1, 3, 1, 1) if modality is Modality.VISIBLE else random(1, 1, 1, 1).expand(-1, -1, 3, -1, -1)
    )
    light = 90 + 60 * random(1, 1, 1, 1)
    noise = torch.randn(clips, frames, 3, *pictures.shape[-2:], generator=generator)
    return (light + (20 + 50 * colours) * pictures + 8 * noise).clamp(0, 255).to(torch.uint8)
