"""reid/model/defence.py: Eqs. 6 to 8 frame by frame and by hand, and what its passes remember."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from reid.model.defence import CrossAttention, Defence
from reid.model.neck import average_pool
from reid.model.resnet import ARCHITECTURES

THIN = ARCHITECTURES["thin"]
CLIPS, FRAMES = 2, 3  # of each modality


def defence(cross: CrossAttention | None = CrossAttention()) -> Defence:  # noqa: B008  (frozen)
    torch.manual_seed(0)
    return Defence(THIN, last_stride=1, cross=cross)


def maps(seed: int = 1) -> Tensor:
    """F_c of both modalities, visible rows first."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2 * CLIPS * FRAMES, THIN.channels(0), 16, 8, dtype=torch.float64, generator=generator)


def mean_of_cells(frames: list[Tensor]) -> Tensor:
    """GAP: frames (1, D, H, W) of one clip -> (D,)."""
    total = torch.zeros(frames[0].shape[1], dtype=torch.float64)
    for frame in frames:
        for h in range(frame.shape[2]):
            for w in range(frame.shape[3]):
                total += frame[0, :, h, w]
    return total / (len(frames) * frames[0].shape[2] * frames[0].shape[3])


def equation_8(module: Defence, x: Tensor) -> list[Tensor]:
    """Eqs. 6, 7 and 8 before BN, as they stand in the paper: one frame of one pair of clips at a time."""
    features: dict[str, list[Tensor]] = {"V": [], "I": []}
    e_def3, con_la4 = module.layers.shallow, module.layers.layer4
    for i in range(CLIPS):
        fused: dict[str, list[Tensor]] = {"V": [], "I": []}
        for t in range(FRAMES):
            f_c = {"V": x[FRAMES * i + t][None], "I": x[FRAMES * (CLIPS + i) + t][None]}
            f_d3 = {modality: e_def3(f_c[modality]) for modality in "VI"}
            f_d = {modality: con_la4(f_d3[modality]) for modality in "VI"}
            for own, other in ("VI", "IV"):
                crossed_3 = con_la4(module.cmca3(f_d3[own], f_d3[other]))
                crossed = module.cmca4(f_d[own], f_d[other])
                fused[own].append((crossed_3 + crossed) / 2)
        for modality in "VI":
            features[modality].append(mean_of_cells(fused[modality]))
    return features["V"] + features["I"]


@torch.no_grad()
def test_trunk_is_equation_6() -> None:
    module = defence(None).double().eval()
    x = maps()
    shallow, deep = module.trunk(x)
    first_three = module.layers.layer3(module.layers.layer2(module.layers.layer1(x)))
    assert torch.equal(shallow, first_three)
    assert torch.equal(deep, module.layers.layer4(first_three))


@torch.no_grad()
def test_feature_is_equations_7_and_8_frame_by_frame(awake: Callable[[nn.Module], nn.Module]) -> None:
    module = defence()
    awake(module).eval()
    x = maps()
    feature = module.feature(*module.trunk(x), FRAMES)
    torch.testing.assert_close(feature, torch.stack(equation_8(module, x)))
    torch.testing.assert_close(
        module.neck(feature),
        torch.stack([_neck(module.neck.norm, clip) for clip in equation_8(module, x)]),
    )


def _neck(norm: nn.BatchNorm1d, feature: Tensor) -> Tensor:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return (feature - norm.running_mean) / (norm.running_var + norm.eps) ** 0.5 * norm.weight


@torch.no_grad()
def test_fusion_of_equation_8_by_hand() -> None:
    """A CMCA whose normalisation has weight 0 and bias b adds b to every cell. Behind ConLa4 stand a map that is 0
    everywhere and a CMCA that adds 3: the mean of (0 + (0 + 3)) / 2 is 1.5.
    """
    module = defence().double().eval()
    block = module.layers.layer4[0]
    for norm in (block.bn2, block.downsample[1]):
        norm.weight.fill_(0)
    module.cmca4.output[1].bias.fill_(3)
    feature = module.feature(*module.trunk(maps()), FRAMES)
    assert feature.unique().tolist() == [1.5]


@torch.no_grad()
def test_a_new_defence_gives_the_feature_of_the_baseline() -> None:
    """CMCA starts as the identity, so that (ConLa4(F_d3) + F_d) / 2 is F_d."""
    module, baseline = defence().double().eval(), defence(None).double().eval()
    baseline.layers.load_state_dict(module.layers.state_dict())
    x = maps()
    torch.testing.assert_close(
        module.feature(*module.trunk(x), FRAMES), baseline.feature(*baseline.trunk(x), FRAMES)
    )


@torch.no_grad()
def test_the_baseline_pools_the_trunk_and_has_no_cmca() -> None:
    module = defence(None).double().eval()
    shallow, deep = module.trunk(maps())
    assert torch.equal(module.feature(shallow, deep, FRAMES), average_pool(deep, FRAMES))
    assert not [name for name, _ in module.named_modules() if "cmca" in name]


