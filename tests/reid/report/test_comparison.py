"""reid/report/comparison.py: runs side by side, with the means and deviations that a hand would find."""

import dataclasses
import json
import time
from pathlib import Path

import pytest

from reid.report.comparison import Comparison, as_records, details, listing
from reid.tracking import names
from reid.tracking.runs import Summary
from reid.types import Direction

I2V, V2I = Direction.INFRARED_TO_VISIBLE, Direction.VISIBLE_TO_INFRARED


def run(name, *, variant="full", seed=0, rank1=None, started=0.0, synthetic=True, **params):
    metrics = {} if rank1 is None else {names.rank(I2V, 1): rank1, names.rank(V2I, 1): rank1 / 2}
    return Summary(
        Path("runs") / name,
        name=name,
        experiment="demo",
        status="FINISHED",
        step=1200,
        started=started,
        updated=time.time() - 7300,
        params={"variant": variant, "seed": str(seed), **params},
        tags={"synthetic": str(synthetic), "host": "node1", "mlflow.note.content": "long text"},
        metrics=metrics,
    )


def test_runs_are_listed_by_their_beginning_with_their_scores():
    table = listing([run("late", rank1=0.5, started=2), run("early", started=1)])
    assert [row[0] for row in table.rows] == ["runs/early", "runs/late"]
    late = dict(zip(table.columns, table.rows[1], strict=True))
    assert (late["status"], late["variant"], late["step"]) == ("FINISHED", "full", "1,200")
    assert (late["R1 I-V"], late["R1 V-I"], late["mAP"]) == ("50.0", "25.0", "-")
    assert late["last sign"] == "2 h"
    assert "SYNTHETIC" in table.title
    assert "SYNTHETIC" not in listing([run("real", synthetic=False)]).title


def is_learned(key: str) -> bool:
    return not key.startswith("data.root")


def compared(*runs: Summary) -> Comparison:
    return Comparison(runs, is_learned)


