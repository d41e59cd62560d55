"""reid/model/neck.py: the BN and the GAP of Eqs. 4 and 8, by loops and by hand."""

import math

import pytest
import torch
from torch import nn

from reid.model.neck import GeneralizedMean, Neck, average_pool, classifier


def test_average_pool_is_the_mean_over_the_cells_of_all_frames_of_a_clip() -> None:
    maps = torch.randn(2 * 3, 4, 5, 2, dtype=torch.float64)
    pooled = average_pool(maps, num_frames=3)
    assert pooled.shape == (2, 4)
    for b in range(2):
        for d in range(4):
            total = 0.0
            for t in range(3):
                for h in range(5):
                    for w in range(2):
                        total += float(maps[3 * b + t, d, h, w])
            assert float(pooled[b, d]) == pytest.approx(total / 30)


def test_average_pool_of_two_frames_by_hand() -> None:
    maps = torch.tensor([[[[1.0, 3.0]]], [[[5.0, 7.0]]]])
    assert average_pool(maps, num_frames=2).tolist() == [[4.0]]


def test_average_pool_of_half_precision_is_not_rounded_to_it() -> None:
    """The triplet measures these means; 257/256 is no number of bfloat16."""
    maps = torch.ones(1, 1, 16, 16, dtype=torch.bfloat16)
    maps[0, 0, 0, 0] = 2
    assert average_pool(maps, num_frames=1).tolist() == [[257 / 256]]
    assert average_pool(maps.double(), num_frames=1).dtype == torch.float64


def test_gem_is_the_cube_root_of_the_mean_cube_at_first_by_hand() -> None:
    gem = GeneralizedMean()
    assert gem.power.item() == 3
    maps = torch.tensor([[[[1.0, 3.0]]], [[[0.0, 2.0]]]])  # two frames: cube roots of 14 and of 4
    pooled = average_pool(maps, 2, gem)
    assert pooled.item() == pytest.approx((14 ** (1 / 3) + 4 ** (1 / 3)) / 2)


@torch.no_grad()
def test_gem_of_power_one_is_the_average_and_of_a_high_power_the_maximum() -> None:
    maps = torch.rand(6, 4, 5, 2, dtype=torch.float64) + 0.1
    gem = GeneralizedMean(1.0).double()
    torch.testing.assert_close(average_pool(maps, 3, gem), average_pool(maps, 3))
    gem.power.fill_(200)
    torch.testing.assert_close(gem(maps), maps.amax((2, 3)), rtol=0.02, atol=0)


def test_the_power_of_gem_is_learned_and_negative_cells_count_as_almost_zero() -> None:
    gem = GeneralizedMean().double()
    cells = torch.tensor([[[-5.0, 0.0, 2.0, 4.0]]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x, power: torch.func.functional_call(gem, {"power": power}, (x,)),
        (cells.detach()[..., 2:].clone().requires_grad_(), gem.power),
    )
    gem(cells).sum().backward()
    assert cells.grad is not None
    assert cells.grad[0, 0, :2].tolist() == [0, 0]
    assert gem.power.grad is not None
    assert gem.power.grad.item() > 0  # a higher power is nearer to the maximum
    assert gem(cells).item() == pytest.approx(18 ** (1 / 3))


def test_neck_in_training_normalises_over_the_rows_by_hand() -> None:
    neck = Neck(1).double()
    neck.norm.weight.data.fill_(3)
    rows = torch.tensor([[1.0], [3.0], [1.0], [3.0]], dtype=torch.float64)  # mean 2, variance 1
    expected = 3 * torch.tensor([[-1.0], [1.0], [-1.0], [1.0]], dtype=torch.float64) / math.sqrt(1 + 1e-5)
    torch.testing.assert_close(neck(rows), expected)


@torch.no_grad()
def test_neck_in_evaluation_uses_what_it_remembers_by_hand() -> None:
    neck = Neck(1).double().eval()
    assert neck.norm.running_mean is not None
    assert neck.norm.running_var is not None
    neck.norm.running_mean.fill_(2)
    neck.norm.running_var.fill_(4 - neck.norm.eps)
    assert float(neck(torch.tensor([[8.0]], dtype=torch.float64))) == pytest.approx(3)


def test_the_bias_of_the_neck_stays_zero_whatever_is_minimised() -> None:
    neck = Neck(3)
    optimizer = torch.optim.SGD(neck.parameters(), lr=1.0, momentum=0.9, weight_decay=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        neck(torch.randn(4, 3)).exp().sum().backward()
        optimizer.step()
    assert torch.equal(neck.norm.bias, torch.zeros(3))
    assert not torch.equal(neck.norm.weight, torch.ones(3))


def test_neck_computes_in_the_precision_of_its_weights_under_autocast() -> None:
    rows = torch.randn(8, 5).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        normalised = Neck(5)(rows)
    assert normalised.dtype == torch.float32
    torch.testing.assert_close(normalised, Neck(5)(rows.float()))


def test_neck_keeps_its_precision_when_its_statistics_are_synchronised() -> None:
    """What torch does for several GPUs: it replaces every BatchNorm by a SyncBatchNorm."""
    neck = nn.SyncBatchNorm.convert_sync_batchnorm(Neck(5))
    assert isinstance(neck, Neck)
    assert isinstance(neck.norm, nn.SyncBatchNorm)
    assert not neck.norm.bias.requires_grad


def test_classifier_has_no_bias_and_is_drawn_narrow() -> None:
    torch.manual_seed(0)
    linear = classifier(512, 300)
    assert linear.bias is None
    assert linear.weight.shape == (300, 512)
    assert float(linear.weight.detach().std()) == pytest.approx(0.001, rel=0.01)
    assert abs(float(linear.weight.detach().mean())) < 1e-5
