"""reid/training/meters.py: means over steps and processes, continued exactly, and the first step that is no number."""

import json
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reid.runtime import Runtime
from reid.training.meters import Meters, NonFiniteError, Reading


def started() -> Runtime:
    return Runtime.start(precision="fp64", device="cpu", seed=0, deterministic=False)


@pytest.fixture(scope="module")
def runtime() -> Runtime:
    return started()


def fill(meters: Meters, values: list[float], first: int = 1) -> Meters:
    for step, value in enumerate(values, first):
        meters.add("defend", {"def_id": torch.tensor(value)}, step)
    return meters


def mean(meters: Meters, runtime: Runtime) -> float:
    return meters.read(runtime)["defend"].means["def_id"]


def test_a_mean_is_over_the_steps_that_made_the_update(runtime):
    meters = fill(Meters(), [0.0, 1.0, 2.0, 3.0])
    meters.add("attack", {"att_id": torch.tensor(5.0), "cov_id": torch.tensor(7)}, 3)
    assert meters.read(runtime) == {
        "defend": Reading(4, {"def_id": 1.5}),
        "attack": Reading(1, {"att_id": 5.0, "cov_id": 7.0}),
    }
    assert meters.read(runtime) == {}


def test_sums_are_kept_in_double_precision_and_need_no_gradient(runtime):
    meters = Meters()
    weight = torch.ones((), requires_grad=True)
    for step in range(10_000):
        meters.add("defend", {"def_id": 0.1 * weight}, step + 1)
    assert mean(meters, runtime) == pytest.approx(torch.tensor(0.1).item(), rel=1e-12)


@given(values=st.lists(st.floats(-1e6, 1e6, width=32), min_size=2, max_size=20), data=st.data())
def test_meters_that_are_written_down_and_restored_give_the_very_same_mean(values, data):
    runtime = started()
    cut = data.draw(st.integers(1, len(values)))
    written = json.loads(json.dumps(fill(Meters(), values[:cut]).state()))
    restored = Meters()
    restored.restore([written], runtime)
    assert fill(restored, values[cut:]).read(runtime) == fill(Meters(), values).read(runtime)


def mean_in_pair(states: list[Any] | None) -> tuple[float, Any]:
    """The mean of 0, 1 on the first process and 10, 11 on the second; `states` are put back half-way."""
    runtime = started()
    meters = fill(Meters(), [10.0 * runtime.rank])
    written = runtime.collect(meters.state())
    if states is not None:
        meters = Meters()
        meters.restore(states, runtime)
    return mean(fill(meters, [10.0 * runtime.rank + 1], first=2), runtime), written


def test_a_mean_is_over_all_processes_and_restored_to_each_its_own(pair, runtime):
    (first, written), (second, _) = pair(mean_in_pair, None)
    assert first == second == 5.5
    assert [found for found, _ in pair(mean_in_pair, written)] == [5.5] * 2
    alone = Meters()
    alone.restore(written, runtime)  # two processes become one: its share is the mean of theirs
    assert mean(fill(alone, [6.0]), runtime) == 5.5
    assert [found for found, _ in pair(mean_in_pair, [written[1]])] == [8.0] * 2


INF, NAN = float("inf"), float("nan")


def test_the_first_step_the_first_update_and_what_it_measured_are_named_if_they_are_no_numbers(runtime):
    meters = Meters()
    for step, value in enumerate([1.0, 2.0, INF, -INF, 3.0], 1):
        meters.add("defend", {"def_id": torch.tensor(1.0), "def_tri": torch.tensor(value)}, step)
        meters.add("attack", {"cov_id": torch.tensor(NAN if step > 2 else 0.0)}, step)
    expected = r"^step 3: def_tri of the update 'defend' stopped being finite\. Lower the learning rate"
    with pytest.raises(NonFiniteError, match=expected):
        meters.require_finite(runtime)
    with pytest.raises(NonFiniteError, match=expected):
        meters.read(runtime)


def test_finite_values_whatever_their_size_stop_nothing(runtime):
    meters = fill(Meters(), [-3e38, 0.0, 3e38])
    meters.require_finite(runtime)
    assert mean(meters, runtime) == 0.0


def stop_in_pair(broken: dict[int, tuple[str, int]]) -> list[str]:
    """What each process says if on process `rank` the update and step `broken[rank]` measure no number."""
    runtime = started()
    told = []
    for ask in (Meters.read, Meters.require_finite):
        meters = Meters()
        for step in (1, 2, 3, 4):
            for update in ("defend", "attack"):
                value = NAN if broken.get(runtime.rank) == (update, step) else 1.0
                meters.add(update, {"loss": torch.tensor(value)}, step)
        try:
            ask(meters, runtime)
        except NonFiniteError as error:
            told.append(str(error).partition(" stopped")[0])
    return told


@pytest.mark.parametrize(
    ("broken", "told"),
    [
        ({1: ("attack", 2)}, "step 2: loss of the update 'attack'"),
        ({0: ("defend", 3), 1: ("attack", 2)}, "step 2: loss of the update 'attack'"),
        ({0: ("attack", 4), 1: ("defend", 4)}, "step 4: loss of the update 'defend'"),
    ],
)
def test_whichever_process_broke_first_all_stop_and_name_it(pair, broken, told):
    assert pair(stop_in_pair, broken) == [[told, told]] * 2
