"""reid/tracking/family.py: a parent tells what its children share and what they reached, and MLflow nests them."""

import math
import statistics
import subprocess
import sys

import pytest
from mlflow import MlflowClient

from reid.tracking import names, target
from reid.tracking.family import begin, families, gather, leaves
from reid.tracking.journal import FILE_NAME, Kind, header, read
from reid.tracking.mlflow import RunDeletedError
from reid.tracking.runs import attach, find, series, summary
from reid.tracking.sender import sync
from reid.tracking.tracker import OFFLINE, Status, Tracker, tracking_uri_of
from reid.types import Direction

RANK1 = names.rank(Direction.INFRARED_TO_VISIBLE, 1)


def parent(folder, above=None):
    begin(folder, experiment="e", run_name=folder.name, parent=above)
    return folder


def child(folder, above, seed, rank1, *, status=Status.FINISHED, **params):
    with Tracker.open(
        folder, experiment="e", run_name=folder.name, tracking_uri=OFFLINE, parent=above
    ) as tracker:
        tracker.params({names.Param.SEED: seed, **params})
        tracker.metrics(100, {RANK1: rank1, names.Metric.LOSS: 1.0})
        tracker.finish(status)
    return folder


def test_a_parent_holds_mean_and_deviation_of_its_finished_children(tmp_path):
    above = parent(tmp_path / "full")
    children = [
        child(tmp_path / f"seed-{seed}", above, seed, rank1, variant="full")
        for seed, rank1 in enumerate([0.60, 0.62, 0.67])
    ]
    assert gather(above, children, "**63.0**") is Status.FINISHED
    found = summary(above)
    assert (found.status, found.settled_params) == ("FINISHED", {"variant": "full"})
    assert found.metrics == {
        RANK1: pytest.approx(0.63),
        names.deviation(RANK1): pytest.approx(statistics.stdev([0.60, 0.62, 0.67])),
    }
    assert (found.tags["children"], found.tags["mlflow.note.content"]) == ("3 of 3 finished", "**63.0**")


def test_what_has_not_ended_is_waited_for_and_what_failed_is_told(tmp_path):
    above = parent(tmp_path / "full")
    first = child(tmp_path / "a", above, 0, 0.5)
    second = child(tmp_path / "b", above, 1, 0.1, status=Status.SCHEDULED)
    assert gather(above, [first, second]) is Status.SCHEDULED
    assert summary(above).metrics == {RANK1: 0.5}
    with Tracker.open(second, experiment="e", run_name="b", tracking_uri=OFFLINE, resume=True) as tracker:
        tracker.metrics(200, {RANK1: 0.7})
    assert gather(above, [first, second]) is Status.FINISHED
    third = child(tmp_path / "c", above, 2, 0.2, status=Status.KILLED)
    assert gather(above, [first, second, third]) is Status.FAILED
    steps, values = series(above)[RANK1]
    assert (steps.tolist(), values.tolist()) == ([1, 2], [0.5, pytest.approx(0.6)])
    assert summary(above).tags["children"] == "2 of 3 finished"


def test_a_score_that_changes_is_told_anew_and_one_that_does_not_is_not(tmp_path):
    above = parent(tmp_path / "full")
    one = child(tmp_path / "a", above, 0, 0.5)
    for _ in range(2):
        gather(above, [one])
    assert [r.data for r in read(above) if r.kind is Kind.METRICS] == [{RANK1: 0.5}]
    with Tracker.open(one, experiment="e", run_name="a", tracking_uri=OFFLINE, resume=True) as tracker:
        tracker.metrics(300, {RANK1: 0.8})
    gather(above, [one])
    assert summary(above).metrics == {RANK1: 0.8}


@pytest.mark.parametrize("other", [{"variant": "baseline"}, {"variant": "full", "extra": 1}])
def test_children_that_differ_in_more_than_the_seed_have_no_mean(tmp_path, other):
    above = parent(tmp_path / "all")
    children = [
        child(tmp_path / "a", above, 0, 0.5, variant="full", lr=0.1),
        child(tmp_path / "b", above, 1, 0.6, lr=0.1, **other),
    ]
    gather(above, children)
    found = summary(above)
    assert found.metrics == {}
    shared = {"lr": "0.1"} | ({"variant": "full"} if other["variant"] == "full" else {})
    assert found.settled_params == shared


