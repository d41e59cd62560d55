"""reid/runtime.py: one process and two give the same answers, and two agree on everything they must agree on."""

import math
import os
import signal
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.profiler import ProfilerActivity, profile

from reid.collectives import SynchronizedBatchNorm
from reid.runtime import Runtime


def started(seed: int = 0) -> Runtime:
    return Runtime.start(precision="fp64", device="cpu", seed=seed, deterministic=False)


@pytest.fixture(scope="module")
def alone() -> Runtime:
    return started()


def exchange_in_pair() -> dict[str, Any]:
    runtime = started()
    own = torch.full((runtime.rank + 1, 2), float(runtime.rank))  # one row here, two there
    return {
        "rank": (runtime.rank, runtime.world, runtime.leads),
        "share": [runtime.share(rows) for rows in (0, 1, 5)],
        "collected": runtime.collect({"rank": runtime.rank}),
        "agreed": runtime.agree(f"of {runtime.rank}"),
        "led": runtime.leader(lambda: "made", lambda: "silent"),
        "sum": runtime.sum(torch.tensor([1.0, runtime.rank])).tolist(),
        "gathered": runtime.gather(torch.tensor([runtime.rank])).tolist(),
        "rows": runtime.concatenate(own).tolist(),
        "rows of one": runtime.concatenate(own if runtime.rank else None).tolist(),
    }


def test_two_processes_exchange_values_and_rows_in_their_order(pair):
    first, second = pair(exchange_in_pair)
    assert (first.pop("rank"), second.pop("rank")) == ((0, 2, True), (1, 2, False))
    assert (first.pop("led"), second.pop("led")) == ("made", "silent")
    assert first.pop("share") == [slice(0, 0), slice(0, 0), slice(0, 2)]
    assert second.pop("share") == [slice(0, 0), slice(0, 1), slice(2, 5)]
    assert first == second
    assert first == {
        "collected": [{"rank": 0}, {"rank": 1}],
        "agreed": "of 0",
        "sum": [2.0, 1.0],
        "gathered": [0, 1],
        "rows": [[0.0, 0.0], [1.0, 1.0], [1.0, 1.0]],
        "rows of one": [[1.0, 1.0], [1.0, 1.0]],
    }


def test_one_process_exchanges_with_itself(alone):
    rows = torch.ones(2, 3)
    assert (alone.rank, alone.world, alone.leads) == (0, 1, True)
    assert alone.share(5) == slice(0, 5)
    assert alone.collect("own") == ["own"]
    assert alone.sum(rows).equal(rows)
    assert alone.gather(rows) is rows
    assert alone.concatenate(rows) is rows
    with pytest.raises(ValueError, match="from at least one process"):
        alone.concatenate(None)


def decide_in_pair() -> list[str]:
    runtime = started()

    def refuse() -> str:
        raise ValueError(f"refused by {runtime.rank}")

    answers = [runtime.decide(lambda: f"decided by {runtime.rank}")]
    try:
        runtime.decide(refuse)
    except ValueError as error:
        answers.append(f"{type(error).__name__}: {error}")
    return answers


def test_what_the_leading_process_decides_or_refuses_holds_for_all(pair):
    assert pair(decide_in_pair) == [
        ["decided by 0", "ValueError: refused by 0"],
        ["decided by 0", "ToldElsewhereError: refused by 0"],  # so that it is printed once
    ]


def ask_in_pair(number: int) -> list[str | None]:
    """Steps of a loop in which only the second process is sent a signal, between the second and the third."""
    runtime = started()
    answers = []
    with runtime.heeding_signals():
        for step in range(5):
            if step == 2 and runtime.rank == 1:
                os.kill(os.getpid(), number)
            answers.append(runtime.stop_requested())
    return answers


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_to_one_process_is_heard_by_all_in_the_same_step(pair, number):
    assert pair(ask_in_pair, number) == [[None, None, None, number.name, number.name]] * 2


def test_signals_mean_what_they_meant_before_once_nobody_heeds_them(alone):
    former = signal.getsignal(signal.SIGUSR1)
    with alone.heeding_signals():
        assert signal.getsignal(signal.SIGUSR1) is not former
    assert signal.getsignal(signal.SIGUSR1) is former


def prepare_in_pair() -> tuple[Any, ...]:
    runtime = started()
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    prepared = runtime.prepare(network)
    return (
        isinstance(prepared, DistributedDataParallel),
        prepared.module is network,
        isinstance(network[1], SynchronizedBatchNorm),
    )


def test_two_processes_train_a_wrapped_network_with_synchronised_statistics(pair):
    assert pair(prepare_in_pair) == [(True, True, True)] * 2


def travels_in_pair(frozen: int) -> tuple[list[int], list[bool], float]:
    """The sizes of what is summed over the processes in a backward, which parts get a gradient, and one of them.

    A part is larger than a bucket of DDP.
    """
    runtime = started()
    network = nn.Sequential(*(nn.Linear(2000, 2000, bias=False) for _ in range(4)))
    prepared = runtime.prepare(network)
    network[frozen].requires_grad_(False)
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiled:
        prepared(torch.full((1, 2000), runtime.rank + 1.0, dtype=runtime.dtype)).sum().backward()
    sizes = [
        math.prod(event.input_shapes[0]) for event in profiled.events() if event.name == "gloo:all_reduce"
    ]
    first = network[0].weight.grad
    assert first is not None
    return sizes, [part.weight.grad is not None for part in network], float(first.abs().sum())


def test_gradients_of_what_rests_do_not_travel(pair):
    (sizes, moved, own), (_, _, others) = pair(travels_in_pair, 1)
    assert sorted(sizes) == [4] + 3 * [4_000_000]  # the four say which parameters had a gradient
    assert moved == [True, False, True, True]
    assert own == others > 0


def test_one_process_trains_the_network_itself(alone):
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    assert alone.prepare(network) is network
    assert type(network[1]) is nn.BatchNorm2d
    assert network[0].weight.dtype is torch.float64
    assert network[0].weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("precision", "inside"), [("fp16", torch.float16), ("bf16", torch.bfloat16), ("fp32", torch.float32)]
)
def test_the_forward_runs_in_the_precision_asked_for_and_answers_in_float32(precision, inside, caplog):
    runtime = Runtime.start(precision=precision, device="cpu", seed=0, deterministic=False)
    network = nn.Sequential(nn.Conv2d(3, 4, 1))
    seen = []
    network[0].register_forward_hook(lambda *call: seen.append(call[-1].dtype))
    assert runtime.prepare(network)(torch.ones(1, 3, 2, 2)).dtype is torch.float32
    with runtime.autocast():
        network[0](torch.ones(1, 3, 2, 2))
    assert seen == [inside, inside]
    assert ("fp16 on a CPU is for tests" in caplog.text) == (precision == "fp16")


def test_a_world_that_the_launcher_did_not_promise_is_refused(alone, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(
        RuntimeError, match=r"started 3 processes, accelerate sees 1: .*launch/accelerate/cpu\.yaml"
    ):
        started()


def test_the_seed_decides_what_is_drawn_and_a_restored_state_draws_it_again():
    runtime = started(seed=3)
    first = torch.rand(4)
    state = runtime.random_state()
    second = torch.rand(4)
    runtime.set_random_state(state)
    assert torch.rand(4).equal(second)
    started(seed=3)
    assert torch.rand(4).equal(first)
    started(seed=4)
    assert not torch.rand(4).equal(first)
