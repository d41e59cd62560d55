"""reid/tracking/mlflow.py: what stands in the journal stands in MLflow, once, however often it was sent."""

import json
import math
import os
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest
from mlflow import MlflowClient

from reid.tracking import names, target
from reid.tracking.journal import FILE_NAME, read
from reid.tracking.mlflow import REFUSED_NAME, Replay, RunDeletedError, client_of, num_refused, reap
from reid.tracking.runs import bury, summary
from reid.tracking.sender import sync
from reid.tracking.target import AddressError
from reid.tracking.tracker import OFFLINE, Status, Tracker, tracking_uri_of


def journal_of(run, *, steps=range(5), status=Status.FINISHED, **options):
    with Tracker.open(
        run, experiment="an experiment", run_name="first try", tracking_uri=OFFLINE, **options
    ) as tracker:
        tracker.params({names.Param.SEED: 3})
        tracker.dataset("synthetic-vcm", "d" * 64, "query", "/data", {"tracklets": 3})
        for step in steps:
            tracker.metrics(step, {names.Metric.LOSS: 1 / (step + 1), names.Metric.NONFINITE: 0})
        (run / "config.yaml").write_text("seed: 3")
        tracker.artifact(run / "config.yaml", names.Folder.CONFIG)
        (run / "step-4").mkdir(exist_ok=True)
        tracker.checkpoint(run / "step-4", "c" * 64, steps[-1], {names.Metric.MEAN_MAP: 0.5})
        tracker.finish(status)


class Found:
    """What a database holds of the runs in one folder."""

    def __init__(self, runs):
        self.client = MlflowClient(f"sqlite:///{runs}/mlflow.db")
        self.experiment = self.client.get_experiment_by_name("an experiment").experiment_id
        self.runs = self.client.search_runs([self.experiment])
        self.run = self.runs[0]

    def history(self, key):
        return [(m.step, m.value) for m in self.client.get_metric_history(self.run.info.run_id, key)]

    def models(self):
        return self.client.search_logged_models([self.experiment])


def test_a_run_arrives_whole(runs):
    journal_of(runs / "a")
    sync(runs / "a", tracking_uri_of(runs / "a"))
    found = Found(runs)
    run = found.run
    assert (run.info.run_name, run.info.status) == ("first try", "FINISHED")
    assert run.data.params == {"seed": "3"}
    assert found.history("train/loss") == [(step, 1 / (step + 1)) for step in range(5)]
    (data,) = run.inputs.dataset_inputs
    assert (data.dataset.name, data.dataset.digest, data.tags[0].value) == (
        "synthetic-vcm",
        "d" * 36,
        "query",
    )
    artifact = Path(found.client.download_artifacts(run.info.run_id, "config/config.yaml"))
    assert artifact.read_text() == "seed: 3"
    (model,) = found.models()
    assert model.tags["sha256"] == "c" * 64
    assert [(m.key, m.value, m.step, m.dataset_name, m.dataset_digest) for m in model.metrics] == [
        ("mean/map", 0.5, 4, "synthetic-vcm", "d" * 36)
    ]
    assert [(output.model_id, output.step) for output in run.outputs.model_outputs] == [(model.model_id, 4)]


def test_sending_again_from_the_beginning_changes_nothing(runs):
    journal_of(runs / "a")
    sync(runs / "a", tracking_uri_of(runs / "a"))
    before = Found(runs)
    (runs / "a" / target.FILE_NAME).unlink()
    assert sync(runs / "a", tracking_uri_of(runs / "a")) > 0
    after = Found(runs)
    assert len(after.runs) == 1
    assert after.run.to_dictionary() == before.run.to_dictionary()
    for key in ("train/loss", "mean/map", "health/nonfinite"):
        assert after.history(key) == before.history(key)
    assert len(after.models()) == 1


def test_only_what_is_new_is_sent(runs):
    journal_of(runs / "a", status=Status.SCHEDULED)
    uri = tracking_uri_of(runs / "a")
    assert sync(runs / "a", uri) > 0
    assert Found(runs).run.info.status == "SCHEDULED"
    assert sync(runs / "a", uri) == 0
    journal_of(runs / "a", steps=range(3, 8), resume=True)
    assert 0 < sync(runs / "a", uri) < 20
    found = Found(runs)
    assert len(found.runs) == 1
    assert found.run.info.status == "FINISHED"
    assert found.history("train/loss") == [(step, 1 / (step + 1)) for step in range(8)]
    assert len(found.models()) == 2