def test_what_held_for_the_first_child_alone_is_taken_back_when_another_one_differs(runs):
    above = parent(runs / "all")
    children = [child(runs / "a", above, 0, 0.5, variant="baseline", lr=0.1)]
    gather(above, children)
    assert summary(above).settled_params == {"seed": "0", "variant": "baseline", "lr": "0.1"}
    assert summary(above).metrics == {RANK1: 0.5}
    uri = tracking_uri_of(above)
    sync(above, uri)
    children.append(child(runs / "b", above, 1, 0.7, variant="full", lr=0.1))
    for _ in range(2):
        gather(above, children)
    found = summary(above)
    assert (found.params, found.settled_params) == ({}, {"lr": "0.1"})
    assert math.isnan(found.metrics[RANK1])
    assert len([r for r in read(above) if r.kind is Kind.METRICS]) == 2
    sync(above, uri)
    told = MlflowClient(uri).get_run(target.load(above, uri).run_id).data
    shared = {key: value for key, value in told.tags.items() if key.startswith(names.SHARED)}
    assert (told.params, shared) == ({}, {names.shared("lr"): "0.1"})
    assert math.isnan(told.metrics[RANK1])


def test_the_row_of_an_experiment_has_what_tables_show_as_parameters(tmp_path):
    begin(tmp_path / "row", experiment="e", run_name="row", tags={names.Tag.ROW: "full"})
    told = {names.Param.VARIANT: "full", names.Param.LAMBDA1: 2.0, names.Param.WORLD_SIZE: 1}
    gather(tmp_path / "row", [child(tmp_path / "a", tmp_path / "row", 0, 0.5, **told)])
    found = summary(tmp_path / "row")
    assert found.params == {"variant": "full", "lambda1": "2.0"}
    assert found.settled_params == {"seed": "0", "variant": "full", "lambda1": "2.0", "world_size": "1"}


def test_a_mean_over_fewer_children_than_before_is_the_newest_on_the_server_too(runs):
    above = parent(runs / "full")
    children = [
        child(runs / name, above, seed, rank1) for name, seed, rank1 in (("a", 0, 0.5), ("b", 1, 0.7))
    ]
    gather(above, children)
    with Tracker.open(
        children[1], experiment="e", run_name="b", tracking_uri=OFFLINE, resume=True
    ) as tracker:
        tracker.finish(Status.SCHEDULED)
    gather(above, children)
    uri = tracking_uri_of(above)
    sync(above, uri)
    told = MlflowClient(uri).get_run(target.load(above, uri).run_id).data.metrics
    assert told[RANK1] == summary(above).metrics[RANK1] == 0.5
    assert math.isnan(told[names.deviation(RANK1)])


def test_a_seed_that_was_run_twice_counts_once(tmp_path):
    above = parent(tmp_path / "full")
    runs = (("a", 0, 0.5), ("again", 0, 0.7), ("b", 1, 0.8))
    gather(above, [child(tmp_path / name, above, seed, rank1) for name, seed, rank1 in runs])
    assert summary(above).metrics[RANK1] == pytest.approx(0.7)
    assert summary(above).metrics[names.deviation(RANK1)] == pytest.approx(statistics.stdev([0.6, 0.8]))


def test_a_parent_of_synthetic_runs_is_synthetic_and_so_is_the_one_above_it(tmp_path):
    root = parent(tmp_path / "root")
    row = parent(tmp_path / "row", root)
    one = child(tmp_path / "a", row, 0, 0.5)
    gather(row, [one])
    assert not summary(row).is_synthetic
    attach(one, {}, {names.Tag.SYNTHETIC: True})
    gather(row, [one])
    gather(root, [row])
    assert summary(row).is_synthetic
    assert summary(root).is_synthetic


def test_a_child_has_the_tags_that_the_runs_above_it_hand_down(tmp_path):
    begin(tmp_path / "root", experiment="e", run_name="root", tags={names.Tag.ABLATION: "table1"})
    begin(
        tmp_path / "row",
        experiment="e",
        run_name="row",
        parent=tmp_path / "root",
        tags={names.Tag.ROW: "full"},
    )
    one = child(tmp_path / "a", tmp_path / "row", 0, 0.5)
    assert names.Tag.ROW not in summary(tmp_path / "root").tags
    for run in (tmp_path / "row", one):
        assert (summary(run).tags["ablation"], summary(run).tags["row"]) == ("table1", "full")


def test_a_run_that_cannot_be_read_is_in_no_family_and_disturbs_none(tmp_path):
    above = parent(tmp_path / "full")
    one = child(tmp_path / "a", above, 0, 0.5)
    for name, content in (("empty", b""), ("damaged", b"damage\n" + (one / FILE_NAME).read_bytes())):
        (tmp_path / name).mkdir()
        (tmp_path / name / FILE_NAME).write_bytes(content)
    assert families(find(tmp_path)) == {above: [one]}


def test_rows_whose_difference_no_parameter_shows_have_no_common_mean(tmp_path):
    above = parent(tmp_path / "all")
    rows = []
    for learned in ("one", "other"):
        rows.append(parent(tmp_path / learned, above))
        trial = child(tmp_path / f"{learned}-0", rows[-1], 0, 0.5, variant="full")
        attach(trial, {}, {names.Tag.LEARNED_SHA: learned})
        gather(rows[-1], [trial])
        gather(above, rows)  # the first row alone has no mean above it either
        assert summary(above).metrics == {}
    assert [summary(row).metrics[RANK1] for row in rows] == [0.5, 0.5]


