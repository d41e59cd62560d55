"""reid/tracking/tracker.py: what the loop says stands in the journal once, whatever happens around it."""

import math
import subprocess
import sys

import pytest

from reid.tracking import family, names
from reid.tracking.journal import Kind, header, read
from reid.tracking.runs import summary
from reid.tracking.target import Target, save
from reid.tracking.tracker import OFFLINE, SilentTracker, Status, Tracker, destination_of, tracking_uri_of


def offline(run_folder, **options):
    return Tracker.open(run_folder, experiment="test", run_name="a run", tracking_uri=OFFLINE, **options)


def records_of(run_folder, kind):
    return [record for record in read(run_folder) if record.kind is kind]


def values_of(run_folder, key):
    return [(r.step, r.data[key]) for r in records_of(run_folder, Kind.METRICS) if key in r.data]


def status_of(run_folder):
    return records_of(run_folder, Kind.FINISH)[-1].data["status"]


def test_everything_said_stands_in_the_journal(tmp_path):
    run = tmp_path / "run"
    with offline(run) as tracker:
        tracker.params({names.Param.SEED: 3})
        tracker.tags({names.Tag.HOST: "node1"})
        tracker.description("**81.2 %**")
        tracker.metrics(10, {names.Metric.LOSS: 0.5, names.Metric.NONFINITE: math.inf})
        tracker.dataset("synthetic-vcm", "d" * 64, "train", "/data", {"tracklets": 3})
        (run / "config.yaml").write_text("seed: 3")
        tracker.artifact(run / "config.yaml", names.Folder.CONFIG)
    assert header(run)["name"] == "a run"
    assert records_of(run, Kind.PARAMS)[0].data == {"seed": "3"}
    tags = {key: value for record in records_of(run, Kind.TAGS) for key, value in record.data.items()}
    assert (tags["host"], tags["mlflow.note.content"], tags["restarts"]) == ("node1", "**81.2 %**", "0")
    assert records_of(run, Kind.METRICS)[0].data == {"train/loss": 0.5, "health/nonfinite": math.inf}
    assert records_of(run, Kind.DATASET)[0].data["profile"] == {"tracklets": 3}
    assert records_of(run, Kind.ARTIFACT)[0].data == {"path": "config.yaml", "folder": "config"}


@pytest.mark.parametrize(
    ("error", "status"),
    [(None, Status.FINISHED), (RuntimeError("x"), Status.FAILED), (KeyboardInterrupt(), Status.KILLED)],
)
def test_how_the_block_ends_is_how_the_run_ended(tmp_path, error, status):
    def body():
        with offline(tmp_path):
            if error is not None:
                raise error

    if error is None:
        body()
    else:
        with pytest.raises(type(error)):
            body()
    assert status_of(tmp_path) == status


def test_the_first_ending_counts(tmp_path):
    with offline(tmp_path) as tracker:
        tracker.finish(Status.SCHEDULED)
    assert [record.data["status"] for record in records_of(tmp_path, Kind.FINISH)] == ["SCHEDULED"]


def test_a_resumed_run_keeps_its_uid_and_writes_no_point_twice(tmp_path):
    with offline(tmp_path) as tracker:
        for step in range(6):
            tracker.metrics(step, {names.Metric.LOSS: 1 / (step + 1)})
    uid = header(tmp_path)["uid"]
    with offline(tmp_path, resume=True) as tracker:
        for step in range(3, 9):
            tracker.metrics(step, {names.Metric.LOSS: 1 / (step + 1)})
    assert header(tmp_path)["uid"] == uid
    assert values_of(tmp_path, "train/loss") == [(step, 1 / (step + 1)) for step in range(9)]
    assert values_of(tmp_path, "health/resume_mismatch") == [(6, 0.0)]
    assert len(records_of(tmp_path, Kind.START)) == 2


