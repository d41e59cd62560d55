"""reid/tracking/family.py: a parent tells what its children share and what they reached, and MLflow nests them."""

import statistics
import subprocess
import sys

import pytest
from mlflow import MlflowClient

from reid.tracking import names, target
from reid.tracking.family import begin, families, gather, leaves
from reid.tracking.journal import FILE_NAME, Kind, header, read
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
    assert (found.status, found.params) == ("FINISHED", {"variant": "full"})
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
    assert found.params == {"lr": "0.1"} | ({"variant": "full"} if other["variant"] == "full" else {})


def test_rows_whose_difference_no_parameter_shows_have_no_common_mean(tmp_path):
    above = parent(tmp_path / "all")
    rows = []
    for learned in ("one", "other"):
        rows.append(parent(tmp_path / learned, above))
        trial = child(tmp_path / f"{learned}-0", rows[-1], 0, 0.5, variant="full")
        attach(trial, {}, {names.Tag.LEARNED_SHA: learned})
        gather(rows[-1], [trial])
    gather(above, rows)
    assert [summary(row).metrics[RANK1] for row in rows] == [0.5, 0.5]
    assert summary(above).metrics == {}


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
