"""reid/training/objectives.py against the sums of the paper, numbers worked by hand, and pytorch-metric-learning."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning.distances import LpDistance
from pytorch_metric_learning.losses import TripletMarginLoss
from pytorch_metric_learning.miners import BatchHardMiner
from pytorch_metric_learning.reducers import MeanReducer
from torch import Tensor

from reid.training.objectives import confusion, identification, triplet
from reid.types import Distance


def log_probability(logits: Tensor, m: int) -> float:
    """Log of the m-th component of the softmax of one row."""
    return float(logits[m]) - math.log(sum(math.exp(float(logit)) for logit in logits))


def sum_over_pairs(visible: Tensor, infrared: Tensor, q: list[list[float]]) -> float:
    """-2/n_b sum_i q_i (log W(f_i^V) + log W(f_i^I)), the shape of Eqs. 3, 5, 9 and 16; q_i is row i of `q`."""
    num_pairs, num_identities = visible.shape
    total = 0.0
    for i in range(num_pairs):
        for m in range(num_identities):
            total += q[i][m] * (log_probability(visible[i], m) + log_probability(infrared[i], m))
    return -2 / (2 * num_pairs) * total


def slow_distance(a: Tensor, b: Tensor, distance: Distance) -> float:
    if distance is Distance.EUCLIDEAN_UNIT:
        a, b = a / math.sqrt(sum(x * x for x in a)), b / math.sqrt(sum(x * x for x in b))
    squared = sum((float(x) - float(y)) ** 2 for x, y in zip(a, b, strict=True))
    return squared if distance is Distance.SQUARED else math.sqrt(squared)


def slow_triplet(features: Tensor, identity: list[int], margin: float, distance: Distance) -> float:
    """Eq. 10, anchor by anchor."""
    rows = range(len(features))
    total = 0.0
    for a in rows:
        positives = [p for p in rows if identity[p] == identity[a] and p != a]
        negatives = [n for n in rows if identity[n] != identity[a]]
        if positives and negatives:
            farthest = max(slow_distance(features[a], features[p], distance) for p in positives)
            nearest = min(slow_distance(features[a], features[n], distance) for n in negatives)
            total += max(0.0, farthest - nearest + margin)
    return total / len(features)


@settings(max_examples=30, deadline=None)
@given(num_pairs=st.integers(1, 5), num_identities=st.integers(2, 7), seed=st.integers(0, 2**20))
def test_confusion_is_half_of_equation_3(num_pairs: int, num_identities: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(2 * num_pairs, num_identities, dtype=torch.float64, generator=generator)
    uniform = [[1 / num_identities] * num_identities] * num_pairs
    expected = sum_over_pairs(logits[:num_pairs], logits[num_pairs:], uniform)
    assert float(confusion(logits)) == pytest.approx(expected / 2, rel=1e-12)


@settings(max_examples=30, deadline=None)
@given(num_pairs=st.integers(1, 5), num_identities=st.integers(2, 7), seed=st.integers(0, 2**20))
def test_identification_is_half_of_equations_5_9_and_16(
    num_pairs: int, num_identities: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(2 * num_pairs, num_identities, dtype=torch.float64, generator=generator)
    identity = torch.randint(num_identities, (num_pairs,), generator=generator)
    one_hot = [[float(m == y) for m in range(num_identities)] for y in identity]
    expected = sum_over_pairs(logits[:num_pairs], logits[num_pairs:], one_hot)
    assert float(identification(logits, identity.repeat(2))) == pytest.approx(expected / 2, rel=1e-12)


def test_confusion_of_probabilities_one_and_three_quarters_by_hand() -> None:
    logits = torch.tensor([[0.0, math.log(3)]], dtype=torch.float64)  # probabilities 1/4 and 3/4
    assert float(confusion(logits)) == pytest.approx(-(math.log(1 / 4) + math.log(3 / 4)) / 2)
    assert float(confusion(logits)) == pytest.approx(0.8369882)


def test_identification_of_two_rows_by_hand() -> None:
    logits = torch.tensor([[0.0, math.log(2), math.log(5)]] * 2, dtype=torch.float64)  # 1/8, 2/8, 5/8
    value = identification(logits, torch.tensor([2, 0]))
    assert float(value) == pytest.approx((math.log(8 / 5) + math.log(8)) / 2)
    assert float(value) == pytest.approx(1.2747226)


def test_confusion_is_least_where_the_classifier_knows_nothing() -> None:
    uniform = torch.full((3, 5), 1.7, dtype=torch.float64, requires_grad=True)
    value = confusion(uniform)
    value.backward()
    assert float(value.detach()) == pytest.approx(math.log(5))
    assert uniform.grad is not None
    assert uniform.grad.abs().max() < 1e-15
    others = torch.randn(100, 1, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert all(confusion(logits) > math.log(5) for logits in others)


POINTS = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 2.0], [0.0, 10.0]], dtype=torch.float64)
TWO_AND_TWO = torch.tensor([0, 0, 1, 1])


def test_squared_triplet_by_hand() -> None:
    """Hardest positives 25, 25, 64, 64; hardest negatives 4, 13, 4, 45."""
    value = triplet(POINTS, TWO_AND_TWO, 0.3, Distance.SQUARED)
    assert float(value) == pytest.approx((21.3 + 12.3 + 60.3 + 19.3) / 4)
    assert float(value) == pytest.approx(28.3)


def test_euclidean_triplet_by_hand() -> None:
    """Hardest positives 5, 5, 8, 8; hardest negatives 2, sqrt 13, 2, sqrt 45."""
    value = triplet(POINTS, TWO_AND_TWO, 0.3, Distance.EUCLIDEAN)
    assert float(value) == pytest.approx((3.3 + (5.3 - math.sqrt(13)) + 6.3 + (8.3 - math.sqrt(45))) / 4)
    assert float(value) == pytest.approx(3.2215612)


def test_unit_triplet_by_hand() -> None:
    """On the circle at 0 and 60, and at 120 and 180 degrees; the chords are 1, sqrt 3 and 2.

    The outer two anchors lie beyond the margin; the inner two have a positive and a negative at 1 and pay the margin.
    """
    angles = torch.tensor([0.0, 60.0, 120.0, 180.0], dtype=torch.float64).deg2rad()
    lengths = torch.tensor([[0.1], [7.0], [2.0], [30.0]], dtype=torch.float64)
    features = lengths * torch.stack([angles.cos(), angles.sin()], 1)
    assert float(triplet(features, TWO_AND_TWO, 0.3, Distance.EUCLIDEAN_UNIT)) == pytest.approx(0.15)


@pytest.mark.parametrize("distance", Distance)
@settings(max_examples=40, deadline=None)
@given(
    identity=st.lists(st.integers(0, 3), min_size=1, max_size=9),
    width=st.integers(1, 4),
    grid=st.booleans(),
    seed=st.integers(0, 2**20),
)
def test_triplet_is_equation_10_anchor_by_anchor(
    distance: Distance, identity: list[int], width: int, grid: bool, seed: int
) -> None:
    """Also with ties and coinciding rows (`grid`), and with anchors that lack a positive or a negative."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(len(identity), width, dtype=torch.float64, generator=generator)
    if grid:
        features = features.round().clamp(-2, 2) + 3  # none at the origin, which has no direction
    expected = slow_triplet(features, identity, 0.3, distance)
    value = triplet(features, torch.tensor(identity), 0.3, distance)
    assert float(value) == pytest.approx(expected, rel=1e-9, abs=2e-6)  # the root of Distance starts at 1e-6


