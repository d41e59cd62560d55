"""reid/evaluation/attack.py: the bound holds in every pixel, nothing is nothing, and more is worse for the defender."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reid.data.clips import normalise
from reid.evaluation.attack import MetricAttack, attacked
from reid.model.network import Network, Structure
from reid.types import Goal, Modality

ROWS = np.array([4, 9, 2])
SHAPE = (3, 2, 3, 32, 16)


@pytest.fixture
def network() -> Network:
    torch.manual_seed(0)
    return Network(Structure(num_identities=5, backbone="thin", num_parts=2)).double().eval()


def films() -> torch.Tensor:
    """Extremes among them, so that the range of pixels matters."""
    pixels = np.random.default_rng(0).choice([0, 1, 40, 128, 200, 254, 255], SHAPE).astype(np.uint8)
    return torch.from_numpy(pixels)


@torch.no_grad()
def embedded(network: Network, pixels: torch.Tensor) -> torch.Tensor:
    return network.embed(normalise(pixels.clone()).double(), Modality.VISIBLE)


def attack_of(
    network: Network, attack: MetricAttack, clips: torch.Tensor | None = None, rows=ROWS
) -> torch.Tensor:
    clips = films() if clips is None else clips
    return attacked(network, clips, rows, Modality.VISIBLE, embedded(network, clips), attack)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.floats(0, 20), st.integers(1, 3), st.floats(0.1, 30), st.integers(0, 5))
def test_every_pixel_stays_within_its_bound_and_range(network, epsilon, steps, step_size, seed):
    clips = films()
    pixels = attack_of(network, MetricAttack(epsilon, steps, step_size, Goal.SELF, seed))
    assert pixels.shape == clips.shape
    assert 0 <= float(pixels.min()) <= float(pixels.max()) <= 255
    assert float((pixels.double() - clips.double()).abs().max()) <= epsilon + 1e-4


def test_the_bound_is_used_to_its_end(network):
    change = attack_of(network, MetricAttack(4, 10, 1)) - films()
    assert float(change.abs().max()) == 4
    assert float((change.abs() == 4).float().mean()) > 0.3


def test_an_epsilon_of_0_is_the_clean_clip_exactly(network):
    pixels = attack_of(network, MetricAttack(epsilon=0))
    assert torch.equal(pixels, films().float())
    assert torch.equal(embedded(network, pixels), embedded(network, films()))


def test_a_larger_epsilon_is_no_better_for_the_defender(network):
    own = embedded(network, films())
    cosines = []
    for epsilon in (0, 1, 4, 16):
        attack = MetricAttack(epsilon, steps=8, step_size=max(epsilon / 4, 0.1), goal=Goal.SELF)
        cosines.append(float((embedded(network, attack_of(network, attack)) * own).sum(1).mean()))
    assert cosines[0] == pytest.approx(1)
    assert cosines == sorted(cosines, reverse=True)


def test_gradients_lead_further_away_than_chance(network):
    own = embedded(network, films())
    rounded = films().float() + 4 * torch.sign(torch.randn(SHAPE, generator=torch.Generator().manual_seed(0)))
    by_chance = (embedded(network, rounded.clamp(0, 255)) * own).sum(1)
    by_gradient = (embedded(network, attack_of(network, MetricAttack())) * own).sum(1)
    assert (1 - by_gradient > 3 * (1 - by_chance)).all()


def test_where_it_begins_follows_from_seed_and_row_whatever_the_batch(network):
    attack = MetricAttack(steps=1, step_size=1e-3)
    together = attack_of(network, attack)
    alone = attack_of(network, attack, films()[1:2], ROWS[1:2])
    assert torch.allclose(alone, together[1:2], atol=2e-3)
    other = attack_of(network, replace(attack, seed=1))
    assert float((other - together).abs().mean()) > 1


@pytest.mark.parametrize("training", [True, False])
def test_the_network_is_left_as_it_was(network, training):
    aim = embedded(network, films())
    network.train(training)
    network.guidance.eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    attacked(network, films(), ROWS, Modality.VISIBLE, aim, MetricAttack(steps=1))
    assert [module.training for module in network.modules()] == modes
    assert all(tensor.equal(before[name]) for name, tensor in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


def test_the_aim_is_what_the_goal_says():
    clean, match = torch.eye(2)
    aims = {goal: MetricAttack(goal=goal).aim(clean, match).tolist() for goal in Goal}
    assert aims == {Goal.MATCH: [0, 1], Goal.SELF: [1, 0], Goal.BOTH: [1, 1]}


def test_impossible_attacks_are_refused_all_mistakes_at_once():
    with pytest.raises(
        ValueError, match="epsilon: expected 0 to 255 grey levels, found -1; steps: expected at least 1"
    ):
        MetricAttack(epsilon=-1, steps=0)
    with pytest.raises(ValueError, match="step size: expected more than 0 grey levels, found 0"):
        MetricAttack(step_size=0)
