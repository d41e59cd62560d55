"""reid/model/attacker.py: Eq. 4 clip by clip, frame by frame."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from reid.model.attacker import Attacker
from reid.model.resnet import ARCHITECTURES

THIN = ARCHITECTURES["thin"]
CLIPS, FRAMES = 2, 3  # of each modality


def attacker(*, separate: bool = False) -> Attacker:
    torch.manual_seed(0)
    return Attacker(THIN, last_stride=1, reduction=2, separate=separate)


def maps() -> Tensor:
    """F_c of both modalities, visible rows first."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2 * CLIPS * FRAMES, THIN.channels(0), 8, 4, dtype=torch.float64, generator=generator)


def neck(norm: nn.BatchNorm1d, feature: Tensor) -> Tensor:
    """BN in evaluation, written out."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return (feature - norm.running_mean) / (norm.running_var + norm.eps) ** 0.5 * norm.weight


@pytest.mark.parametrize("separate", [False, True], ids=["one IMSA", "an IMSA a modality"])
@torch.no_grad()
def test_attacker_is_equation_4_clip_by_clip(awake: Callable[[nn.Module], nn.Module], separate: bool) -> None:
    module = attacker(separate=separate)
    awake(module).eval()
    x = maps()
    result = module(x, FRAMES)
    for clip in range(2 * CLIPS):
        imsa = module.imsa[1] if separate and clip >= CLIPS else module.imsa[0]
        total = torch.zeros(THIN.channels(4), dtype=torch.float64)
        num_cells = 0
        for t in range(FRAMES):
            frame = x[FRAMES * clip + t][None]
            encoded = module.layers(imsa(frame))[0]  # E_att(IMSA(F_t,c))
            for h in range(encoded.shape[1]):
                for w in range(encoded.shape[2]):
                    total += encoded[:, h, w]
                    num_cells += 1
        torch.testing.assert_close(result[clip], neck(module.neck.norm, total / num_cells))


def test_modalities_share_one_imsa_unless_told_otherwise() -> None:
    assert len(attacker().imsa) == 1
    assert len(attacker(separate=True).imsa) == 2


@torch.no_grad()
def test_feature_by_hand_where_the_trunk_gives_zero() -> None:
    """A trunk that ends in ReLU(-1) gives f = BN(0): with mean 2 and variance 4 - eps remembered, (0 - 2) / 2."""
    module = attacker().double().eval()
    block = module.layers.layer4[0]
    for norm in (block.bn2, block.downsample[1]):
        norm.weight.fill_(0)
        norm.bias.fill_(-0.5)
    module.neck.norm.running_mean.fill_(2)  # type: ignore[union-attr]
    module.neck.norm.running_var.fill_(4 - module.neck.norm.eps)  # type: ignore[union-attr]
    expected = torch.full((2 * CLIPS, THIN.channels(4)), -1.0, dtype=torch.float64)
    torch.testing.assert_close(module(maps(), FRAMES), expected)