def test_families_are_found_lower_ones_first(tmp_path):
    root = parent(tmp_path / "ablation")
    groups = [parent(root / name, root) for name in ("a", "b")]
    runs = [child(group / f"seed-{seed}", group, seed, 0.5) for group in groups for seed in range(2)]
    alone = child(tmp_path / "alone", None, 0, 0.5)
    found = families(find(tmp_path))
    assert list(found) == [*groups, root]
    assert found[root] == groups
    assert (leaves(root, found), leaves(groups[1], found), leaves(alone, found)) == (runs, runs[2:], [])


def test_a_parent_without_children_has_nothing_to_gather(tmp_path):
    with pytest.raises(ValueError, match="no run names this one as its parent"):
        gather(parent(tmp_path / "lonely"), [])


def test_a_parent_of_another_experiment_is_refused_and_nothing_is_begun(tmp_path):
    above = parent(tmp_path / "above")
    with pytest.raises(ValueError, match="of the experiment 'e', and cannot hold one of 'other'"):
        Tracker.open(tmp_path / "a", experiment="other", run_name="a", tracking_uri=OFFLINE, parent=above)
    with pytest.raises(ValueError, match="no run here"):
        header(tmp_path / "a")


def test_many_processes_may_begin_the_same_parent(tmp_path):
    code = "import sys; from pathlib import Path; from reid.tracking.family import begin; begin(Path(sys.argv[1]), experiment='e', run_name='p')"
    processes = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "p")]) for _ in range(4)]
    assert [process.wait() for process in processes] == [0] * 4
    assert [record.kind for record in read(tmp_path / "p")] == [Kind.RUN, Kind.TAGS, Kind.FINISH]


def test_a_family_goes_to_one_database_and_a_child_finds_its_parent_from_wherever_both_lie(runs):
    above = parent(runs / "full")
    one = child(above / "seeds" / "0", above, 0, 0.5)
    assert tracking_uri_of(one) == tracking_uri_of(above) == f"sqlite:///{runs}/mlflow.db"
    assert header(one)["parent"] == "../.."
    moved = (runs / "full").rename(runs / "moved")
    assert tracking_uri_of(moved / "seeds" / "0") == f"sqlite:///{runs}/mlflow.db"


def test_sending_a_child_brings_its_parents_along_and_nests_it_below_them(runs):
    root = parent(runs / "ablation")
    group = parent(root / "full", root)
    children = [child(group / f"seed-{seed}", group, seed, 0.5 + seed / 10) for seed in range(2)]
    uri = tracking_uri_of(root)
    for run in children:
        sync(run, uri)
    gather(group, children)
    gather(root, [group])
    for run in find(runs):
        sync(run, uri)
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("e").experiment_id
    found = {run.info.run_name: run for run in client.search_runs([experiment])}
    assert set(found) == {"ablation", "full", "seed-0", "seed-1"}
    above = {
        name: run.data.tags.get("mlflow.parentRunId", "") for name, run in found.items() if name != "ablation"
    }
    ids = {name: run.info.run_id for name, run in found.items()}
    assert above == {"full": ids["ablation"], "seed-0": ids["full"], "seed-1": ids["full"]}
    assert found["full"].data.metrics[RANK1] == pytest.approx(0.55)
    assert {run.info.status for run in found.values()} == {"FINISHED"}


def test_a_parent_that_was_deleted_on_the_server_holds_up_no_child(runs):
    above = parent(runs / "full")
    uri = tracking_uri_of(above)
    sync(above, uri)
    MlflowClient(uri).delete_run(target.load(above, uri).run_id)
    one = child(runs / "a", above, 0, 0.5)
    gather(above, [one])
    assert sync(one, uri) > 0
    assert MlflowClient(uri).get_run(target.load(one, uri).run_id).info.status == "FINISHED"
    with pytest.raises(RunDeletedError):
        sync(above, uri)


def test_a_parent_that_is_gone_or_damaged_holds_up_no_record_of_its_child(runs, tmp_path):
    above = parent(tmp_path / "elsewhere")
    one = child(runs / "a", above, 0, 0.5)
    (above / FILE_NAME).unlink()
    uri = f"sqlite:///{runs}/mlflow.db"
    assert sync(one, uri) > 0
    (above / FILE_NAME).write_bytes(b"damage\n" + (one / FILE_NAME).read_bytes())
    with pytest.raises(ConnectionError, match="did not take it"):
        sync(one, uri)
    history = MlflowClient(uri).get_metric_history(target.load(one, uri).run_id, RANK1)
    assert [point.value for point in history] == [0.5]
