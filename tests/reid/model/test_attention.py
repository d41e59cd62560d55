"""reid/model/attention.py: Eq. 2 (IMSA) and the attention of Eq. 7 (CMCA), token by token and by hand."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from reid.model.attention import CrossModalityCrossAttention, IntraModalitySelfAttention, NonLocal, exchange

FRAMES, CHANNELS, HEIGHT, WIDTH = 4, 6, 3, 2
CELLS = [(h, w) for h in range(HEIGHT) for w in range(WIDTH)]


def project(convolution: nn.Conv2d, cell: list[float]) -> list[float]:
    """A 1x1 convolution of one cell."""
    weight = convolution.weight[:, :, 0, 0].tolist()
    bias = [0.0] * len(weight) if convolution.bias is None else convolution.bias.tolist()
    return [
        sum(w * x for w, x in zip(row, cell, strict=True)) + b for row, b in zip(weight, bias, strict=True)
    ]


def attend(query: list[float], keys: list[list[float]], values: list[list[float]]) -> list[float]:
    """Softmax over all keys of q.k / sqrt(R), and the values it weighs."""
    scores = [sum(q * k for q, k in zip(query, key, strict=True)) / math.sqrt(len(query)) for key in keys]
    total = sum(math.exp(score) for score in scores)
    weights = [math.exp(score) / total for score in scores]
    return [sum(w * value[r] for w, value in zip(weights, values, strict=True)) for r in range(len(query))]


def normalise(norm: nn.BatchNorm2d, cells: list[list[float]]) -> list[list[float]]:
    """Batch normalisation of the cells of all frames: their own statistics in training, the remembered ones else."""
    result = [[0.0] * len(cells[0]) for _ in cells]
    for c in range(len(cells[0])):
        mean = sum(cell[c] for cell in cells) / len(cells)
        variance = sum((cell[c] - mean) ** 2 for cell in cells) / len(cells)
        if not norm.training:
            assert norm.running_mean is not None
            assert norm.running_var is not None
            mean, variance = float(norm.running_mean[c]), float(norm.running_var[c])
        for n, cell in enumerate(cells):
            unit = (cell[c] - mean) / math.sqrt(variance + norm.eps)
            result[n][c] = float(norm.weight[c]) * unit + float(norm.bias[c])
    return result


def slow_attention(
    layer: IntraModalitySelfAttention | CrossModalityCrossAttention,
    own: Tensor,
    other: Tensor,
    seen: Callable[[int], list[int]],
) -> Tensor:
    """Every cell of frame f of `own` asks all cells of the frames `seen(f)` of `other` (Figs. 3 and 4)."""
    corrections = []
    for f in range(len(own)):
        cells = [other[g, :, h, w].tolist() for g in seen(f) for h, w in CELLS]
        keys = [project(layer.key, cell) for cell in cells]
        values = [project(layer.value, cell) for cell in cells]
        for h, w in CELLS:
            query = project(layer.query, own[f, :, h, w].tolist())
            corrections.append(project(layer.output[0], attend(query, keys, values)))  # type: ignore[arg-type]
    corrections = normalise(layer.output[1], corrections)  # type: ignore[arg-type]
    result = own.clone()
    for f in range(len(own)):
        for n, (h, w) in enumerate(CELLS):
            result[f, :, h, w] += torch.tensor(corrections[f * len(CELLS) + n], dtype=own.dtype)
    return result


def maps(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(FRAMES, CHANNELS, HEIGHT, WIDTH, dtype=torch.float64, generator=generator)


def identity_projections(layer: nn.Module) -> None:
    """One channel: every projection hands its input on, and so does the normalisation."""
    for module in layer.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.data.fill_(1)
            if module.bias is not None:
                module.bias.data.fill_(0)
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.fill_(1)
            module.eps = 0.0
    layer.double().eval()


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@torch.no_grad()
def test_imsa_is_equation_2_token_by_token(awake: Callable[[nn.Module], nn.Module], training: bool) -> None:
    layer = IntraModalitySelfAttention(CHANNELS, reduction=2)
    awake(layer).train(training)
    x = maps(0)
    torch.testing.assert_close(layer(x), slow_attention(layer, x, x, lambda f: [f]), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@torch.no_grad()
def test_cmca_is_the_attention_of_equation_7_token_by_token(
    awake: Callable[[nn.Module], nn.Module], training: bool
) -> None:
    layer = CrossModalityCrossAttention(CHANNELS, reduction=2)
    awake(layer).train(training)
    own, other = maps(0), maps(1)
    expected = slow_attention(layer, own, other, lambda f: [f])
    torch.testing.assert_close(layer(own, other), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@torch.no_grad()
def test_a_non_local_block_weighs_the_cells_of_its_frame_by_products_token_by_token(
    awake: Callable[[nn.Module], nn.Module], training: bool
) -> None:
    layer = NonLocal(CHANNELS, reduction=2)
    awake(layer).train(training)
    x = maps(0)
    corrections = []
    for frame in x:
        cells = [frame[:, h, w].tolist() for h, w in CELLS]
        keys, values = ([project(part, cell) for cell in cells] for part in (layer.key, layer.value))
        for cell in cells:
            query = project(layer.query, cell)
            weights = [sum(q * k for q, k in zip(query, key, strict=True)) / len(CELLS) for key in keys]
            attended = [sum(w * value[r] for w, value in zip(weights, values, strict=True)) for r in range(3)]
            corrections.append(project(layer.output[0], attended))  # type: ignore[arg-type]
    corrections = normalise(layer.output[1], corrections)  # type: ignore[arg-type]
    expected = torch.tensor(corrections, dtype=x.dtype).view(FRAMES, HEIGHT, WIDTH, CHANNELS)
    torch.testing.assert_close(layer(x), x + expected.permute(0, 3, 1, 2), rtol=1e-10, atol=1e-10)


@torch.no_grad()
def test_a_new_non_local_block_is_the_identity_in_training_too() -> None:
    x = maps(0)
    layer = NonLocal(CHANNELS).double()
    for training in (False, True):
        assert torch.equal(layer.train(training)(x), x)


def test_a_non_local_block_holds_no_map_of_all_cells_by_all_cells() -> None:
    sizes = []
    x = torch.randn(1, 4, 40, 20, requires_grad=True)  # a map of 800 x 800
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: sizes.append(tensor.numel()) or tensor, lambda tensor: tensor
    ):
        NonLocal(4)(x).sum().backward()
    assert max(sizes) == x.numel()


@torch.no_grad()
def test_cmca_over_clips_sees_all_frames_of_its_partner_and_of_no_other_clip(
    awake: Callable[[nn.Module], nn.Module],
) -> None:
    layer = CrossModalityCrossAttention(CHANNELS, reduction=3)
    awake(layer).eval()
    own, other = maps(0), maps(1)  # two clips of two frames
    expected = slow_attention(layer, own, other, lambda f: [f // 2 * 2, f // 2 * 2 + 1])
    torch.testing.assert_close(layer(own, other, frames=2), expected, rtol=1e-10, atol=1e-10)


@torch.no_grad()
def test_imsa_of_two_tokens_by_hand() -> None:
    """Tokens 0 and s with s^2 = ln 3. The first scores 0 and 0 and takes s/2; the second 0 and ln 3, and takes 3s/4."""
    layer = IntraModalitySelfAttention(1, reduction=1)
    identity_projections(layer)
    s = math.sqrt(math.log(3))
    result = layer(torch.tensor([[[[0.0, s]]]], dtype=torch.float64))
    assert result.flatten().tolist() == pytest.approx([0.5 * s, 1.75 * s])
    assert result.flatten().tolist() == pytest.approx([0.5240735, 1.8342574])


@torch.no_grad()
def test_cmca_of_two_tokens_by_hand() -> None:
    """Own tokens 0 and 1 ask the other's 0 and ln 3: scores 0 and 0, then 0 and ln 3."""
    layer = CrossModalityCrossAttention(1, reduction=1)
    identity_projections(layer)
    own = torch.tensor([[[[0.0, 1.0]]]], dtype=torch.float64)
    result = layer(own, own * math.log(3))
    assert result.flatten().tolist() == pytest.approx([0.5 * math.log(3), 1 + 0.75 * math.log(3)])
    assert result.flatten().tolist() == pytest.approx([0.5493061, 1.8239592])


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
def test_new_attention_is_the_identity(training: bool) -> None:
    x, other = maps(0), maps(1)
    imsa = IntraModalitySelfAttention(CHANNELS).double().train(training)
    cmca = CrossModalityCrossAttention(CHANNELS).double().train(training)
    assert torch.equal(imsa(x), x)
    assert torch.equal(cmca(x, other), x)
    assert torch.equal(cmca(x, other, frames=2), x)


