"""reid/experiments/experiment.py: the files that come with the product say what the paper says; a mistake is told with its row."""

import re
from pathlib import Path

import pytest
import yaml

from reid import config as configuration
from reid.config import ConfigError
from reid.experiments import experiment
from reid.types import Direction, Variant

FILES = Path(__file__).parents[3] / "launch" / "experiments"


def test_table_1_has_a_row_for_every_variant_and_the_numbers_of_the_paper():
    table = experiment.from_yaml(FILES / "ablation.yaml")
    assert [row.changes for row in table.rows] == [{"model.variant": str(variant)} for variant in Variant]
    assert [row.name for row in table.rows] == list(Variant)
    baseline, asam, *_, full = table.rows
    assert full.paper[Direction.INFRARED_TO_VISIBLE] == (65.31, 77.86, 82.66, 87.35, 49.49)
    assert full.paper[Direction.VISIBLE_TO_INFRARED] == (67.66, 80.74, 85.13, 89.14, 51.76)
    # What section 4.2 says of the attack alone: Rank-1 falls by 14.4 and 15, mAP by 12.57 and 14.96.
    falls = [
        round(baseline.paper[direction][score] - asam.paper[direction][score], 2)
        for direction in Direction
        for score in (0, 4)
    ]
    assert falls == [14.4, 12.57, 15.0, 14.96]


def test_the_curves_of_figure_8_reach_over_the_ranges_of_the_paper_and_pass_its_choice():
    figure = experiment.from_yaml(FILES / "lambda_sweep.yaml")
    assert {curve.key: (curve.values[0], curve.values[-1], curve.paper) for curve in figure.curves} == {
        "objective.lambda1": (0.1, 9, 1),
        "objective.lambda2": (0.01, 4, 0.5),
        "objective.lambda3": (0.1, 5, 0.5),
    }
    assert all(curve.paper in curve.values for curve in figure.curves)
    assert all(sorted(curve.values) == list(curve.values) for curve in figure.curves)
    first, *_ = figure.every_row
    assert (first.name, first.changes) == ("lambda1-0.1", {"objective.lambda1": 0.1})


def test_every_row_beyond_the_paper_is_one_key_away_from_the_run_beside_it():
    base, *options = experiment.from_yaml(FILES / "beyond.yaml").rows
    assert base.changes == {}
    flat = configuration.flatten(configuration.from_yaml(FILES / "demo.yaml"))
    changed = [key for row in options for key, value in row.changes.items() if flat[key] != value]
    assert len(changed) == len(set(changed)) == len(options) == 8


def test_rows_are_chosen_by_name_in_the_order_of_the_file():
    table = experiment.from_yaml(FILES / "ablation.yaml")
    assert [row.name for row in table.chosen(("full", "baseline"))] == ["baseline", "full"]
    assert table.chosen(None) == table.rows
    with pytest.raises(ConfigError, match="has no row best; its rows are baseline, asam"):
        table.chosen(("best",))
    with pytest.raises(ConfigError, match="full: named more than once"):
        table.chosen(("full", "full"))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"name": "a", "changes": {"model.varient": "full"}}], "a: .* no key model.varient; is model.variant meant?"),
        ([{"name": "a"}, {"name": "a"}], "a: this row is there 2 times"),
        ([{"name": "a", "label": "A"}, {"name": "b", "label": "A"}], "A: 2 rows have this label"),
        ([{"name": "a", "changes": {"seed": 1}}], "a: seed is set for each trial"),
        ([{"name": "a", "changes": {"tracking.parent": "x"}}], "tracking.parent is set for each trial"),
        ([{"name": "../a"}], "rows.0.name: .*found '../a'"),
        ([{"name": "a", "paper": {"infrared_to_visible": [1, 2]}}], "rows.0.paper.infrared_to_visible"),
        ([{"name": "a", "change": {}}], "rows.0.change: "),
        ([], "rows: there is none"),
    ],
)  # fmt: skip
def test_every_mistake_names_the_file_and_the_row(tmp_path, rows, message):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"name": "mine", "title": "Mine", "rows": rows}))
    with pytest.raises(ConfigError, match=f"(?s){re.escape(str(path))}: .*{message}"):
        experiment.from_yaml(path)


@pytest.mark.parametrize(("text", "message"), [(None, "No such file"), ("a: [", "no YAML"), ("", "None")])
def test_a_file_that_is_none_is_told(tmp_path, text, message):
    path = tmp_path / "mine.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        experiment.from_yaml(path)
