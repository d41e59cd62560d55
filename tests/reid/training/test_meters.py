"""reid/training/meters.py: means over steps and processes, continued exactly, and what is no number."""

import json
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reid.runtime import Runtime
from reid.training.meters import Meters, NonFiniteError, require_finite


def started() -> Runtime:
    return Runtime.start(precision="fp64", device="cpu", seed=0, deterministic=False)


@pytest.fixture(scope="module")
def runtime() -> Runtime:
    return started()


def fill(meters: Meters, values: list[float]) -> Meters:
    for value in values:
        meters.add({"loss": torch.tensor(value)})
    return meters


def test_a_mean_is_over_the_steps_that_had_the_name(runtime):
    meters = Meters()
    for step in range(4):
        meters.add({"loss": torch.tensor(float(step))} | ({"rare": torch.tensor(5.0)} if step == 2 else {}))
    assert meters.read(runtime) == {"loss": 1.5, "rare": 5.0}
    assert meters.read(runtime) == {}


def test_sums_are_kept_in_double_precision_and_need_no_gradient(runtime):
    meters = Meters()
    weight = torch.ones((), requires_grad=True)
    for _ in range(10_000):
        meters.add({"loss": 0.1 * weight})
    assert meters.read(runtime)["loss"] == pytest.approx(torch.tensor(0.1).item(), rel=1e-12)


@given(values=st.lists(st.floats(-1e6, 1e6, width=32), min_size=2, max_size=20), data=st.data())
def test_meters_that_are_written_down_and_restored_give_the_very_same_mean(values, data):
    runtime = started()
    cut = data.draw(st.integers(1, len(values)))
    written = json.loads(json.dumps(fill(Meters(), values[:cut]).state()))
    restored = Meters()
    restored.restore([written], runtime)
    assert fill(restored, values[cut:]).read(runtime) == fill(Meters(), values).read(runtime)


def mean_in_pair(states: list[Any] | None) -> tuple[dict[str, float], Any]:
    """The mean of 0, 1 on the first process and 10, 11 on the second; `states` are put back half-way."""
    runtime = started()
    meters = Meters()
    fill(meters, [10.0 * runtime.rank])
    written = runtime.collect(meters.state())
    if states is not None:
        meters = Meters()
        meters.restore(states, runtime)
    return fill(meters, [10.0 * runtime.rank + 1]).read(runtime), written


def test_a_mean_is_over_all_processes_and_restored_to_each_its_own(pair, runtime):
    (first, written), (second, _) = pair(mean_in_pair, None)
    assert first == second == {"loss": 5.5}
    assert [mean for mean, _ in pair(mean_in_pair, written)] == [{"loss": 5.5}] * 2
    alone = Meters()
    alone.restore(written, runtime)  # two processes become one: its share is the mean of theirs
    assert fill(alone, [6.0]).read(runtime) == {"loss": 5.5}
    assert [mean for mean, _ in pair(mean_in_pair, [{"loss": [5.0, 1]}])] == [{"loss": 5.5}] * 2


def test_whatever_is_no_number_is_named_with_the_step():
    require_finite({"def_id": 1.0, "cov_id": -2.0}, 7)
    with pytest.raises(NonFiniteError, match=r"^step 7: def_tri, p_id stopped being finite") as caught:
        require_finite({"def_id": 1.0, "def_tri": math.nan, "p_id": math.inf}, 7)
    assert "Lower the learning rate" in str(caught.value)
