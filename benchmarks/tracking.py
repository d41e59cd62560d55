"""What tracking costs the training loop:  python benchmarks/tracking.py

A loop of fixed work (no GPU, about 20 ms a step) writes a dozen metrics at every step, far more often than training does.
It runs without tracking, into a journal alone, with a sender and an SQLite database, and with a sender whose server is
dead. Slices of the four take turns, so that a busy machine slows all alike. Steps are medians of processor time; calls are
clocked on the wall.

Goal: a step at most 1 % longer, and the end delayed by 30 s at most.
"""

import logging
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from reid.tracking import names
from reid.tracking.tracker import OFFLINE, SilentTracker, Status, Tracker
from reid.types import Direction

NUM_SLICES, STEPS_A_SLICE = 12, 50
DEAD_SERVER = "http://127.0.0.1:9"
METRICS = {
    **{names.objective(term): 1.25 for term in names.TERMS},
    **{names.rank(direction, k): 0.5 for direction in Direction for k in (1, 5)},
    names.Metric.LOSS: 2.5,
    names.Metric.LEARNING_RATE: 0.1,
    names.Metric.CLIPS_PER_SECOND: 80.0,
}


def work(matrix: np.ndarray, milliseconds: float) -> None:
    """Multiply until the processor has spent its time, whoever else uses it."""
    end = time.thread_time() + milliseconds / 1000
    while time.thread_time() < end:
        matrix @ matrix


def main() -> None:
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    logging.basicConfig(level=logging.ERROR)
    matrix = np.random.default_rng(0).standard_normal((64, 64))
    with tempfile.TemporaryDirectory() as folder:
        trackers: dict[str, Tracker] = {
            "no tracking": SilentTracker(),
            "journal alone": _opened(Path(folder) / "offline", OFFLINE),
            "sender, SQLite": _opened(Path(folder) / "sqlite", None),
            "sender, server dead": _opened(Path(folder) / "dead", DEAD_SERVER),
        }
        steps: dict[str, list[float]] = {name: [] for name in trackers}
        calls: dict[str, list[float]] = {name: [] for name in trackers}
        for first in range(0, NUM_SLICES * STEPS_A_SLICE, STEPS_A_SLICE):
            for name, tracker in trackers.items():
                for step in range(first, first + STEPS_A_SLICE):
                    started = time.thread_time()
                    work(matrix, 20)
                    before = time.perf_counter()
                    tracker.metrics(step, METRICS)
                    calls[name].append(time.perf_counter() - before)
                    steps[name].append(time.thread_time() - started)
        ends = {name: _finish(tracker) for name, tracker in trackers.items()}
    _report(steps, calls, ends)


def _opened(run_folder: Path, uri: str | None) -> Tracker:
    return Tracker.open(run_folder, experiment="benchmark", run_name=run_folder.name, tracking_uri=uri)


def _finish(tracker: Tracker) -> float:
    started = time.monotonic()
    tracker.finish(Status.FINISHED)
    return time.monotonic() - started


def _report(steps: dict[str, list[float]], calls: dict[str, list[float]], ends: dict[str, float]) -> None:
    floor = statistics.median(steps["no tracking"])
    print(f"{'':<20} {'step, ms':>9} {'longer':>8} {'a call, us':>11} {'p99, us':>9} {'end, s':>7}")
    for name, durations in steps.items():
        step, call = statistics.median(durations), statistics.median(calls[name])
        slow = float(np.quantile(calls[name], 0.99))
        longer = 100 * (step / floor - 1)
        print(
            f"{name:<20} {1e3 * step:9.2f} {longer:7.2f}% {1e6 * call:11.1f} {1e6 * slow:9.1f} {ends[name]:7.1f}"
        )


if __name__ == "__main__":
    main()