def test_values_that_differ_after_a_resume_are_counted_and_the_first_ones_kept(tmp_path):
    with offline(tmp_path) as tracker:
        tracker.metrics(0, {names.Metric.LOSS: 1.0, names.Metric.STEP_MS: 10.0})
        tracker.metrics(1, {names.Metric.LOSS: math.nan, names.Metric.STEP_MS: 10.0})
    with offline(tmp_path, resume=True) as tracker:
        tracker.metrics(0, {names.Metric.LOSS: 2.0, names.Metric.STEP_MS: 11.0})
        tracker.metrics(1, {names.Metric.LOSS: math.nan, names.Metric.STEP_MS: 12.0})
        tracker.metrics(2, {names.Metric.LOSS: 3.0})
    assert values_of(tmp_path, "train/loss")[0] == (0, 1.0)
    assert values_of(tmp_path, "speed/step_ms") == [(0, 10.0), (1, 10.0)]
    assert values_of(tmp_path, "health/resume_mismatch") == [(2, 1.0)]


def test_a_metric_that_a_killed_run_did_not_reach_is_written_at_a_known_step(tmp_path):
    with offline(tmp_path) as tracker:
        tracker.metrics(5, {names.Metric.LOSS: 1.0})
    with offline(tmp_path, resume=True) as tracker:
        tracker.metrics(5, {names.Metric.LOSS: 1.0, names.Metric.MEAN_MAP: 0.5})
    assert values_of(tmp_path, "mean/map") == [(5, 0.5)]


def test_a_parameter_that_changes_on_resume_becomes_a_tag(tmp_path):
    with offline(tmp_path) as tracker:
        tracker.params({names.Param.WORLD_SIZE: 2, names.Param.SEED: 1})
    with offline(tmp_path, resume=True) as tracker:
        tracker.params({names.Param.WORLD_SIZE: 4, names.Param.SEED: 1})
    assert [record.data for record in records_of(tmp_path, Kind.PARAMS)] == [{"world_size": "2", "seed": "1"}]
    assert summary(tmp_path).tags["changed.world_size"] == "4"
    with offline(tmp_path, resume=True) as tracker:
        tracker.params({names.Param.WORLD_SIZE: 2, names.Param.SEED: 1})
    assert "changed.world_size" not in summary(tmp_path).tags


def test_the_stage_that_a_run_has_reached_is_a_tag(tmp_path):
    with offline(tmp_path) as tracker:
        for step, stage in ((10, 1), (20, 1), (30, 2)):
            tracker.metrics(step, {names.Metric.STAGE: stage})
    told = [
        record.data[names.Tag.STAGE] for record in records_of(tmp_path, Kind.TAGS) if "stage" in record.data
    ]
    assert told == ["1", "2"]


def test_a_folder_with_a_run_is_not_overwritten_by_accident(tmp_path):
    offline(tmp_path).finish(Status.FINISHED)
    with pytest.raises(ValueError, match=r"already holds the run 'a run'\. Resume it"):
        offline(tmp_path)
    offline(tmp_path, resume=True).finish(Status.FINISHED)


def test_a_checkpoint_shares_the_points_of_its_metrics(tmp_path):
    with offline(tmp_path) as tracker:
        (tmp_path / "step-4").mkdir()
        tracker.metrics(4, {names.Metric.MEAN_MAP: 0.5})
        tracker.checkpoint(
            tmp_path / "step-4", "c" * 64, 4, {names.Metric.MEAN_MAP: 0.5, names.Metric.MEAN_RANK1: 0.25}
        )
    assert values_of(tmp_path, "mean/map") == [(4, 0.5)]
    (checkpoint,) = records_of(tmp_path, Kind.CHECKPOINT)
    times = {key: r.time for r in records_of(tmp_path, Kind.METRICS) for key in r.data}
    assert checkpoint.data["times"] == times
    assert checkpoint.data["path"] == "step-4"


