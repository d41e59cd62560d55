"""What stands between a feature map and an identity: pooling, the batch-normalisation neck and a linear classifier."""

import torch
from torch import Tensor, nn


class Neck(nn.Module):
    """The BN of Eqs. 4 and 8, its bias frozen at zero, in the precision of its weights whatever autocast says [A33]."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(features)
        self.norm.bias.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """(2B, D) -> (2B, D)."""
        normalised: Tensor = self.norm(x.to(self.norm.weight.dtype))
        return normalised


def classifier(features: int, num_identities: int) -> nn.Linear:
    """W of Eqs. 3, 5, 9 and 16: a linear map without bias, drawn narrow [A33]."""
    linear = nn.Linear(features, num_identities, bias=False)
    nn.init.normal_(linear.weight, std=0.001)
    return linear


class GeneralizedMean(nn.Module):
    """GeM (Radenovic et al., TPAMI 2019): (mean of x^p)^(1/p), with p learned. p = 1 is the mean of what is positive."""

    def __init__(self, power: float = 3.0) -> None:
        super().__init__()
        self.power = nn.Parameter(torch.tensor(power))

    def forward(self, cells: Tensor) -> Tensor:
        """(..., H, W) -> (...), at least in float32. What is not positive counts as almost zero."""
        precision = torch.promote_types(cells.dtype, torch.float32)
        powers = cells.to(precision).clamp(min=1e-6) ** self.power
        mean: Tensor = powers.mean((-2, -1)) ** (1 / self.power)
        return mean


def average_pool(maps: Tensor, num_frames: int, gem: GeneralizedMean | None = None) -> Tensor:
    """GAP over the frames and cells of each clip: (B*T, D, H, W) -> (B, D), at least in float32 [A23].

    With `gem`, its mean over the cells of a frame, and the average of frames.
    """
    precision = torch.promote_types(maps.dtype, torch.float32)
    frames: Tensor = maps.mean((2, 3), dtype=precision) if gem is None else gem(maps)  # (B*T, D)
    pooled: Tensor = frames.unflatten(0, (-1, num_frames)).mean(1)
    return pooled
