"""reid/report/optimistic.py: the best evaluation is found for each score by itself, and never without its label."""

from pathlib import Path

import numpy as np

from reid.report.optimistic import optimistic
from reid.tracking import names
from reid.tracking.runs import Summary
from reid.types import Direction

I2V, V2I = Direction.INFRARED_TO_VISIBLE, Direction.VISIBLE_TO_INFRARED
STEPS = np.array([1000, 2000, 3000])


def test_each_score_is_at_its_best_where_it_was_best_by_itself():
    series = {
        names.rank(I2V, 1): (STEPS, np.array([0.5, 0.7, 0.6])),
        names.mean_average_precision(I2V): (STEPS, np.array([0.4, 0.3, 0.35])),
        names.Metric.LOSS: (STEPS, np.array([9.0, 8.0, 7.0])),
    }
    table = optimistic(Summary(Path("run")), series)
    assert [row[1] for row in table.rows] == ["60.0", "70.0", "2,000"]
    assert [row[table.columns.index("mAP")] for row in table.rows] == ["35.0", "40.0", "1,000"]
    assert table.rows[0][table.columns.index("Rank-5")] == "-"
    assert "Optimistic" in table.title
    assert "looking at the test set" in table.notes[0]


def test_both_directions_stand_below_each_other_and_synthetic_data_are_named():
    series = {names.rank(direction, 1): (STEPS, np.array([0.1, 0.2, 0.3])) for direction in (I2V, V2I)}
    table = optimistic(Summary(Path("run"), tags={"synthetic": "True"}), series)
    assert [row[0] for row in table.rows][::3] == ["Infrared to visible, last", "Visible to infrared, last"]
    assert "SYNTHETIC" in table.title


def test_a_parent_has_none_as_its_scores_are_means_over_more_and_more_children():
    parent = Summary(Path("run"), tags={names.Tag.CHILDREN: "3 of 3 finished"})
    assert optimistic(parent, {names.rank(I2V, 1): (STEPS, np.array([0.5, 0.7, 0.6]))}) is None


def test_a_run_without_evaluations_has_none():
    assert optimistic(Summary(Path("run")), {names.Metric.LOSS: (STEPS, STEPS / 1.0)}) is None
