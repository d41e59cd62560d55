"""Sums on the device, read once a log interval."""

import math

import torch
from torch import Tensor

from reid.runtime import Runtime


class NonFiniteError(RuntimeError):
    """An objective stopped being a number."""


class Meters:
    """Means over the iterations since they were last read. Adding costs no transfer."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, values: dict[str, Tensor]) -> None:
        """One value a name, each a scalar on the device."""
        for name, value in values.items():
            total = value.detach().double()
            self._sums[name] = self._sums[name] + total if name in self._sums else total
            self._counts[name] = self._counts.get(name, 0) + 1

    def read(self, runtime: Runtime) -> dict[str, float]:
        """Means over iterations and processes since the last reading. Called by every process, in the same step."""
        names = sorted(self._sums)
        if not names:
            return {}
        total = runtime.sum(torch.stack([self._sums[name] for name in names])).tolist()
        means = {
            name: value / self._counts[name] / runtime.world for name, value in zip(names, total, strict=True)
        }
        self._sums.clear()
        self._counts.clear()
        return means

    def state(self) -> dict[str, tuple[float, int]]:
        """What was added and not read, as JSON types."""
        return {name: (float(value), self._counts[name]) for name, value in self._sums.items()}

    def restore(self, states: list[dict[str, tuple[float, int]]], runtime: Runtime) -> None:
        """Continue from the `state` of every process. With another number of processes, each takes their mean."""
        own = [states[runtime.rank]] if len(states) == runtime.world else states
        self._sums = {
            name: torch.tensor(
                sum(state[name][0] for state in own) / len(own), dtype=torch.float64, device=runtime.device
            )
            for name in own[0]
        }
        self._counts = {name: count for name, (_, count) in own[0].items()}


def require_finite(means: dict[str, float], step: int) -> None:
    """Raises NonFiniteError naming every mean that is no number."""
    broken = [name for name, mean in means.items() if not math.isfinite(mean)]
    if broken:
        raise NonFiniteError(
            f"step {step}: {', '.join(broken)} stopped being finite within the last log interval. Lower the learning "
            "rate, warm up for longer, or use precision bf16 or fp32; the last checkpoint is from before"
        )
