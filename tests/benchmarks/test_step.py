"""The benchmark of an iteration: its floor holds what it should, and its rival computes the same."""

import pytest
import torch

from benchmarks.step import Floor, Size, Training, batch, passes
from reid.runtime import Runtime
from reid.types import Recipe, Variant

SIZE = Size(identities=2, tracklets=1, frames=2, height=96, width=48)
FRAMES = SIZE.clips * SIZE.frames


@pytest.fixture(scope="module")
def runtime() -> Runtime:
    return Runtime.start(precision="fp32", device="cpu", seed=0, deterministic=False)


def full(recipe: Recipe, runtime: Runtime, *, literal: bool = False) -> Training:
    return Training(Variant.FULL, recipe, runtime, literal=literal)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "stage", "forward", "backward"),
    [  # stem, layers 1 to 3, layer 4; the attacker's trunk is one pass of the layers
        (Recipe.ALGORITHM1, 0, (3, 3, 4), (3, 3, 4)),
        (Recipe.ALGORITHM1, 1, (3, 3, 4), (2, 3, 4)),
        (Recipe.MERGED, 0, (2, 2, 3), (2, 2, 3)),
        (Recipe.JOINT, 0, (1, 2, 3), (1, 2, 3)),
    ],
)
def test_the_floor_holds_the_passes_that_the_recipe_needs(
    runtime: Runtime, recipe: Recipe, stage: int, forward: tuple[int, ...], backward: tuple[int, ...]
) -> None:
    training = full(recipe, runtime)
    counted = passes(training, training.stages[stage], batch(SIZE, runtime.device))
    for counts, expected in ((counted.forward, forward), (counted.backward, backward)):
        assert tuple(counts[piece] / FRAMES for piece in ("stem", "layer3", "layer4")) == expected


@pytest.mark.slow
def test_literal_code_computes_what_it_is_compared_with(runtime: Runtime) -> None:
    """The attention starts as the identity, so it is opened first."""
    outputs = []
    for literal in (False, True):
        training = full(Recipe.JOINT, runtime, literal=literal)
        torch.nn.init.ones_(training.network.attacker.imsa[0].output[1].weight)
        group = training.stages[0].groups[0]
        losses = training.updater.apply(group, *batch(SIZE, runtime.device)._replace(**_clips()))
        outputs.append({name: loss.item() for name, loss in losses.items()})
    norms = [losses.pop("gradient_norm") for losses in outputs]
    assert outputs[1] == pytest.approx(outputs[0], rel=1e-4)
    assert norms[1] == pytest.approx(norms[0], rel=1e-2)  # in fp32, through 50 layers


def test_the_floor_is_a_resnet_50_with_the_last_stride_of_the_paper(runtime: Runtime) -> None:
    pieces = Floor(runtime, SIZE)._pieces
    assert {name: tuple(x.shape[1:]) for name, (_, x) in pieces.items()} == {
        "stem": (3, 96, 48),
        "layer1": (64, 24, 12),
        "layer2": (256, 24, 12),
        "layer3": (512, 12, 6),
        "layer4": (1024, 6, 3),
    }


def _clips() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    shape = (SIZE.clips // 2, SIZE.frames, 3, SIZE.height, SIZE.width)
    return {name: torch.randn(shape, generator=generator) for name in ("visible", "infrared")}
