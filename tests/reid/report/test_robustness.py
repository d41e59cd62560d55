"""reid/report/robustness.py: means and losses by value, and no number that could be taken for a clean one."""

import json

import numpy as np
import pytest

from reid.evaluation.attack import MetricAttack
from reid.evaluation.corruptions import SEVERITIES, Corruption
from reid.evaluation.metrics import Labels, Retrieval, evaluate
from reid.evaluation.robustness import Attack, Conditions, Disturbed, Robustness
from reid.report import tables
from reid.report.robustness import NO_BRANCH, as_numbers, results
from reid.types import Direction


def retrieval(right: int) -> Retrieval:
    """Ten queries, of which `right` find their only match first and the others second."""
    query, gallery = (
        Labels(np.array([1, 2] * 5), np.ones(10, int)),
        Labels(np.array([1, 2]), np.array([2, 2])),
    )
    similarity = np.array([[1.0, 0.0], [0.0, 1.0]] * 5)
    similarity[right:] *= -1
    return evaluate(similarity, query, gallery)


def scores(right: int) -> dict[Direction, Disturbed]:
    return {direction: Disturbed(retrieval(right), 0.5) for direction in Direction}


@pytest.fixture
def clean() -> dict[Direction, Retrieval]:
    return {direction: retrieval(10) for direction in Direction}


@pytest.fixture
def found() -> Robustness:
    """Every second corruption takes 1, 2, ... 5 of the ten queries; ASAM's own attack takes one, the metric attack all."""
    by_severity = {
        corruption: tuple(scores(10 - severity * (place % 2)) for severity in SEVERITIES)
        for place, corruption in enumerate(Corruption)
    }
    attacks = {Attack.METRIC: scores(0), Attack.SELF: scores(9)}
    return Robustness(Conditions(corruptions=True, attack=MetricAttack()), by_severity, attacks)


def test_a_row_a_corruption_with_its_mean_and_what_it_costs(found, clean):
    first, second, _ = results(found, clean, protocol="p", synthetic=True)
    assert first.title == "CORRUPTED queries: infrared to visible on SYNTHETIC data"
    assert second.title == "CORRUPTED queries: visible to infrared on SYNTHETIC data"
    rows = {row[0]: row[1:] for row in first.rows}
    assert rows["clean"] == ("-", "-", "-", "-", "-", "100.0/100.0", "-")
    assert rows["blur"] == (
        "90.0/95.0",
        "80.0/90.0",
        "70.0/85.0",
        "60.0/80.0",
        "50.0/75.0",
        "70.0/85.0",
        "30.0/15.0",
    )
    assert rows["noise"][-1] == "0.0/0.0"
    assert rows["Mean"][0] == "95.0/97.5"
    assert rows["Mean"][-1] == "15.0/7.5"
    assert len(rows) == 1 + len(Corruption) + 1
    assert "blur 1, 2, 3, 4.5, 6 (pixels of 288, standard deviation)" in first.notes[1]


def test_scores_under_attack_stand_below_the_clean_ones(found, clean):
    table = results(found, clean, protocol="six frames", synthetic=False)[-1]
    assert table.title == "Queries UNDER ATTACK"
    below = ["clean", "metric attack", "ASAM's own"]
    names = [row[0].strip() for row in table.rows]
    assert names == ["Infrared to visible", *below, "Visible to infrared", *below]
    rank1 = [row[1] for row in table.rows]
    assert rank1 == ["", "100.0", "0.0", "90.0"] * 2
    assert [row[-1] for row in table.rows] == ["", "1.00", "0.50", "0.50"] * 2
    assert "epsilon 4/255, 10 steps of 1/255 from a random start" in table.notes[1]
    assert table.notes[-1] == "Protocol: six frames."


def test_a_variant_without_asam_says_so(found, clean):
    without = Robustness(found.conditions, {}, {Attack.METRIC: scores(0)})
    (table,) = results(without, clean, protocol="p", synthetic=True)
    assert NO_BRANCH in table.notes
    numbers = as_numbers(without, tables.as_numbers(clean, protocol="p", synthetic=True))
    assert numbers["attacks"]["self"] == {"missing": NO_BRANCH}


def test_numbers_of_disturbed_queries_have_no_key_of_a_clean_evaluation(found, clean):
    plain = tables.as_numbers(clean, protocol="p", synthetic=True)
    numbers = json.loads(json.dumps(as_numbers(found, plain), allow_nan=False))
    assert not {"directions", "mean"} & set(numbers)
    assert numbers["clean"] == json.loads(json.dumps(plain))
    assert numbers["synthetic"] is True
    blur = numbers["corruptions"]["kinds"]["blur"]
    worst = blur["severities"][-1]
    assert (worst["severity"], worst["amount"]) == (5, 6)
    assert worst["directions"]["visible_to_infrared"]["rank1"] == 0.5
    assert worst["directions"]["visible_to_infrared"]["cosine_with_clean"] == 0.5
    metric = numbers["attacks"]["metric"]
    assert metric["epsilon"] == pytest.approx(4 / 255)
    assert metric["goal"] == "match"
    assert metric["directions"]["infrared_to_visible"]["rank1"] == 0
    assert numbers["attacks"]["self"]["directions"]["infrared_to_visible"]["rank1"] == 0.9
