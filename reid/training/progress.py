"""What a running job says of itself, and how fast it is.

show(step) -> a footer on a terminal, redrawn often; without one a plain line every half minute, in the same words
note(measured), once a log interval -> losses, learning rate, speed, waiting and memory in these words
speeds(step) -> points of the curves
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Protocol, Self

from rich.console import Group, RenderableType

from reid import terminal
from reid.config import Config
from reid.runtime import Runtime
from reid.terminal import LINE_SECONDS, Footer, bar, duration
from reid.tracking import names
from reid.tracking.gauges import Gauges

LEARNED = (
    names.Metric.LOSS,
    *map(names.objective, names.TERMS),
    names.Metric.ACCURACY,
    names.Metric.LEARNING_RATE,
)

log = logging.getLogger(__name__)


class Waiting(Protocol):
    """Something that knows how long its user has waited for it."""

    wait_seconds: float


class Progress:
    """Where a run is, in a `with`, and its speeds over each log interval. Pauses count for neither.

    `saved` tells when the newest checkpoint was published, in seconds since 1970, or None.
    """

    def __init__(
        self,
        config: Config,
        runtime: Runtime,
        batches: Waiting,
        step: int,
        saved: Callable[[], float | None] = lambda: None,
    ) -> None:
        self._config = config
        self._runtime = runtime
        self._batches = batches
        self._saved = saved
        self._gauges = Gauges(runtime.gpu())
        self._footer = Footer(self._drawn)
        self._first = self._step = step
        self._began = self._told = time.monotonic()
        self._mark(step)
        self._noted: Mapping[str, float] = {}

    def __enter__(self) -> Self:
        if self._runtime.leads:
            self._footer.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._footer.__exit__(kind, error, trace)

    def show(self, step: int) -> None:
        """Redraw the footer, or write a line if the last one is old. Called once a step."""
        self._step = step
        self._footer.redraw()
        now = time.monotonic()
        if now - self._told < LINE_SECONDS or not self._runtime.leads or terminal.is_watched():
            return
        self._told = now
        log.info(
            "%s", ", ".join(filter(None, [self._position(), self._left(), self._learned(), self._work()]))
        )

    def note(self, measured: Mapping[str, float]) -> None:
        """What shall be shown from now on."""
        self._noted = measured

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

    def _drawn(self) -> RenderableType:
        position = bar(self._step, self._config.num_steps, self._position(), self._left())
        return Group(position, *filter(None, [self._learned(), self._work()]))

    def _position(self) -> str:
        last = max(self._step - 1, 0)  # the step that was finished
        epochs = self._config.schedule.stage1_epochs + self._config.schedule.stage2_epochs
        return (
            f"stage {'I' * (self._config.stage(last) + 1)} epoch {self._config.epoch(last) + 1}/{epochs} "
            f"step {self._step:,}/{self._config.num_steps:,}"
        )

    def _left(self) -> str:
        done = self._step - self._first
        if not done:
            return ""
        pace = (time.monotonic() - self._began) / done
        return f"{duration(pace * (self._config.num_steps - self._step))} left"

    def _learned(self) -> str:
        return " ".join(
            f"{name.rpartition('/')[2]} {self._noted[name]:.4g}" for name in LEARNED if name in self._noted
        )

    def _work(self) -> str:
        """What the machine does for it, and what would be lost if it stopped."""
        noted, words = self._noted, []
        if names.Metric.CLIPS_PER_SECOND in noted:
            memory = noted[names.Metric.GPU_MEMORY_GB] or noted[names.Metric.RESIDENT_GB]
            words += [
                f"{noted[names.Metric.CLIPS_PER_SECOND]:,.1f} clips/s",
                f"{noted[names.Metric.DATA_WAIT_FRACTION]:.0%} waiting for data",
                f"{memory:.1f} GB",
            ]
        saved = self._saved()
        words.append("no checkpoint yet" if saved is None else f"checkpoint {_age(saved)} old")
        return ", ".join(words)


def _age(since: float) -> str:
    return duration(max(0.0, time.time() - since))
