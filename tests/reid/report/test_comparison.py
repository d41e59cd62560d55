"""reid/report/comparison.py: runs side by side, with the means and deviations that a hand would find."""

import json
import time
from pathlib import Path

import pytest

from reid.report.comparison import as_records, details, differences, listing, scores
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


def test_only_parameters_that_differ_are_compared():
    table = differences([run("a", lambda1="1.0"), run("b", lambda1="2.0", extra="x")])
    assert table.columns == ("parameter", "a", "b")
    assert table.rows == (("extra", "-", "x"), ("lambda1", "1.0", "2.0"))
    same = differences([run("a"), run("b")])
    assert (same.rows, same.notes) == ((), ("The parameters of these runs are all the same.",))


def test_seeds_of_equal_runs_become_a_mean_and_a_deviation():
    runs = [run(f"full-{seed}", seed=seed, rank1=rank1) for seed, rank1 in enumerate([0.60, 0.62, 0.64])]
    runs += [run("baseline-0", variant="baseline", rank1=0.5)]
    table = scores(runs, I2V)
    full, baseline = (dict(zip(table.columns, row, strict=True)) for row in table.rows)
    assert (full[""], full["seeds"], full["Rank-1"], full["mAP"]) == ("full", "3", "62.0 (2.0)", "-")
    assert (baseline[""], baseline["seeds"], baseline["Rank-1"]) == ("baseline", "1", "50.0")
    assert scores(runs, V2I).rows[0][2] == "31.0 (1.0)"
    assert table.title == "Infrared to visible on SYNTHETIC data"


@pytest.mark.parametrize(("params", "label"), [({"lambda1": "2.0"}, "lambda1=2.0"), ({}, "a")])
def test_a_group_is_called_by_what_sets_it_apart(params, label):
    others = [run("b", lambda1="1.0")] if params else []
    assert scores([run("a", **params), *others], I2V).rows[0][0] == label


def test_the_details_of_a_run_hold_parameters_tags_and_metrics():
    rows = dict(details(run("a", rank1=0.5)).rows)
    assert (rows["seed"], rows["host"], rows["infrared_to_visible/rank1"]) == ("0", "node1", "0.5")
    assert "long text" not in rows.values()


def test_records_are_plain_enough_for_json():
    (record,) = json.loads(json.dumps(as_records([run("a", rank1=0.5)])))
    assert (record["folder"], record["metrics"]["infrared_to_visible/rank1"]) == ("runs/a", 0.5)