@torch.no_grad()
def test_with_gem_the_feature_is_its_mean_over_the_cells_and_the_average_of_frames() -> None:
    module = Defence(THIN, last_stride=1, cross=None, generalized_mean=True).double().eval()
    shallow, deep = module.trunk(maps())
    expected = ((deep.clamp(min=1e-6) ** 3).mean((2, 3)) ** (1 / 3)).unflatten(0, (-1, FRAMES)).mean(1)
    torch.testing.assert_close(module.feature(shallow, deep, FRAMES), expected)


@pytest.mark.parametrize("pair_clips", [False, True], ids=["frames", "clips"])
@torch.no_grad()
def test_a_frame_sees_its_partner_frame_or_its_partner_clip(
    awake: Callable[[nn.Module], nn.Module], pair_clips: bool
) -> None:
    """A change in frame 1 of infrared clip 0 reaches visible clip 0 either way, but its other frames only through
    the clip pairing; no other clip ever.
    """
    module = defence(CrossAttention(pair_clips=pair_clips))
    awake(module).eval()
    x = maps()
    changed = x.clone()
    changed[FRAMES * CLIPS + 1] += 1
    calls: list[Tensor] = []
    module.cmca4.register_forward_hook(lambda _, __, output: calls.append(output))
    before, after = (module.feature(*module.trunk(rows), FRAMES) for rows in (x, changed))
    moved = (before != after).any(1).tolist()
    assert moved == [True, False, True, False]
    frames = (calls[0] != calls[1]).flatten(1).any(1).unflatten(0, (2 * CLIPS, FRAMES))
    assert frames[0].tolist() == ([True, True, True] if pair_clips else [False, True, False])
    assert frames[2].tolist() == [False, True, False]


@torch.no_grad()
def test_alone_a_frame_is_its_own_partner(awake: Callable[[nn.Module], nn.Module]) -> None:
    """Equal to a batch in which both modalities hold the same clips."""
    module = defence()
    awake(module).eval()
    one = maps()[: CLIPS * FRAMES]
    twice = torch.cat([one, one])
    alone = module.feature(*module.trunk(one), FRAMES, alone=True)
    paired = module.feature(*module.trunk(twice), FRAMES)
    torch.testing.assert_close(torch.cat([alone, alone]), paired)


def statistics(module: nn.Module) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in module.named_buffers()}


def changed(before: dict[str, Tensor], module: nn.Module) -> set[str]:
    """Names of the normalisations in `module` that remember something new."""
    after = statistics(module)
    return {name.rpartition(".")[0] for name in after if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize("updated", [False, True])
def test_the_pass_over_cmca_leaves_the_statistics_of_layer4_alone_unless_asked(updated: bool) -> None:
    module = defence(CrossAttention(update_statistics=updated)).double()
    shallow, deep = module.trunk(maps())
    before = statistics(module)
    module.feature(shallow, deep, FRAMES)
    norms = {name for name, part in module.layers.layer4.named_modules() if isinstance(part, _BatchNorm)}
    layer4 = {f"layers.layer4.{name}" for name in norms}
    assert len(layer4) == 3
    assert changed(before, module) == {"cmca3.output.1", "cmca4.output.1"} | (layer4 if updated else set())


@pytest.mark.parametrize("updated", [False, True])
def test_the_pass_over_cmca_normalises_by_its_own_batch(
    awake: Callable[[nn.Module], nn.Module], updated: bool
) -> None:
    """Whether statistics are remembered changes no output of training."""
    module, other = defence(CrossAttention(update_statistics=updated)), defence()
    awake(module)
    awake(other)
    other.layers.eval()
    x = maps()
    remembering = module.feature(*module.trunk(x), FRAMES)
    assert not torch.allclose(other.feature(*other.trunk(x), FRAMES), remembering)
    other.layers.train()
    torch.testing.assert_close(other.feature(*other.trunk(x), FRAMES), remembering)


def test_after_the_pass_over_cmca_layer4_remembers_again() -> None:
    module = defence().double()
    module.feature(*module.trunk(maps()), FRAMES)
    before = statistics(module.layers.layer4)
    module.trunk(maps(2))
    assert changed(before, module.layers.layer4) == {"0.bn1", "0.bn2", "0.downsample.1"}


def test_a_failed_pass_over_cmca_leaves_layer4_remembering() -> None:
    module = defence().double()
    shallow, deep = module.trunk(maps())
    module.layers.layer4.register_forward_pre_hook(lambda *_: pytest.fail("as a kernel would"))
    with pytest.raises(pytest.fail.Exception):
        module.feature(shallow, deep, FRAMES)
    assert all(part.track_running_stats for part in module.modules() if isinstance(part, _BatchNorm))


def test_in_evaluation_nothing_is_remembered() -> None:
    module = defence(CrossAttention(update_statistics=True)).double().eval()
    before = statistics(module)
    module.feature(*module.trunk(maps()), FRAMES)
    assert changed(before, module) == set()
