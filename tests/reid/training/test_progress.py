"""reid/training/progress.py: what is said of speed is true of training, and no footer tears the log."""

import logging
import re
import time
from dataclasses import dataclass

import pytest

from reid import config as configuration
from reid.runtime import Runtime
from reid.tracking.names import Metric, objective
from reid.training import progress
from reid.training.progress import Progress

CLOCK = re.compile(r"\d\d:\d\d:\d\d ")


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
    hour_ago = time.time() - 2 * 3600
    shown = Progress(tiny(), runtime, Waiter(), 4, lambda: hour_ago)
    with caplog.at_level(logging.INFO), shown:
        shown.show(5)
        assert caplog.records == []
        monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
        shown.note(MEASURED)
        shown.show(6)
    assert caplog.messages == [
        "stage II epoch 2/2 step 6/8, 0 s left, loss 2 def_id 1.5 accuracy 0.25 lr 0.12, 83.5 clips/s, "
        "3% waiting for data, 1.2 GB, checkpoint 2 h 00 min old"
    ]


MEASURED = {
    Metric.LOSS: 2.0,
    objective("def_id"): 1.5,
    Metric.ACCURACY: 0.25,
    Metric.LEARNING_RATE: 0.12,
    Metric.STAGE: 2.0,
    Metric.CLIPS_PER_SECOND: 83.54,
    Metric.DATA_WAIT_FRACTION: 0.031,
    Metric.GPU_MEMORY_GB: 0.0,
    Metric.RESIDENT_GB: 1.21,
}


def test_before_anything_is_measured_the_line_says_what_is_known(tiny, runtime, monkeypatch, caplog):
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    with caplog.at_level(logging.INFO), Progress(tiny(), runtime, Waiter(), 0) as shown:
        shown.show(1)
    assert caplog.messages == ["stage I epoch 1/2 step 1/8, 0 s left, no checkpoint yet"]


@pytest.mark.slow
def test_at_a_terminal_a_footer_says_the_same_and_the_log_stands_above_it_whole(tiny, tmp_path, terminal):
    path = tmp_path / "config.yaml"
    path.write_text(configuration.to_yaml(tiny()))
    eager = "import sys; from reid import cli, terminal; terminal.REDRAW_SECONDS = 0.0; sys.exit(cli.main())"
    screen, code = terminal("-c", eager, "train", "--config", str(path), "--run", str(tmp_path / "run"))
    assert code == 0, screen.text
    where = [line for line in screen.erased if "step 2/8" in line]
    assert where
    assert "stage I epoch 1/2 step 2/8" in where[0]
    assert "left" in where[0]
    assert any("loss " in line and "def_id " in line and " lr " in line for line in screen.erased)
    assert any("clips/s" in line and "GB, checkpoint " in line for line in screen.erased)
    assert any(line.startswith("embedding ") for line in screen.erased)
    assert not any(CLOCK.match(line) for line in screen.erased)  # nothing that was logged is ever erased
    logged = [line for line in screen.text if CLOCK.match(line)]
    assert sum("checkpoint" in line for line in logged) == 8
    assert any("Infrared to visible" in line for line in screen.text)
    assert not any("━" in line or "clips/s" in line for line in screen.text)  # the footer is gone


@pytest.mark.slow
def test_a_footer_ends_with_the_run_that_fails(tiny, tmp_path, terminal):
    path = tmp_path / "config.yaml"
    explosive = tiny(optimizer={"learning_rate": 1e30, "trunk_learning_rate": 1e30, "warmup_epochs": 0})
    path.write_text(configuration.to_yaml(explosive))
    screen, code = terminal("-m", "reid", "train", "--config", str(path), "--run", str(tmp_path / "run"))
    assert code == 1
    assert any(line.startswith("reid train: step ") for line in screen.text)
    assert not any("clips/s" in line or "━" in line for line in screen.text)
