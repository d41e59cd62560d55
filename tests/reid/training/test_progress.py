"""reid/training/progress.py: what is said of speed is true of training, and pauses count for neither."""

import logging
import time
from dataclasses import dataclass

import pytest

from reid.runtime import Runtime
from reid.tracking.names import Metric
from reid.training import progress
from reid.training.progress import Progress


@dataclass
class Waiter:
    wait_seconds: float = 0.0


@pytest.fixture(scope="module")
def runtime() -> Runtime:
    return Runtime.start(precision="fp64", device="cpu", seed=0, deterministic=False)


def test_speeds_count_the_clips_of_all_processes_and_the_time_spent_waiting(tiny, runtime):
    batches = Waiter()
    began = time.monotonic()
    shown = Progress(tiny(), runtime, batches, 3)
    time.sleep(0.04)
    batches.wait_seconds = 0.01
    speeds = shown.speeds(5)
    seconds = 2 * speeds[Metric.STEP_MS] / 1000
    assert 0.04 <= seconds <= time.monotonic() - began
    assert speeds[Metric.CLIPS_PER_SECOND] == pytest.approx(2 * 16 / seconds)
    assert speeds[Metric.DATA_WAIT_FRACTION] == pytest.approx(0.01 / seconds)
    assert speeds[Metric.GPU_MEMORY_GB] == 0
    assert shown.speeds(5) == {}


def test_speeds_are_those_since_they_were_last_read(tiny, runtime):
    batches = Waiter(wait_seconds=100.0)
    shown = Progress(tiny(), runtime, batches, 0)
    time.sleep(0.05)
    shown.speeds(1)
    time.sleep(0.01)
    again = shown.speeds(2)
    assert again[Metric.STEP_MS] >= 10
    assert again[Metric.DATA_WAIT_FRACTION] == 0


def test_a_pause_counts_for_nothing(tiny, runtime):
    began = time.monotonic()
    shown = Progress(tiny(), runtime, Waiter(), 0)
    with shown.paused():
        time.sleep(0.2)
    time.sleep(0.01)
    speeds = shown.speeds(1)
    total = time.monotonic() - began
    assert 10 <= speeds[Metric.STEP_MS] <= 1000 * (total - 0.2)


def test_a_line_says_where_the_run_is_and_only_after_a_while(tiny, runtime, monkeypatch, caplog):
    shown = Progress(tiny(), runtime, Waiter(), 4)
    with caplog.at_level(logging.INFO):
        shown.show(5)
        assert caplog.records == []
        monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
        shown.note({Metric.LOSS: 2.0, Metric.ACCURACY: 0.25, Metric.STAGE: 2.0})
        shown.show(6)
    assert caplog.messages == ["stage II epoch 1 step 6/8 loss 2 accuracy 0.25, 0 min left"]
