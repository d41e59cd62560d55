"""reid/collectives.py: what two processes compute together is what one computes of all rows."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn

from reid.collectives import SynchronizedBatchNorm, gather_rows, synchronize_batch_norm

CHANNELS = 3
SHAPES = {
    "maps": (4, CHANNELS, 5, 2),
    "vectors": (6, CHANNELS),
    "clips": (2, CHANNELS, 2, 3, 2),
    "large maps": (3, CHANNELS, 300, 300),  # a piece each
}
NORMS = {"vectors": nn.BatchNorm1d, "clips": nn.BatchNorm3d}


def rows_of(rank: int, kind: str) -> torch.Tensor:
    """The rows of a process: far from zero, where a variance taken as a difference of squares would lose digits."""
    generator = torch.Generator().manual_seed(rank)
    return 100 + torch.randn(SHAPES[kind], generator=generator, dtype=torch.float64)


def norm_of(kind: str) -> nn.BatchNorm2d:
    generator = torch.Generator().manual_seed(9)
    norm = NORMS.get(kind, nn.BatchNorm2d)(CHANNELS, momentum=0.3).double()
    nn.init.normal_(norm.weight, generator=generator)
    nn.init.normal_(norm.bias, generator=generator)
    return norm


def trace(norm: nn.Module, tracks: bool, x: torch.Tensor, processes: int = 1) -> dict[str, Any]:
    """Two training passes, the first with gradients, then one in evaluation. `x` holds the rows of so many processes."""
    norm.track_running_stats = tracks
    x.requires_grad_()
    pieces = norm(x).chunk(processes)
    loss = sum((piece.sin() * torch.linspace(0, 1, piece.numel()).view_as(piece)).sum() for piece in pieces)
    loss.backward()
    traced = {"gradient": x.grad, "weight": norm.weight.grad, "bias": norm.bias.grad}
    with torch.no_grad():
        traced["second"] = norm(x + 1)
        traced["evaluated"] = norm.eval()(x)
    return {name: tensor.numpy().copy() for name, tensor in (traced | dict(norm.named_buffers())).items()}


def trace_in_pair(kind: str, tracks: bool) -> dict[str, Any]:
    return trace(SynchronizedBatchNorm.like(norm_of(kind)), tracks, rows_of(dist.get_rank(), kind))


@pytest.mark.parametrize("tracks", [True, False])
@pytest.mark.parametrize("kind", SHAPES)
def test_two_processes_normalise_as_one_does_with_all_rows(pair, kind, tracks):
    ours = pair(trace_in_pair, kind, tracks)
    alone = trace(norm_of(kind), tracks, torch.cat([rows_of(0, kind), rows_of(1, kind)]), processes=2)
    for name in ("gradient", "second", "evaluated"):
        joined = np.concatenate([process[name] for process in ours])
        np.testing.assert_allclose(joined, alone[name], rtol=1e-9, atol=1e-9, err_msg=name)
    for name in ("weight", "bias"):
        np.testing.assert_allclose(sum(process[name] for process in ours), alone[name], rtol=1e-9)
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        for process in ours:
            np.testing.assert_allclose(process[name], alone[name], rtol=1e-12, err_msg=name)
    assert alone["num_batches_tracked"] == (2 if tracks else 0)


def gradient_in_bf16(norm: nn.Module, x: torch.Tensor, above: torch.Tensor) -> Any:
    x = x.bfloat16().to(memory_format=torch.channels_last).requires_grad_()
    norm.float()(x).backward(above.bfloat16())
    assert x.grad.dtype is torch.bfloat16
    assert x.grad.is_contiguous(memory_format=torch.channels_last)
    return x.grad.float().numpy()


def gradient_in_bf16_in_pair() -> Any:
    own = slice(4 * dist.get_rank(), 4 * dist.get_rank() + 4)
    x, above = (rows_of(seed, "maps").repeat(2, 1, 1, 1)[own] for seed in (0, 1))
    return gradient_in_bf16(SynchronizedBatchNorm.like(norm_of("maps")), x - 100, above - 100)


def test_in_bf16_two_processes_have_the_gradient_of_one_but_for_the_last_digits(pair):
    x, above = (rows_of(seed, "maps").repeat(2, 1, 1, 1) for seed in (0, 1))
    alone = gradient_in_bf16(norm_of("maps"), x - 100, above - 100)
    np.testing.assert_allclose(np.concatenate(pair(gradient_in_bf16_in_pair)), alone, rtol=0.02, atol=0.01)


def test_a_synchronised_norm_shares_parameters_and_buffers_and_refuses_a_row_without_channels():
    norm = norm_of("maps").eval()
    twin = SynchronizedBatchNorm.like(norm)
    assert twin.weight is norm.weight
    assert twin.running_var is norm.running_var
    assert not twin.training
    with pytest.raises(ValueError, match=r"\(R, C, \.\.\.\), found the shape \(3,\)"):
        twin(torch.zeros(3))


def test_every_norm_of_a_network_is_replaced_and_its_state_dict_stays():
    network = nn.Sequential(
        nn.Conv2d(3, 3, 1), nn.Sequential(nn.BatchNorm2d(3), nn.ReLU()), nn.BatchNorm2d(3)
    )
    before = {name: tensor.data_ptr() for name, tensor in network.state_dict().items()}
    synchronize_batch_norm(network)
    assert sum(isinstance(module, SynchronizedBatchNorm) for module in network.modules()) == 2
    assert not any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    assert {name: tensor.data_ptr() for name, tensor in network.state_dict().items()} == before


def gathered_in_pair() -> tuple[Any, Any, Any]:
    x = rows_of(dist.get_rank(), "vectors").requires_grad_()
    rows = gather_rows(x, dist.get_rank(), 2)
    (torch.cdist(rows, rows) ** 2).sin().mean().backward()
    numbers = gather_rows(torch.tensor([dist.get_rank()]), dist.get_rank(), 2)
    return rows.detach().numpy(), x.grad.numpy(), numbers.numpy()


def test_gathered_rows_stand_in_the_order_of_processes_and_their_gradients_come_home(pair):
    ours = pair(gathered_in_pair)
    x = torch.cat([rows_of(0, "vectors"), rows_of(1, "vectors")]).requires_grad_()
    (torch.cdist(x, x) ** 2).sin().mean().backward()
    for rows, _, numbers in ours:
        np.testing.assert_array_equal(rows, x.detach().numpy())
        assert numbers.tolist() == [0, 1]
    # Both processes have the whole loss, and gradients are averaged over processes afterwards: hence twice.
    joined = np.concatenate([gradient for _, gradient, _ in ours])
    np.testing.assert_allclose(joined, 2 * x.grad.numpy(), rtol=1e-9)