def test_a_run_folder_may_be_sent_from_another_place(runs, tmp_path):
    journal_of(runs / "a")
    sync(runs / "a", tracking_uri_of(runs / "a"))
    moved = tmp_path / "elsewhere" / "b"
    moved.parent.mkdir()
    (runs / "a").rename(moved)
    journal_of(moved, steps=range(4, 9), resume=True)
    (moved / target.FILE_NAME).unlink()
    sync(moved, f"sqlite:///{runs}/mlflow.db")
    found = Found(runs)
    assert len(found.runs) == 1
    assert len(found.history("train/loss")) == 9


def test_a_server_that_lost_its_database_gets_everything_again(runs, empty_database):
    journal_of(runs / "a")
    sync(runs / "a", tracking_uri_of(runs / "a"))
    with (
        closing(sqlite3.connect(empty_database)) as empty,
        closing(sqlite3.connect(runs / "mlflow.db")) as database,
    ):
        empty.backup(database)
    journal_of(runs / "a", steps=range(4, 7), resume=True)
    sync(runs / "a", tracking_uri_of(runs / "a"))
    found = Found(runs)
    assert len(found.history("train/loss")) == 7
    assert found.run.data.params == {"seed": "3"}
    assert found.run.info.status == "FINISHED"


def test_infinities_become_gaps_and_many_points_arrive_in_order(runs):
    with Tracker.open(runs / "a", experiment="an experiment", run_name="x", tracking_uri=OFFLINE) as tracker:
        for step in range(2500):
            tracker.metrics(step, {"train/loss": math.inf if step == 7 else float(step)})
    sync(runs / "a", tracking_uri_of(runs / "a"))
    history = Found(runs).history("train/loss")
    assert len(history) == 2500
    assert math.isnan(history[7][1])
    assert history[-1] == (2499, 2499.0)


def test_a_record_that_the_server_refuses_is_named_and_the_others_arrive(runs):
    with Tracker.open(runs / "a", experiment="an experiment", run_name="x", tracking_uri=OFFLINE) as tracker:
        tracker.params({"seed": 1})
    sync(runs / "a", tracking_uri_of(runs / "a"))
    journal = (runs / "a" / FILE_NAME).read_bytes()
    (runs / "a" / FILE_NAME).write_bytes(journal[: journal.index(b'{"sequence":3')])  # before the parameters
    with Tracker.open(runs / "a", experiment="e", run_name="x", tracking_uri=OFFLINE, resume=True) as tracker:
        tracker.params({"seed": 2})
        tracker.metrics(1, {"train/loss": 1.0})
    (runs / "a" / target.FILE_NAME).unlink()
    sync(runs / "a", tracking_uri_of(runs / "a"))
    found = Found(runs)
    assert found.run.data.params == {"seed": "1"}
    assert found.history("train/loss") == [(1, 1.0)]
    (refused,) = [json.loads(line) for line in (runs / "a" / REFUSED_NAME).read_text().splitlines()]
    assert "seed" in refused["reason"]
    assert num_refused(runs / "a", tracking_uri_of(runs / "a")) == 1
    assert num_refused(runs / "a", "http://elsewhere") == 0


def test_a_run_that_was_deleted_on_the_server_loses_nothing_and_goes_on_once_it_is_restored(runs):
    uri = tracking_uri_of(runs / "a")
    with Tracker.open(runs / "a", experiment="an experiment", run_name="x", tracking_uri=OFFLINE) as tracker:
        tracker.metrics(1, {"train/loss": 1.0})
        sync(runs / "a", uri)
        client, run_id = Found(runs).client, Found(runs).run.info.run_id
        client.delete_run(run_id)
        tracker.metrics(2, {"train/loss": 2.0})
    offset = target.load(runs / "a", uri).offset
    with pytest.raises(
        RunDeletedError, match=f"was deleted on {uri}, .*mlflow runs restore --run-id {run_id}"
    ):
        sync(runs / "a", uri)
    assert target.load(runs / "a", uri).offset == offset
    assert num_refused(runs / "a", uri) == 0
    client.restore_run(run_id)
    sync(runs / "a", uri)
    assert Found(runs).history("train/loss") == [(1, 1.0), (2, 2.0)]
    assert Found(runs).run.info.status == "FINISHED"


