"""reid/training/average.py: the average of the weights is its formula, is what is evaluated, and survives a stop."""

import shutil

import pytest
import torch

from reid.runtime import Runtime
from reid.training import build, checkpoint, initialisation
from reid.training.average import Average
from reid.training.run import evaluate, read_checkpoint

DECAY = 0.3  # reached at step 4, where n / (n + 9) has passed it


@pytest.fixture(scope="module")
def averaged(tiny, runs, tmp_path_factory):
    """The folder of a run that differs from `alone` in keeping an average."""
    folder = tmp_path_factory.mktemp("averaged") / "run"
    runs.train(tiny(optimizer={"ema_decay": DECAY}), folder)
    return folder


def replayed(runs, folder, step):
    """What the formula makes of the checkpoints of every step."""
    average = runs.snapshot(folder, 1).weights
    for n in range(1, step):
        decay, weights = min(DECAY, n / (n + 9)), runs.snapshot(folder, n + 1).weights
        average = {
            name: decay * average[name] + (1 - decay) * tensor if tensor.is_floating_point() else tensor
            for name, tensor in weights.items()
        }
    return average


def test_three_updates_by_hand(tiny):
    runtime = Runtime.start(precision="fp64", device="cpu", seed=0, deterministic=False)
    network = build.network(tiny(model={"variant": "baseline"}), 8).double()
    average = Average(network, 0.15, runtime)
    name = "defence_classifier.weight"
    for step, value in enumerate((4.0, 14.0, 0.0)):
        network.get_parameter(name).data.fill_(value)
        average.update(network, step)
    # 4, then a tenth of 4 and nine tenths of 14, then 0.15 of 13, because 2 / 11 is more
    assert average.network.get_parameter(name).flatten()[:2].tolist() == pytest.approx([1.95, 1.95])
    assert not any(parameter.requires_grad for parameter in average.network.parameters())


@pytest.mark.parametrize("step", [1, 4, 8])
def test_the_average_of_a_run_is_the_formula_over_its_weights_and_statistics(averaged, runs, step):
    found, expected = runs.snapshot(averaged, step).average, replayed(runs, averaged, step)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)
    assert found["defence.neck.norm.num_batches_tracked"] == step


def test_keeping_an_average_changes_nothing_in_what_is_trained(averaged, alone, runs):
    found, expected = runs.snapshot(averaged, 8), runs.snapshot(alone(), 8)
    torch.testing.assert_close(found.weights, expected.weights, rtol=0, atol=0)
    torch.testing.assert_close(found.momentum, expected.momentum, rtol=0, atol=0)
    assert expected.average == {}
    assert expected.evaluated is expected.weights


def test_the_average_is_what_is_evaluated_in_training_and_later(averaged, alone, runs):
    path, config, snapshot = read_checkpoint(averaged)
    scored = evaluate(path, config, snapshot)
    compared = scored.evaluator.network.state_dict()
    torch.testing.assert_close(compared, snapshot.average, rtol=1e-6, atol=1e-7)
    assert not torch.allclose(
        compared["stem.visible.conv1.weight"], snapshot.weights["stem.visible.conv1.weight"]
    )
    logged = runs.points(averaged)
    assert {direction: result.map for direction, result in scored.evaluation.results.items()} == {
        direction: logged[8, f"{direction}/map"] for direction in scored.evaluation.results
    }
    assert [
        logged[step, f"{direction}/map"] for step in (4, 8) for direction in scored.evaluation.results
    ] != [
        runs.points(alone())[step, f"{direction}/map"]
        for step in (4, 8)
        for direction in scored.evaluation.results
    ]


def stopped_at(run, folder, step):
    for number in range(1, step + 1):
        path = checkpoint.place(run / "checkpoints", number)
        shutil.copytree(path, folder / "checkpoints" / path.name)
    return folder


def test_a_resumed_run_has_the_average_of_the_uninterrupted_one_bit_for_bit(tiny, averaged, runs, tmp_path):
    folder = stopped_at(averaged, tmp_path / "resumed", 3)
    runs.train(tiny(optimizer={"ema_decay": DECAY}), folder, resume=True)
    found, expected = runs.snapshot(folder, 8), runs.snapshot(averaged, 8)
    torch.testing.assert_close(found.average, expected.average, rtol=0, atol=0)
    torch.testing.assert_close(found.weights, expected.weights, rtol=0, atol=0)


def test_a_run_that_kept_none_so_far_begins_with_its_weights(tiny, alone, runs, tmp_path):
    folder = stopped_at(alone(), tmp_path / "changed", 7)
    runs.train(tiny(optimizer={"ema_decay": DECAY}), folder, resume=True, accept_changes=True)
    seventh, end = runs.snapshot(folder, 7), runs.snapshot(folder, 8)
    name = "stem.visible.conv1.weight"
    assert seventh.average == {}
    torch.testing.assert_close(
        end.average[name], DECAY * seventh.weights[name] + (1 - DECAY) * end.weights[name], rtol=0, atol=1e-15
    )


def test_another_run_starts_from_the_average(tiny, averaged, runs):
    network = build.network(tiny(), 8).double()
    initialisation.start(checkpoint.place(averaged / "checkpoints", 8), network)
    expected = runs.snapshot(averaged, 8).average
    torch.testing.assert_close(network.state_dict(), expected, rtol=0, atol=0, check_dtype=False)
