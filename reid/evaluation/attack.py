"""Small changes of a query's pixels, made against the network that is to recognise them.

    clips uint8 (B, T, 3, H, W), a vector (B, D) each to lead away from -> attacked -> pixels float32, the same shape

A metric attack: there are no classes at test, so the attack is on distances (Bai et al., Adversarial Metric Attack and
Defense for Person Re-Identification, 2020), and it goes downhill in steps of equal size inside of a box around the clean
pixels, from a random place of it (projected gradient descent: Madry et al., 2018). With e the embedding and w the vector,

    minimise <e(x), w>   over x   where |x - clean| <= epsilon and 0 <= x <= 255, in every pixel of every frame
    x <- projection of x - step_size * sign(gradient)

w is the mean of the right answers in the gallery, the query's own clean embedding, or the sum of both (`Goal`). Whoever
attacks knows weights, gallery and labels: the worst case, within the bound. Gradients are taken in the precision of the
weights, without autocast. The pixels stay real numbers: no file of 8 bits is written in between.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from reid.data.clips import normalise
from reid.model.network import Network
from reid.types import Embedding, Goal, Modality


@dataclass(frozen=True)
class MetricAttack:
    """Bound and step in grey levels, that is, in 1/255; `seed` decides where the descent begins."""

    epsilon: float = 4.0
    steps: int = 10
    step_size: float = 1.0
    goal: Goal = Goal.MATCH
    seed: int = 0

    def __post_init__(self) -> None:
        wrong = [
            f"{name}: expected {expected}, found {found}"
            for name, expected, found, holds in (
                ("epsilon", "0 to 255 grey levels", self.epsilon, 0 <= self.epsilon <= 255),
                ("steps", "at least 1", self.steps, self.steps >= 1),
                ("step size", "more than 0 grey levels", self.step_size, self.step_size > 0),
            )
            if not holds
        ]
        if wrong:
            raise ValueError(f"metric attack: {'; '.join(wrong)}")

    def describe(self) -> str:
        return (
            f"epsilon {self.epsilon:g}/255, {self.steps} steps of {self.step_size:g}/255 from a random start, away from "
            f"{self.goal.description}"
        )

    def aim(self, clean: Tensor, match: Tensor) -> Tensor:
        """What to lead away from, of the queries' own clean vectors and the means of their right answers, all (B, D)."""
        return {Goal.MATCH: match, Goal.SELF: clean, Goal.BOTH: clean + match}[self.goal]


def attacked(
    network: Network,
    clips: Tensor,
    rows: NDArray[np.int64],
    modality: Modality,
    away_from: Tensor,
    attack: MetricAttack,
    kind: Embedding = Embedding.AUTO,
) -> Tensor:
    """Clips of the manifest's `rows` (B,), uint8 (B, T, 3, H, W), and vectors (B, D), all on the network's device, ->
    pixels in [0, 255], float32 (B, T, 3, H, W), each within epsilon of the clip's.

    The network is left in the mode it was in, its parameters and their gradients untouched.
    """
    precision = next(network.parameters()).dtype
    clean = clips.float()
    lowest, highest = (clean - attack.epsilon).clamp_(min=0), (clean + attack.epsilon).clamp_(max=255)
    pixels = (clean + attack.epsilon * _start(clips, rows, attack.seed)).clamp(lowest, highest)
    with _differentiable(network), torch.enable_grad():
        for _ in range(attack.steps):
            pixels.requires_grad_()
            vectors = network.embed(normalise(pixels.clone()).to(precision), modality, kind)
            (slope,) = torch.autograd.grad((vectors * away_from).sum(), pixels)
            pixels = (pixels.detach() - attack.step_size * slope.sign()).clamp(lowest, highest)
    return pixels


def _start(clips: Tensor, rows: NDArray[np.int64], seed: int) -> Tensor:
    """Where in the box the descent begins, (B, T, 3, H, W) in [-1, 1]: a function of seed and row of the manifest."""
    frames, channels, height, width = clips.shape[1:]
    places = np.stack(
        [
            np.random.Generator(np.random.Philox([seed, row])).random(
                (frames, height, width, channels), dtype=np.float32
            )
            for row in rows.tolist()
        ]
    )
    return torch.from_numpy(2 * places - 1).movedim(-1, -3).to(clips.device)


@contextmanager
def _differentiable(network: Network) -> Iterator[None]:
    """Within, the network computes as in evaluation, and gradients pass through it.

    cuDNN's LSTM has a backward in training mode only; without dropout, which ours has not, the mode changes nothing else.
    """
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    for module, _ in modes:
        if isinstance(module, nn.LSTM):
            module.train()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
