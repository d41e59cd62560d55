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


def average_pool(maps: Tensor, num_frames: int) -> Tensor:
    """GAP over the frames and cells of each clip: (B*T, D, H, W) -> (B, D), at least in float32 [A23]."""
    precision = torch.promote_types(maps.dtype, torch.float32)
    frames: Tensor = maps.mean((2, 3), dtype=precision).unflatten(0, (-1, num_frames))  # (B, T, D)
    return frames.mean(1)
