"""The two attention layers of the paper (Figs. 3 and 4), and one beyond it.

Legend: F frames (2B*T), C channels, H W, N = H*W tokens of a frame, R = C / reduction.

All project by 1x1 convolutions, attend, project back, pass a batch normalisation that starts at zero and add the
input: a new layer is the identity, so that pretrained trunks behind it see what they were trained on [A4].
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class _Attention(nn.Module):
    """The projections of all layers: C channels to R and, by `output`, back."""

    def __init__(self, channels: int, reduction: int = 2) -> None:
        super().__init__()
        width = bottleneck(channels, reduction, "model.attention_reduction")
        self.query = nn.Conv2d(channels, width, kernel_size=1)
        self.key = nn.Conv2d(channels, width, kernel_size=1)
        self.value = nn.Conv2d(channels, width, kernel_size=1)
        self.output = _output(width, channels)


class IntraModalitySelfAttention(_Attention):
    """IMSA (Eq. 2, Fig. 3): every cell of a frame attends to all cells of the same frame [A6].

    With 2,592 tokens a frame the map is never materialised: the fused kernels of `scaled_dot_product_attention` need
    tokens whose channels are contiguous, and fall back to the slow path without a word otherwise.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(F, C, H, W) -> the same shape."""
        projections = (self.query, self.key, self.value)
        query, key, value = (_tokens(project(x))[:, None] for project in projections)  # (F, 1, N, R)
        attended = F.scaled_dot_product_attention(query, key, value)[:, 0]  # (F, N, R)
        correction: Tensor = self.output(_maps(attended, x))
        return x + correction


class NonLocal(_Attention):
    """The non-local block of AGW (Ye et al., TPAMI 2022): as IMSA, but the weights are products over N, without softmax.

    So values can be summed before anybody asks for them, and no map of N x N ever exists.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(F, C, H, W) -> the same shape."""
        query, key, value = (_tokens(project(x)) for project in (self.query, self.key, self.value))
        attended = query @ ((key / key.shape[1]).mT @ value)  # (F, N, R) @ (F, R, R)
        correction: Tensor = self.output(_maps(attended, x))
        return x + correction


class CrossModalityCrossAttention(_Attention):
    """CMCA (Eq. 7, Fig. 4): every cell of a frame attends to the cells of its partner in the other modality [A8].

    Heads as wide as these (512 and 1024) are outside the fused kernels, and 162 tokens need none: bmm and softmax.
    """

    def forward(self, own: Tensor, other: Tensor, frames: int = 1) -> Tensor:
        """Query and residual from `own`, key and value from `other`, both (F, C, H, W) -> (F, C, H, W).

        Frame t looks at frame t; with `frames` = T, it looks at all T frames of its partner's clip [A10].
        """
        query = _tokens(self.query(own)).unflatten(0, (-1, frames)).flatten(1, 2)  # (F/frames, frames*N, R)
        key = _tokens(self.key(other)).unflatten(0, (-1, frames)).flatten(1, 2)
        value = _tokens(self.value(other)).unflatten(0, (-1, frames)).flatten(1, 2)
        scores = query @ key.mT / query.shape[-1] ** 0.5  # (F/frames, frames*N, frames*N)
        attended = scores.softmax(-1).to(value.dtype) @ value
        attended = attended.unflatten(1, (frames, -1)).flatten(0, 1)  # (F, N, R)
        correction: Tensor = self.output(_maps(attended, own))
        return own + correction


def bottleneck(channels: int, reduction: int, key: str) -> int:
    """`channels` reduced, at least 1. Raises ValueError naming the configuration's `key` where nothing is left."""
    if reduction > channels:
        raise ValueError(
            f"{key}: {channels} channels cannot be divided by {reduction}; take at most {channels}"
        )
    return channels // reduction


def _output(width: int, channels: int) -> nn.Sequential:
    normalisation = nn.BatchNorm2d(channels)
    nn.init.zeros_(normalisation.weight)
    return nn.Sequential(nn.Conv2d(width, channels, kernel_size=1, bias=False), normalisation)


def _tokens(x: Tensor) -> Tensor:
    """(F, R, H, W) -> (F, N, R), contiguous; a view under channels_last."""
    return x.flatten(2).mT.contiguous()


def _maps(tokens: Tensor, like: Tensor) -> Tensor:
    """(F, N, R) -> (F, R, H, W) with the height and width of `like`."""
    maps: Tensor = tokens.mT.unflatten(2, like.shape[-2:])
    return maps


def exchange(x: Tensor) -> Tensor:
    """Swap the visible rows, which come first, and the infrared rows: row i of the result is the partner of row i."""
    return torch.roll(x, x.shape[0] // 2, dims=0)
