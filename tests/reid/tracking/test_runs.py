"""reid/tracking/runs.py: runs as their journals tell them."""

import os
import subprocess
import sys
import time

import pytest

from reid.tracking import family, names
from reid.tracking.journal import FILE_NAME, Kind, read
from reid.tracking.runs import (
    HEARTBEAT_NAME,
    RUNNING,
    attach,
    bury,
    find,
    find_all,
    reap,
    series,
    stage_ends,
    summary,
)
from reid.tracking.tracker import OFFLINE, Status, Tracker


def opened(folder, **options):
    return Tracker.open(folder, experiment="e", run_name=folder.name, tracking_uri=OFFLINE, **options)


def died(folder):
    """A run whose process ended without a word, an hour ago."""
    tracker = opened(folder)
    tracker.metrics(0, {names.Metric.LOSS: 1.0})
    tracker._journal.close()
    os.utime(folder / FILE_NAME, (time.time() - 3600,) * 2)
    return folder


def test_a_summary_holds_the_latest_of_everything(tmp_path):
    with opened(tmp_path / "a") as tracker:
        tracker.params({names.Param.SEED: 3})
        for step in range(4):
            tracker.metrics(step, {names.Metric.LOSS: 1 / (step + 1), names.Metric.STAGE: 1 + step // 2})
        tracker.finish(Status.SCHEDULED)
    with opened(tmp_path / "a", resume=True) as tracker:
        tracker.tags({names.Tag.HOST: "node7"})
        found = summary(tmp_path / "a")
        assert found.status == RUNNING
    found = summary(tmp_path / "a")
    assert (found.name, found.experiment, found.status) == ("a", "e", "FINISHED")
    assert (found.step, found.num_starts, found.params) == (3, 2, {"seed": "3"})
    assert found.metrics["train/loss"] == 0.25
    assert found.tags["host"] == "node7"
    assert found.started <= found.updated <= time.time()


def test_series_are_ordered_by_step_and_stages_are_found(tmp_path):
    with opened(tmp_path / "a") as tracker:
        for step in (10, 20, 30, 40):
            tracker.metrics(step, {names.Metric.STAGE: 1 + (step > 20)})
        tracker.metrics(15, {names.Metric.LOSS: 1.0})
        tracker.metrics(5, {names.Metric.LOSS: 2.0})
    steps, values = series(tmp_path / "a")["train/loss"]
    assert (steps.tolist(), values.tolist()) == ([5, 15], [2.0, 1.0])
    assert stage_ends(tmp_path / "a") == [20]


def test_runs_are_found_below_a_folder_by_name(tmp_path):
    for name in ("b", "a", "deep/er"):
        opened(tmp_path / name).finish(Status.FINISHED)
    (tmp_path / "empty").mkdir()
    assert [run.relative_to(tmp_path).as_posix() for run in find(tmp_path)] == ["a", "b", "deep/er"]
    assert find_all([tmp_path / "empty", tmp_path / "b"]) == [tmp_path / "b"]
    with pytest.raises(ValueError, match="empty: no run here"):
        find_all([tmp_path / "empty"])
    with pytest.raises(ValueError, match="gone: there is no such folder"):
        find_all([tmp_path / "b", tmp_path / "gone"])


def test_a_folder_without_a_journal_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no run here"):
        summary(tmp_path)


def test_pictures_are_added_to_a_run_that_has_ended_without_starting_it_again(tmp_path):
    opened(tmp_path / "a").finish(Status.FINISHED)
    picture = tmp_path / "a" / "pictures" / "cmc.png"
    picture.parent.mkdir()
    picture.write_bytes(b"png")
    attach(tmp_path / "a", {picture: names.Folder.PICTURES}, {names.Tag.DESCRIPTION: "good"})
    found = summary(tmp_path / "a")
    assert (found.status, found.num_starts, found.tags["mlflow.note.content"]) == ("FINISHED", 1, "good")
    assert [r.data for r in read(tmp_path / "a") if r.kind is Kind.ARTIFACT] == [
        {"path": "pictures/cmc.png", "folder": "pictures"}
    ]
    with pytest.raises(ValueError, match="subpath"):
        attach(tmp_path / "a", {tmp_path / "other.png": names.Folder.PICTURES}, {})


def test_a_dead_trainer_is_buried_but_never_a_living_one(tmp_path):
    tracker = opened(tmp_path / "a")
    code = f"from reid.tracking.runs import bury; from pathlib import Path; print(bury(Path({str(tmp_path / 'a')!r}), ''))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
    tracker._journal.close()
    assert bury(tmp_path / "a", "a test")
    found = summary(tmp_path / "a")
    assert (found.status, found.tags["ended_by"]) == ("KILLED", "a test")


def test_a_run_that_has_ended_is_not_buried(tmp_path):
    opened(tmp_path / "a").finish(Status.FINISHED)
    assert bury(tmp_path / "a", "a test")
    assert summary(tmp_path / "a").status == "FINISHED"


def test_what_waits_in_vain_for_another_start_is_reaped_on_request_but_no_parent(tmp_path):
    opened(tmp_path / "cancelled").finish(Status.SCHEDULED)
    family.begin(tmp_path / "parent", experiment="e", run_name="parent")
    assert reap(list(find(tmp_path)), 0) == []
    assert reap(list(find(tmp_path)), 300, waiting=True) == []
    assert reap(list(find(tmp_path)), 0, waiting=True) == [tmp_path / "cancelled"]
    found = summary(tmp_path / "cancelled")
    assert (found.status, found.tags["ended_by"].split(":")[0]) == ("KILLED", "nobody")


def test_only_runs_that_are_silent_for_long_are_reaped(tmp_path):
    vanished, beating = died(tmp_path / "vanished"), died(tmp_path / "beating")
    (beating / HEARTBEAT_NAME).touch()
    opened(tmp_path / "ended").finish(Status.FAILED)
    assert reap(list(find(tmp_path)), 300) == [vanished]
    assert {run.name: summary(run).status for run in find(tmp_path)} == {
        "vanished": "KILLED",
        "beating": "RUNNING",
        "ended": "FAILED",
    }