@pytest.mark.parametrize("name", ["", "rank@1", "a(b)", "a=b", "x" * 251, "a\nb"])
def test_names_that_mlflow_refuses_are_refused_where_they_are_made(tmp_path, name):
    with offline(tmp_path) as tracker, pytest.raises(ValueError, match="a name holds"):
        tracker.metrics(0, {name: 1.0})


def test_files_outside_of_the_run_folder_are_refused(tmp_path):
    (tmp_path / "secret").write_text("x")
    with offline(tmp_path / "run") as tracker:
        with pytest.raises(ValueError, match="outside the run folder"):
            tracker.artifact(tmp_path / "secret", names.Folder.CONFIG)
        with pytest.raises(ValueError, match="no such file"):
            tracker.artifact(tmp_path / "run" / "missing", names.Folder.CONFIG)


def test_a_child_knows_its_parent(tmp_path):
    offline(tmp_path / "parent").finish(Status.FINISHED)
    offline(tmp_path / "child", parent=tmp_path / "parent").finish(Status.FINISHED)
    assert header(tmp_path / "child")["parent_uid"] == header(tmp_path / "parent")["uid"]
    assert header(tmp_path / "parent")["parent_uid"] is None


def test_where_a_run_is_sent(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking_uri_of(tmp_path / "runs" / "a") == f"sqlite:///{tmp_path}/runs/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server:5000")
    assert tracking_uri_of(tmp_path / "runs" / "a") == "http://server:5000"
    assert tracking_uri_of(tmp_path / "runs" / "a", "sqlite:////other.db") == "sqlite:////other.db"


def test_a_run_is_sent_later_to_where_it_was_started_for_and_no_secret_is_kept(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run, default = tmp_path / "runs" / "a", f"sqlite:///{tmp_path}/runs/mlflow.db"
    tracker = offline(run)
    tracker.finish(Status.SCHEDULED)
    assert destination_of(run) == default
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:canary@127.0.0.1:9/there")
    options = {"experiment": "test", "run_name": "a run", "resume": True}
    Tracker.open(run, **options).finish(Status.SCHEDULED, wait_seconds=0)
    assert destination_of(run) == "http://me:canary@127.0.0.1:9/there"
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert destination_of(run) == "http://127.0.0.1:9/there"
    assert destination_of(run, "sqlite:////other.db") == "sqlite:////other.db"
    assert b"canary" not in (run / "journal.jsonl").read_bytes()
    offline(run, resume=True).finish(Status.FINISHED)
    assert destination_of(run) == default


def test_a_parent_is_sent_later_to_the_server_that_its_children_brought_it_to(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    family.begin(tmp_path / "full", experiment="e", run_name="full")
    assert destination_of(tmp_path / "full") == f"sqlite:///{tmp_path}/mlflow.db"
    save(tmp_path / "full", "http://server:5000", Target("1", "abc"))
    assert destination_of(tmp_path / "full") == "http://server:5000"


def test_a_silent_tracker_has_every_method_and_writes_nothing(tmp_path):
    with SilentTracker() as tracker:
        tracker.params({"seed": 1})
        tracker.tags({"host": "x"})
        tracker.description("x")
        tracker.metrics(0, {"train/loss": 1.0})
        tracker.artifact(tmp_path / "missing", "config")
        tracker.dataset("a", "b", "train", "c", {})
        tracker.checkpoint(tmp_path / "missing", "d", 0, {})
        tracker.sync()
        tracker.finish(Status.FINISHED)
    assert list(tmp_path.iterdir()) == []
    own = {name for name in vars(Tracker) if not name.startswith("_")} - {"open", "description"}
    assert own <= set(vars(SilentTracker))


def test_the_process_that_trains_never_imports_mlflow_and_the_sender_no_torch():
    code = "import sys, {}; print([m for m in ('mlflow', 'torch') if m in sys.modules])"
    for module in ("reid.tracking.tracker", "reid.tracking.sender"):
        found = subprocess.run(
            [sys.executable, "-c", code.format(module)], capture_output=True, text=True, check=True
        )
        assert found.stdout.strip() == "[]"
