"""Sums and concatenations over processes that gradients flow through, and the batch normalisation built on them.

Every process calls the same functions in the same order. Nothing here asks which process it is: whoever needs to know
is told by `reid.runtime`.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class _Sum(torch.autograd.Function):
    """The sum over processes; so is its gradient."""

    @staticmethod
    def forward(_: Any, x: Tensor) -> Tensor:
        total = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(_: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total


class _Concatenation(torch.autograd.Function):
    """The rows of all processes; the gradient of a row is the sum of what all processes have for it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rank: int, world: int) -> Tensor:
        ctx.own = slice(rank * len(x), (rank + 1) * len(x))
        pieces = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(world)]
        dist.all_gather(pieces, x.contiguous())
        return torch.cat(pieces)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total[ctx.own], None, None


def sum_over_processes(x: Tensor) -> Tensor:
    """The sum of `x` over all processes, same shape."""
    summed: Tensor = _Sum.apply(x)
    return summed


def gather_rows(x: Tensor, rank: int, world: int) -> Tensor:
    """(R, ...) on each of `world` processes -> (world*R, ...), in the order of the processes. R must be equal on all."""
    rows: Tensor = _Concatenation.apply(x, rank, world)
    return rows


class SynchronizedBatchNorm(_BatchNorm):
    """Batch normalisation with the statistics of all processes, on any device and backend.

    torch's own refuses the CPU. Every process brings the same number of values. Mean and variance are summed one after
    the other, so that the variance does not cancel.
    """

    @classmethod
    def like(cls, norm: _BatchNorm) -> "SynchronizedBatchNorm":
        """A synchronised norm that shares the parameters and buffers of `norm`."""
        twin = cls(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        twin.weight, twin.bias = norm.weight, norm.bias
        twin.running_mean, twin.running_var = norm.running_mean, norm.running_var
        twin.num_batches_tracked = norm.num_batches_tracked
        twin.training = norm.training
        return twin

    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002  (torch's name)
        if input.dim() < 2:
            raise ValueError(f"expected rows of channels, (R, C, ...), found the shape {tuple(input.shape)}")

    def forward(self, x: Tensor) -> Tensor:
        """(R, C, ...) -> the same shape."""
        self._check_input_dim(x)
        if not self.training:
            return super().forward(x)
        values = x.to(self.weight.dtype)
        reduced = [dim for dim in range(x.dim()) if dim != 1]
        shape = [1, -1, *[1] * (x.dim() - 2)]
        total = sum_over_processes(
            torch.cat([values.sum(reduced), values.new_tensor([x.numel() / x.shape[1]])])
        )
        count = total[-1].detach()
        mean = total[:-1] / count
        centred = values - mean.view(shape)
        variance = sum_over_processes(centred.square().sum(reduced)) / count
        self._remember(mean.detach(), variance.detach() * count / (count - 1))
        scale = (self.weight * (variance + self.eps).rsqrt()).view(shape)
        return (centred * scale + self.bias.view(shape)).to(x.dtype)

    def _remember(self, mean: Tensor, unbiased_variance: Tensor) -> None:
        if not self.track_running_stats:
            return
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(unbiased_variance, self.momentum)


def synchronize_batch_norm(module: nn.Module) -> nn.Module:
    """Replace every batch normalisation in `module`, keeping parameters and buffers."""
    for name, child in module.named_children():
        if isinstance(child, _BatchNorm):
            setattr(module, name, SynchronizedBatchNorm.like(child))
        else:
            synchronize_batch_norm(child)
    return module
