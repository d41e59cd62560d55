"""reid/tracking/names.py: names that MLflow accepts, in the groups that its pages show."""

import re
from itertools import chain

import pytest

from reid.tracking import names
from reid.types import Direction

ALL = [
    *chain(names.Metric, names.Param, names.Tag, names.ModelTag),
    *(names.objective(term) for term in names.TERMS),
    *names.SCORES,
    *map(names.deviation, names.SCORES),
]


@pytest.mark.parametrize("name", ALL)
def test_every_name_is_one_that_mlflow_accepts(name):
    assert re.fullmatch(r"[A-Za-z0-9_\-./]{1,250}", name)


def test_the_names_of_a_direction():
    assert names.rank(Direction.INFRARED_TO_VISIBLE, 5) == "infrared_to_visible/rank5"
    assert names.mean_average_precision(Direction.VISIBLE_TO_INFRARED) == "visible_to_infrared/map"
    assert names.mean_inverse_penalty(Direction.VISIBLE_TO_INFRARED) == "visible_to_infrared/minp"


def test_a_run_stays_below_sixty_metrics_and_a_hundred_parameters():
    trained = {*names.Metric, *names.SCORES, *map(names.objective, names.TERMS)}
    gathered = {*names.SCORES, *map(names.deviation, names.SCORES)}
    assert max(len(trained), len(gathered)) <= 60
    assert len(names.Param) <= 100


def test_the_speed_of_a_machine_need_not_repeat():
    assert not names.is_repeatable(names.Metric.STEP_MS)
    assert not names.is_repeatable(names.Metric.RESUME_MISMATCH)
    assert names.is_repeatable(names.Metric.LOSS)
    assert names.is_repeatable(names.rank(Direction.INFRARED_TO_VISIBLE, 1))