def test_a_run_that_is_deleted_between_two_batches_is_not_taken_for_records_that_are_refused(runs):
    uri, run = tracking_uri_of(runs / "a"), runs / "a"
    with Tracker.open(run, experiment="an experiment", run_name="x", tracking_uri=OFFLINE) as tracker:
        tracker.metrics(1, {"train/loss": 1.0})
    records = list(read(run))
    replay = Replay(run, uri)
    replay.send(records[:2], 100)
    Found(runs).client.delete_run(Found(runs).run.info.run_id)
    with pytest.raises(RunDeletedError):
        replay.send(records[2:], 200)
    assert not (run / REFUSED_NAME).exists()


def test_a_journal_that_lost_its_end_is_sent_from_the_beginning(runs):
    """As after a power loss: the server knows records that lie on no disk, and others were written in their place."""
    uri, run = tracking_uri_of(runs / "a"), runs / "a"
    journal_of(run, steps=range(3), status=Status.SCHEDULED)
    kept = (run / FILE_NAME).stat().st_size
    journal_of(run, steps=range(3, 6), resume=True)
    sync(run, uri)
    os.truncate(run / FILE_NAME, kept)
    with Tracker.open(
        run, experiment="an experiment", run_name="x", tracking_uri=OFFLINE, resume=True
    ) as tracker:
        for step in range(3, 30):
            tracker.metrics(step, {"train/loss": -1.0})
        tracker.tags({names.Tag.HOST: "another"})
    sync(run, uri)
    found = Found(runs)
    assert found.run.data.tags[names.Tag.RESTARTS] == summary(run).tags[names.Tag.RESTARTS] == "1"
    assert found.run.data.tags[names.Tag.HOST] == "another"
    assert {(step, -1.0) for step in range(3, 30)} <= set(found.history("train/loss"))
    assert sync(run, uri) == 0


def test_tags_that_are_taken_away_vanish_from_the_server(runs):
    uri, run = tracking_uri_of(runs / "a"), runs / "a"
    for lambda1 in (1.0, 2.0, 1.0):
        with Tracker.open(
            run, experiment="an experiment", run_name="x", tracking_uri=OFFLINE, resume=True
        ) as tracker:
            tracker.params({names.Param.LAMBDA1: lambda1})
        sync(run, uri)
        tags = Found(runs).run.data.tags
        assert tags.get(names.changed(names.Param.LAMBDA1)) == (None if lambda1 == 1.0 else "2.0")
    (run / target.FILE_NAME).unlink()
    sync(run, uri)  # all of it again, and it ends the same
    assert Found(runs).run.data.tags == tags


def test_who_ended_a_run_is_told_until_it_goes_on(runs):
    uri, run = tracking_uri_of(runs / "a"), runs / "a"
    tracker = Tracker.open(run, experiment="an experiment", run_name="x", tracking_uri=OFFLINE)
    tracker._journal.close()  # it dies
    bury(run, "a test")
    sync(run, uri)
    assert Found(runs).run.data.tags[names.Tag.ENDED_BY] == "a test"
    with Tracker.open(
        run, experiment="an experiment", run_name="x", tracking_uri=OFFLINE, resume=True
    ) as tracker:
        sync(run, uri)
        assert names.Tag.ENDED_BY not in Found(runs).run.data.tags
        replay = Replay(run, uri)
        replay.beat(time.time() - 1000)
        assert reap(uri, "an experiment", 300) == ["x"]
        assert "silence" in Found(runs).run.data.tags[names.Tag.ENDED_BY]
        replay.beat(time.time())
        assert names.Tag.ENDED_BY not in Found(runs).run.data.tags
        replay.beat(time.time() - 1000)
        reap(uri, "an experiment", 300)
    sync(run, uri)
    found = Found(runs).run
    assert (found.info.status, found.data.tags.get(names.Tag.ENDED_BY)) == ("FINISHED", None)


@pytest.mark.parametrize(
    "address",
    ["nonsense://x", "http://127.0.0.1:abc", "http://127.0.0.1:99999", "http://", "offline", "./mlruns"],
)
def test_an_address_that_can_never_be_is_a_mistake(runs, address):
    journal_of(runs / "a")
    with pytest.raises(AddressError, match="expected http"):
        sync(runs / "a", address)