@pytest.mark.parametrize(
    ("distance", "reference"),
    [
        (Distance.EUCLIDEAN_UNIT, LpDistance(normalize_embeddings=True)),
        (Distance.EUCLIDEAN, LpDistance(normalize_embeddings=False)),
        (Distance.SQUARED, LpDistance(normalize_embeddings=False, power=2)),
    ],
)
@pytest.mark.parametrize("seed", range(5))
def test_triplet_and_its_gradient_are_those_of_pytorch_metric_learning(
    distance: Distance, reference: LpDistance, seed: int
) -> None:
    features = torch.randn(16, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    identity = torch.arange(4).repeat_interleave(2).repeat(2)
    ours, theirs = features.clone().requires_grad_(), features.clone().requires_grad_()
    loss = TripletMarginLoss(margin=0.3, distance=reference, reducer=MeanReducer())
    expected = loss(theirs, identity, BatchHardMiner(distance=reference)(theirs, identity))
    value = triplet(ours, identity, 0.3, distance)
    (gradient,) = torch.autograd.grad(value, ours)
    (expected_gradient,) = torch.autograd.grad(expected, theirs)
    torch.testing.assert_close(value, expected, rtol=1e-9, atol=0)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("distance", Distance)
@pytest.mark.parametrize(
    "identity", [[0, 0, 0, 0], [0, 1, 2, 3]], ids=["without negatives", "without positives"]
)
def test_rows_without_a_positive_or_without_a_negative_cost_and_teach_nothing(
    distance: Distance, identity: list[int]
) -> None:
    features = POINTS.clone().add(1).requires_grad_()
    value = triplet(features, torch.tensor(identity), 0.3, distance)
    value.backward()
    assert float(value.detach()) == 0
    assert features.grad is not None
    assert torch.equal(features.grad, torch.zeros_like(features))


def test_a_row_without_a_positive_still_counts_in_the_mean() -> None:
    features = torch.tensor([[0.0], [1.0], [1.5]], dtype=torch.float64)
    value = triplet(features, torch.tensor([0, 0, 1]), 0.3, Distance.EUCLIDEAN)
    assert float(value) == pytest.approx((0 + (1 - 0.5 + 0.3) + 0) / 3)


@pytest.mark.parametrize("distance", Distance)
def test_coinciding_rows_pay_the_margin_and_have_a_finite_gradient(distance: Distance) -> None:
    features = torch.ones(4, 3, dtype=torch.float64, requires_grad=True)
    value = triplet(features, TWO_AND_TWO, 0.3, distance)
    value.backward()
    assert float(value.detach()) == pytest.approx(0.3)
    assert features.grad is not None
    assert features.grad.isfinite().all()


def test_tied_negatives_share_the_push() -> None:
    """Both negatives lie at 2 to either side of the anchor; each is pushed away by half of the anchor's share."""
    features = torch.tensor([[0.0], [5.0], [2.0], [-2.0]], dtype=torch.float64, requires_grad=True)
    identity = torch.tensor([0, 0, 1, 2])
    (gradient,) = torch.autograd.grad(triplet(features, identity, 0.3, Distance.EUCLIDEAN), features)
    # Anchor 0 pays 5 - 2 + 0.3, a tie; anchor 1 pays 5 - 3 + 0.3 for row 2; rows 2 and 3 have no positive.
    anchor_0 = torch.tensor([[-1.0], [1.0], [-0.5], [0.5]])
    anchor_1 = torch.tensor([[-1.0], [0.0], [1.0], [0.0]])
    torch.testing.assert_close(gradient, ((anchor_0 + anchor_1) / 4).double())


def test_single_precision_keeps_the_digits_of_rows_that_are_close() -> None:
    """Far from the origin, |a|^2 + |b|^2 - 2ab would leave nothing of a distance of 1/64."""
    features = torch.tensor([[1000.0], [1000.0 + 1 / 64], [1000.0 + 3 / 64], [1000.0 + 7 / 64]])
    value = triplet(features, TWO_AND_TWO, 0.0, Distance.EUCLIDEAN)
    # Hardest positives 1, 1, 4, 4 and negatives 3, 2, 2, 6, in 64ths.
    assert float(value) == pytest.approx((4 - 2) / 64 / 4, rel=1e-6)