def test_new_attention_can_leave_the_identity() -> None:
    """Starting at zero must not mean staying there: the normalisation's weight has a gradient."""
    imsa, cmca = IntraModalitySelfAttention(CHANNELS).double(), CrossModalityCrossAttention(CHANNELS).double()
    (imsa(maps(0)).square().sum() + cmca(maps(0), maps(1)).square().sum()).backward()
    for layer in (imsa, cmca):
        gradient = layer.output[1].weight.grad
        assert isinstance(gradient, Tensor)
        assert (gradient != 0).all()


@pytest.mark.parametrize("reduction", [1, 2, 3])
def test_reduction_is_the_width_of_the_tokens(reduction: int) -> None:
    for layer in (
        IntraModalitySelfAttention(CHANNELS, reduction),
        CrossModalityCrossAttention(CHANNELS, reduction),
    ):
        assert layer.query.weight.shape == (CHANNELS // reduction, CHANNELS, 1, 1)
        assert layer.output[0].weight.shape == (CHANNELS, CHANNELS // reduction, 1, 1)


@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize(("precision", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.02)])
def test_imsa_can_use_the_fused_kernel(
    awake: Callable[[nn.Module], nn.Module],
    memory_format: torch.memory_format,
    precision: torch.dtype,
    tolerance: float,
) -> None:
    """With every other kernel forbidden, forward and backward still run, and give what the slow kernel gives."""
    layer = IntraModalitySelfAttention(16)
    awake(layer).eval().float().to(memory_format=memory_format)  # type: ignore[call-overload]
    x = torch.randn(2, 16, 12, 6, generator=torch.Generator().manual_seed(0))
    results = []
    for backend in (SDPBackend.FLASH_ATTENTION, SDPBackend.MATH):
        own = x.clone(memory_format=memory_format).requires_grad_()
        with sdpa_kernel(backend), torch.autocast("cpu", precision, enabled=precision is torch.bfloat16):
            result = layer(own)
        (gradient,) = torch.autograd.grad(result.square().sum(), own)
        results.append(torch.cat([result.flatten(), gradient.flatten()]).float())
    fused, slow = results
    assert (fused - slow).norm() < tolerance * slow.norm()


@pytest.mark.filterwarnings("ignore:.*(used because|stride 1)")
def test_the_fused_kernel_is_refused_without_contiguous_tokens() -> None:
    """What the test above would not see if torch became lenient: tokens as NCHW convolutions leave them."""
    tokens = torch.randn(2, 1, 8, 72).mT
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION), pytest.raises(RuntimeError, match="No available kernel"):
        nn.functional.scaled_dot_product_attention(tokens, tokens, tokens)


def test_exchange_swaps_the_halves_row_by_row() -> None:
    rows = torch.arange(6)[:, None]
    assert exchange(rows).flatten().tolist() == [3, 4, 5, 0, 1, 2]
    assert torch.equal(exchange(exchange(rows)), rows)
