"""reid/tracking/runs.py: runs as their journals tell them."""

import os
import shutil
import subprocess
import sys
import time

import pytest

from reid.tracking import family, names
from reid.tracking.journal import FILE_NAME, DamagedJournalError, Kind, Record, encode, read
from reid.tracking.runs import (
    EMPTY,
    HEARTBEAT_NAME,
    RUNNING,
    attach,
    bury,
    find,
    find_all,
    reap,
    series,
    settings,
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


def test_a_run_that_is_named_twice_or_was_copied_is_found_once(tmp_path, caplog):
    opened(tmp_path / "b").finish(Status.FINISHED)
    shutil.copytree(tmp_path / "b", tmp_path / "a-copy")
    (tmp_path / "link").symlink_to(tmp_path / "b")
    run = tmp_path / "b"
    assert find_all([run, tmp_path / "link", run, tmp_path / "a-copy" / ".." / "b"]) == [run]
    assert find_all([run, tmp_path]) == [run]
    left_out = f"{tmp_path / 'a-copy'}: a copy of {run}, left out"
    assert caplog.messages == [left_out]
    assert find_all([tmp_path]) == [tmp_path / "a-copy"]
    attach(run, {}, {names.Tag.HOST: "it went on"})
    assert find_all([tmp_path]) == [run]
    assert caplog.messages[-1] == left_out
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / FILE_NAME).touch()
    assert find_all([run, tmp_path / "empty"]) == [run, tmp_path / "empty"]


def test_a_run_that_was_killed_before_its_first_record_is_empty(tmp_path):
    (tmp_path / FILE_NAME).write_bytes(b'{"sequence":0,"ti')
    os.utime(tmp_path / FILE_NAME, (1000.0, 1000.0))
    found = summary(tmp_path)
    assert (found.status, found.name, found.started, found.updated) == (EMPTY, tmp_path.name, 1000.0, 1000.0)


def test_a_run_lasted_as_long_as_its_lives_without_pauses_and_what_came_after(tmp_path):
    """Two lives of 10 and 20 seconds; the second one died, and was found dead an hour later."""
    ends = [{"status": "SCHEDULED"}, {"status": "KILLED", names.Tag.ENDED_BY: "a test"}]
    told = [
        (100, Kind.RUN, {"uid": "u", "experiment": "e", "name": "n", "parent_uid": None}),
        (101, Kind.START, {}),
        (111, Kind.FINISH, ends[0]),
        (500, Kind.START, {}),
        (520, Kind.TAGS, {"a": "b"}),
        (4000, Kind.FINISH, ends[1]),
        (9000, Kind.TAGS, {"a": "c"}),
    ]
    records = [Record(i, time, kind, None, data) for i, (time, kind, data) in enumerate(told)]
    (tmp_path / FILE_NAME).write_bytes(b"".join(map(encode, records)))
    found = summary(tmp_path)
    assert (found.seconds, found.num_starts, found.tags["ended_by"]) == (30.0, 2, "a test")


def test_who_ended_a_run_is_forgotten_when_it_goes_on(tmp_path):
    run = died(tmp_path / "a")
    bury(run, "a test")
    assert summary(run).tags[names.Tag.ENDED_BY] == "a test"
    opened(run, resume=True).finish(Status.FINISHED)
    found = summary(run)
    assert (found.status, found.tags.get(names.Tag.ENDED_BY)) == ("FINISHED", None)


@pytest.mark.parametrize("content", [b"a: [1", b"- 1\n", b"\xff\xfe"])
def test_a_damaged_configuration_is_named(tmp_path, content):
    (tmp_path / names.CONFIGURATION).write_bytes(content)
    with pytest.raises(ValueError, match=f"{tmp_path / names.CONFIGURATION}: damaged, .*") as caught:
        settings(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_record_that_is_missing_is_damage(tmp_path):
    opened(tmp_path / "a").finish(Status.FINISHED)
    path = tmp_path / "a" / FILE_NAME
    first, _, *rest = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([first, *rest]))
    with pytest.raises(DamagedJournalError, match="record 1 expected"):
        summary(tmp_path / "a")


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
    before = len(list(read(tmp_path / "a")))
    attach(tmp_path / "a", {picture: names.Folder.PICTURES}, {})
    assert len(list(read(tmp_path / "a"))) == before + 1
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