def test_only_what_differs_is_compared_and_what_belongs_to_the_machine_comes_last_and_faint(tmp_path):
    runs = []
    for name, margin, root in (("a", 0.3, "/x"), ("b", 0.5, "/y"), ("c", 0.5, "/y")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text(
            f"seed: 0\ndata: {{root: {root}}}\nobjective: {{margin: {margin}}}\ntracking: {{run_name: {name}}}"
        )
        runs.append(dataclasses.replace(run(name, dataset="vcm", margin=str(margin)), folder=tmp_path / name))
    table = compared(*runs).differences()
    assert table.rows == (
        ("objective.margin", "0.3", "a"),
        ("", "0.5", "margin=0.5 (2)"),
        ("data.root", "/x", "a"),
        ("", "/y", "margin=0.5 (2)"),
    )
    assert table.faint == {2, 3}


def test_without_configurations_the_parameters_are_compared():
    table = compared(run("a", lambda1="1.0"), run("b", lambda1="2.0", extra="x")).differences()
    assert table.rows == (("extra", "-", "a"), ("", "x", "b"), ("lambda1", "1.0", "a"), ("", "2.0", "b"))
    same = compared(run("a"), run("b")).differences()
    assert same.rows == ()
    assert same.notes == ("The configurations and the data of these runs are all the same.",)


def test_seeds_of_equal_runs_become_a_mean_and_a_deviation():
    runs = [run(f"full-{seed}", seed=seed, rank1=rank1) for seed, rank1 in enumerate([0.60, 0.62, 0.64])]
    runs += [run("baseline-0", variant="baseline", rank1=0.5)]
    table = compared(*runs).scores(I2V)
    full, baseline = (dict(zip(table.columns, row, strict=True)) for row in table.rows)
    assert (full[""], full["seeds"], full["Rank-1"], full["mAP"]) == ("full", "3", "62.0 (2.0)", "-")
    assert (baseline[""], baseline["seeds"], baseline["Rank-1"]) == ("baseline", "1", "50.0")
    assert compared(*runs).scores(V2I).rows[0][2] == "31.0 (1.0)"
    assert table.title == "Infrared to visible on SYNTHETIC data"
    first, _ = compared(*runs).as_records()
    assert (first["group"], first["num_finished"], len(first["runs"])) == ("full", 3, 3)
    assert first["mean"] == {names.rank(I2V, 1): pytest.approx(0.62), names.rank(V2I, 1): pytest.approx(0.31)}
    assert first["deviation"][names.rank(I2V, 1)] == pytest.approx(0.02)


def test_what_has_not_finished_is_named_and_left_out_of_the_mean():
    runs = [run("a", rank1=0.6), run("b", seed=1, rank1=0.1)]
    runs[1].status = "KILLED"
    table = compared(*runs).scores(I2V)
    assert table.rows[0][:3] == ("a", "1", "60.0")
    assert table.notes[1] == "Not finished, and left out: b."


def test_a_seed_that_was_run_twice_counts_once_and_is_told():
    runs = [run("a", rank1=0.5), run("again", rank1=0.7), run("b", seed=1, rank1=0.8)]
    table = compared(*runs).scores(I2V)
    assert table.rows[0][1:3] == ("2", "70.0 (14.1)")
    assert "Some seed was run more than once, and counts as one, by the mean of its runs: a." in table.notes
    (group,) = compared(*runs).as_records()
    assert (group["num_finished"], group["num_seeds"]) == (3, 2)
    assert not any("more than once" in note for note in compared(*runs[1:]).scores(I2V).notes)


def test_a_parent_shows_what_its_children_share_and_no_score_that_was_taken_back():
    parent = run("parent", rank1=float("nan"))
    parent.params.clear()
    parent.tags |= {names.Tag.CHILDREN: "2 of 2 finished", names.shared("variant"): "full"}
    table = listing([parent])
    (row,) = (dict(zip(table.columns, row, strict=True)) for row in table.rows)
    assert (row["variant"], row["seed"], row["R1 I-V"]) == ("full", "-", "-")


def test_a_parent_does_not_count_beside_its_children():
    parent = run("parent", rank1=0.9)
    parent.tags[names.Tag.CHILDREN] = "1 of 1 finished"
    both = [parent, run("child", rank1=0.5)]
    assert compared(*both).scores(I2V).rows[0][:3] == ("child", "1", "50.0")
    assert [row[0] for row in listing(both).rows] == ["runs/parent", "runs/child"]


def test_runs_that_learn_different_things_are_not_averaged_though_no_parameter_tells_them_apart():
    runs = [run("a", rank1=0.5), run("b", rank1=0.6)]
    runs[1].tags[names.Tag.LEARNED_SHA] = "another"
    assert [row[:3] for row in compared(*runs).scores(I2V).rows] == [("a", "1", "50.0"), ("b", "1", "60.0")]


@pytest.mark.parametrize(
    ("params", "label"),
    [
        ({"lambda1": "2.0"}, "lambda1=2.0"),
        ({"weights": "/scratch/weights/resnet50-11ad3fa6.pth"}, "weights=/scratch/wei...d3fa6.pth"),
        ({}, "a"),
    ],
)
def test_a_group_is_called_by_what_sets_it_apart(params, label):
    others = [run("b", **dict.fromkeys(params, "1.0"))] if params else []
    assert compared(run("a", **params), *others).scores(I2V).rows[0][0] == label


def test_the_description_of_a_parent_shows_both_directions():
    described = compared(run("a", rank1=0.5)).description()
    assert described.count("| a | 1 |") == 2
    assert "**Visible to infrared on SYNTHETIC data**" in described


def test_the_details_of_a_run_hold_parameters_tags_and_metrics():
    rows = dict(details(run("a", rank1=0.5)).rows)
    assert (rows["seed"], rows["host"], rows["infrared_to_visible/rank1"]) == ("0", "node1", "0.5")
    assert "long text" not in rows.values()


def test_records_are_plain_enough_for_json():
    (record,) = json.loads(json.dumps(as_records([run("a", rank1=0.5)])))
    assert (record["folder"], record["metrics"]["infrared_to_visible/rank1"]) == ("runs/a", 0.5)
