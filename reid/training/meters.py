"""Sums on the device, read once a log interval, and the first step at which one stopped being finite.

    what an update measures -> add, every step, without a transfer -> read, every process together -> means

A run that leaves the numbers stops there: at the next reading, or before a checkpoint would keep what was spoilt.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from reid.runtime import Runtime


class NonFiniteError(RuntimeError):
    """An objective, a gradient or a weight stopped being a number."""


@dataclass(frozen=True)
class Reading:
    """What an update measured: means over `count` iterations and all processes."""

    count: int
    means: dict[str, float]


class Meters:
    """Of each update, means over the iterations since they were last read."""

    def __init__(self) -> None:
        self._updates: dict[str, _Sums] = {}

    def add(self, update: str, values: dict[str, Tensor], step: int) -> None:
        """Scalars on the device that `update` measured in `step`, from 1 on: the same names every time."""
        if update not in self._updates:
            self._updates[update] = _Sums.zero(tuple(values), next(iter(values.values())).device)
        self._updates[update].add(values, step)

    def read(self, runtime: Runtime) -> dict[str, Reading]:
        """Means since the last reading, by update. Called by every process, in the same step.

        Raises NonFiniteError on all of them if a value was no number.
        """
        if not self._updates:
            return {}
        totals = runtime.sum(torch.cat([sums.total for sums in self._updates.values()])).tolist()
        if not all(map(math.isfinite, totals)):
            self.require_finite(runtime)
        remaining = iter(totals)
        readings = {
            update: Reading(
                sums.count, {name: next(remaining) / sums.count / runtime.world for name in sums.names}
            )
            for update, sums in self._updates.items()
        }
        self._updates.clear()
        return readings

    def require_finite(self, runtime: Runtime) -> None:
        """Raises NonFiniteError on every process if on some process a value was no number since the last reading.

        It names the first step at which that was so, the first such update of that step, and what it measured. Called
        by every process, in the same step; waits for the device.
        """
        broken = {found for process in runtime.collect(self._broken()) for found in process}
        if not broken:
            return
        step, place, _ = min(broken)
        update, sums = list(self._updates.items())[place]
        terms = [name for number, name in enumerate(sums.names) if (step, place, number) in broken]
        raise NonFiniteError(
            f"step {step}: {', '.join(terms)} of the update {update!r} stopped being finite. Lower the learning rate, "
            "warm up for longer, or use precision bf16 or fp32; the last checkpoint is from before"
        )

    def _broken(self) -> list[tuple[int, int, int]]:
        """Step, number of the update and number of the value, of all values that were no number on this process."""
        return [
            (step, place, number)
            for place, sums in enumerate(self._updates.values())
            for number, step in enumerate(sums.broken_at.tolist())
            if step
        ]

    def state(self) -> dict[str, Any]:
        """What was added and not read, as JSON types. All of it is finite in a checkpoint."""
        return {
            update: {"count": sums.count, "sums": dict(zip(sums.names, sums.total.tolist(), strict=True))}
            for update, sums in self._updates.items()
        }

    def restore(self, states: list[dict[str, Any]], runtime: Runtime) -> None:
        """Continue from the `state` of every process. With another number of processes, each takes their mean."""
        own = [states[runtime.rank]] if len(states) == runtime.world else states
        self._updates = {}
        for update, state in own[0].items():
            sums = _Sums.zero(tuple(state["sums"]), runtime.device)
            sums.count = state["count"]
            sums.total += torch.tensor(
                [sum(other[update]["sums"][name] for other in own) / len(own) for name in sums.names],
                dtype=torch.float64,
                device=runtime.device,
            )
            self._updates[update] = sums


@dataclass
class _Sums:
    """Of N values: their sums, and the step at which each sum stopped being finite, or 0; both (N,) on the device."""

    names: tuple[str, ...]
    total: Tensor
    broken_at: Tensor
    count: int = 0

    @classmethod
    def zero(cls, names: tuple[str, ...], device: torch.device) -> "_Sums":
        total = torch.zeros(len(names), dtype=torch.float64, device=device)
        return cls(names, total, torch.zeros_like(total, dtype=torch.int64))

    def add(self, values: dict[str, Tensor], step: int) -> None:
        assert tuple(values) == self.names
        self.total += torch.stack([value.detach().double() for value in values.values()])
        self.broken_at = self.broken_at.where(self.total.isfinite() | (self.broken_at > 0), step)
        self.count += 1