def test_a_file_that_has_gone_is_named_and_holds_up_nothing(runs):
    with Tracker.open(runs / "a", experiment="an experiment", run_name="x", tracking_uri=OFFLINE) as tracker:
        (runs / "a" / "gone.txt").write_text("x")
        tracker.artifact(runs / "a" / "gone.txt", names.Folder.CONFIG)
        (runs / "a" / "gone.txt").unlink()
        tracker.metrics(1, {"train/loss": 1.0})
    sync(runs / "a", tracking_uri_of(runs / "a"))
    assert Found(runs).history("train/loss") == [(1, 1.0)]
    assert "gone.txt is no longer there" in (runs / "a" / REFUSED_NAME).read_text()


def test_a_child_hangs_below_its_parent_also_when_the_parent_comes_later(runs):
    for name, parent in {"parent": None, "child": runs / "parent"}.items():
        with Tracker.open(
            runs / name, experiment="an experiment", run_name=name, tracking_uri=OFFLINE, parent=parent
        ) as tracker:
            tracker.metrics(1, {"mean/map": 0.5})
    for name in ("child", "parent"):
        sync(runs / name, tracking_uri_of(runs / name))
    with Tracker.open(
        runs / "child", experiment="an experiment", run_name="child", tracking_uri=OFFLINE, resume=True
    ) as tracker:
        tracker.metrics(2, {"mean/map": 0.6})
    sync(runs / "child", tracking_uri_of(runs / "child"))
    by_name = {run.info.run_name: run for run in Found(runs).runs}
    assert by_name["child"].data.tags["mlflow.parentRunId"] == by_name["parent"].info.run_id
    assert "mlflow.parentRunId" not in by_name["parent"].data.tags


def test_an_experiment_shows_the_agreed_columns_and_what_somebody_changed_stays(runs):
    journal_of(runs / "a")
    uri = tracking_uri_of(runs / "a")
    sync(runs / "a", uri)
    client = Found(runs).client
    found = client.get_experiment_by_name("an experiment")
    shown = json.loads(found.tags[names.ExperimentTag.VIEW])["selectedColumns"]
    assert {"metrics.`infrared_to_visible/rank1`", "params.`variant`"} < set(shown)
    assert (
        f"/{found.experiment_id}/runs?viewStateShareKey=agreed" in found.tags[names.ExperimentTag.DESCRIPTION]
    )
    client.set_experiment_tag(found.experiment_id, names.ExperimentTag.DESCRIPTION, "mine")
    journal_of(runs / "b")
    sync(runs / "b", uri)
    assert client.get_experiment_by_name("an experiment").tags[names.ExperimentTag.DESCRIPTION] == "mine"


def test_user_and_password_of_an_address_are_given_to_mlflow_apart_from_it(monkeypatch):
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(name, "")
    assert (
        client_of("https://ann:a%40b@mlflow.example:5000/path").tracking_uri
        == "https://mlflow.example:5000/path"
    )
    assert (os.environ["MLFLOW_TRACKING_USERNAME"], os.environ["MLFLOW_TRACKING_PASSWORD"]) == ("ann", "a@b")


def test_runs_whose_node_vanished_are_closed_and_no_others(runs):
    journal_of(runs / "ended")
    sync(runs / "ended", tracking_uri_of(runs / "ended"))
    client, experiment = Found(runs).client, Found(runs).experiment
    now = int(time.time())
    for name, beat in {"vanished": now - 1000, "alive": now - 10, "foreign": None}.items():
        run = client.create_run(experiment, run_name=name)
        if beat is not None:
            client.set_tag(run.info.run_id, names.Tag.HEARTBEAT, str(beat))
    assert reap(f"sqlite:///{runs}/mlflow.db", "an experiment", 300) == ["vanished"]
    statuses = {run.info.run_name: run.info.status for run in Found(runs).runs}
    expected = {"first try": "FINISHED", "vanished": "KILLED", "alive": "RUNNING", "foreign": "RUNNING"}
    assert statuses == expected
    with pytest.raises(ValueError, match="has no experiment 'other'"):
        reap(f"sqlite:///{runs}/mlflow.db", "other", 300)
    with pytest.raises(ConnectionError, match=r"^http://127\.0\.0\.1:9: "):
        reap("http://me:secret@127.0.0.1:9", "an experiment", 300)
