"""Rows of all processes that gradients flow through, batch normalisation with the statistics of all processes, and the
mean of their gradients.

Every process calls the same functions in the same order. Nothing here asks which process it is: whoever needs to know
is told by `reid.runtime`.
"""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.debugging_hooks import noop_hook
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.modules.batchnorm import _BatchNorm

PIECE_VALUES = 2**18  # small enough for a core's cache: whole maps in float32 took three times as long


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


class _Normalisation(torch.autograd.Function):
    """Rows (R, C, ...) normalised by mean and variance (C,) over all processes, which are returned too.

    torch's kernels do the passes over `x`: the slow ones, and the same as on one process. A channel's gradient is a linear
    function of the gradient above it and of `x`, whose factors follow from two sums over all processes.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        # The kernel wants running statistics, in whose precision it answers; nobody reads these.
        running_mean, running_variance = torch.zeros_like(weight), torch.zeros_like(weight)
        own = torch.stack(torch.batch_norm_update_stats(x, running_mean, running_variance, 0.0))
        pieces = [torch.empty_like(own) for _ in range(dist.get_world_size())]
        dist.all_gather(pieces, own)
        means, variances = torch.stack(pieces, dim=1)  # (processes, C)
        mean = means.mean(0)
        variance = (variances + (means - mean).square()).mean(0)
        ctx.save_for_backward(x, weight, mean, variance)
        ctx.eps = eps
        ctx.mark_non_differentiable(mean, variance)
        return F.batch_norm(x, mean, variance, weight, bias, training=False, eps=eps), mean, variance

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor, Tensor, None]:
        x, weight, mean, variance = ctx.saved_tensors
        inverse = (variance + ctx.eps).rsqrt()
        _, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
            gradients[0], x, weight, None, None, mean, inverse, True, ctx.eps, [False, True, True]
        )
        if not ctx.needs_input_grad[0]:
            return None, of_weight, of_bias, None
        totals = torch.stack([of_weight, of_bias])
        dist.all_reduce(totals)
        along, above = totals / _num_values(x)
        scale = weight * inverse
        slope = -scale * inverse * along
        shift = -scale * above - slope * mean
        scale, slope, shift = (factor.view(1, -1, *[1] * (x.dim() - 2)) for factor in (scale, slope, shift))
        of_x = torch.empty_like(x)
        rows = max(1, PIECE_VALUES // x[0].numel())
        for into, piece, gradient in zip(
            of_x.split(rows), x.split(rows), gradients[0].split(rows), strict=True
        ):
            into.copy_(torch.mul(piece, slope).add_(shift).addcmul_(gradient.to(slope.dtype), scale))
        return of_x, of_weight, of_bias, None


def _num_values(x: Tensor) -> int:
    """How many values a channel of (R, C, ...) has, in all processes together."""
    return dist.get_world_size() * x.numel() // x.shape[1]


def gather_rows(x: Tensor, rank: int, world: int) -> Tensor:
    """(R, ...) on each of `world` processes -> (world*R, ...), in the order of the processes. R must be equal on all."""
    rows: Tensor = _Concatenation.apply(x, rank, world)
    return rows


def average_trained(
    group: dist.ProcessGroup,
    bucket: dist.GradBucket,  # type: ignore[name-defined]  # DDP insists on the annotation
) -> torch.futures.Future[Tensor]:
    """A communication hook of DDP: the mean over processes of a bucket of gradients, as without a hook.

    A bucket in which nothing is trained at the moment is nobody's business: of the full model, an iteration of Step I exchanges
    168 million gradients in place of three times 134 million.
    """
    if any(parameter.requires_grad for parameter in bucket.parameters()):
        return allreduce_hook(group, bucket)
    return noop_hook(group, bucket)


class SynchronizedBatchNorm(_BatchNorm):
    """Batch normalisation with the statistics of all processes, on any device and backend.

    torch's own refuses the CPU. Every process brings the same number of values. Means are combined before variances, so
    that no variance cancels.
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
        normalised, mean, variance = _Normalisation.apply(x, self.weight, self.bias, self.eps)
        count = _num_values(x)
        self._remember(mean, variance * count / (count - 1))
        rows: Tensor = normalised
        return rows

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
