"""What a running job says of itself, and how fast it is."""

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

from reid.config import Config
from reid.runtime import Runtime
from reid.tracking import names
from reid.tracking.gauges import Gauges

LINE_SECONDS = 30.0

log = logging.getLogger(__name__)


class Waiting(Protocol):
    """Something that knows how long its user has waited for it."""

    wait_seconds: float


class Progress:
    """A plain line every half minute, and speeds over each log interval. Pauses count for neither."""

    def __init__(self, config: Config, runtime: Runtime, batches: Waiting, step: int) -> None:
        self._config = config
        self._runtime = runtime
        self._batches = batches
        self._gauges = Gauges(runtime.gpu())
        self._first = step
        self._began = self._told = time.monotonic()
        self._mark(step)
        self._noted: dict[str, float] = {}

    def show(self, step: int) -> None:
        """Write a line if the last one is old. Called once a step."""
        now = time.monotonic()
        if now - self._told < LINE_SECONDS or not self._runtime.leads:
            return
        self._told = now
        left = (now - self._began) / (step - self._first) * (self._config.num_steps - step)
        values = " ".join(f"{name} {value:.4g}" for name, value in self._noted.items())
        log.info(
            "stage %s epoch %d step %d/%d %s, %.0f min left",
            "I" * (self._config.stage(step - 1) + 1),
            self._config.epoch(step - 1),
            step,
            self._config.num_steps,
            values,
            left / 60,
        )

    def note(self, measured: Mapping[str, float]) -> None:
        """What the next line shall show."""
        shown = (
            names.Metric.LOSS,
            names.Metric.ACCURACY,
            names.Metric.LEARNING_RATE,
            names.Metric.CLIPS_PER_SECOND,
        )
        self._noted = {name.rpartition("/")[2]: measured[name] for name in shown if name in measured}

    def speeds(self, step: int) -> dict[str, float]:
        """Since the last call: clips of all processes a second, ms a step, the part of it spent on waiting, and how busy
        this machine was.
        """
        steps = step - self._marked_step
        seconds = time.monotonic() - self._marked
        clips = 2 * self._config.data.num_identities * self._config.data.num_tracklets
        waited = self._batches.wait_seconds - self._waited
        self._mark(step)
        if not steps:
            return {}
        return {
            names.Metric.CLIPS_PER_SECOND: steps * clips / seconds,
            names.Metric.STEP_MS: 1000 * seconds / steps,
            names.Metric.DATA_WAIT_FRACTION: waited / seconds,
            names.Metric.GPU_MEMORY_GB: self._runtime.memory_gigabytes(),
            **self._gauges.read(),
        }

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Around what is no training."""
        began = time.monotonic()
        try:
            yield
        finally:
            pause = time.monotonic() - began
            self._marked += pause
            self._began += pause

    def _mark(self, step: int) -> None:
        self._marked, self._marked_step, self._waited = time.monotonic(), step, self._batches.wait_seconds
