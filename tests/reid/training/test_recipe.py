"""reid/training/recipe.py: Table 1 and Algorithm 1 as the paper prints them, and what each update really moves."""

from collections.abc import Callable, Iterable

import pytest
import torch
from torch import Tensor, nn

from reid.model.defence import CrossAttention
from reid.model.network import Attacked, Branch, Defended, Guided, Network, Outputs, Part, Structure
from reid.training import objectives
from reid.training.recipe import Criterion, Factors, Group, Stage, Update, stages
from reid.types import Distance, Recipe, Variant

IDENTITIES = 3
S, A, WA, D, WD, G, WG = Part
BACKBONE = {S, D, WD}
CMCA = {"cmca3", "cmca4"}
FRM_STIG, FRM_STIG_STAR, FR_E_TI = {"motion", "spatial", "gate"}, {"motion", "gate"}, {"motion"}

# Table 1: parts, what the defence has beside trunk and neck, and what FRM-STIG is made of.
TABLE_1: dict[Variant, tuple[set[Part], set[str], set[str]]] = {
    Variant.BASELINE: (BACKBONE, set(), set()),
    Variant.ASAM: (BACKBONE | {A, WA}, set(), set()),
    Variant.ADM: (BACKBONE, CMCA, set()),
    Variant.FRM_STIG: (BACKBONE | {G, WG}, set(), FRM_STIG),
    Variant.ASAM_ADM: (BACKBONE | {A, WA}, CMCA, set()),
    Variant.ASAM_ADM_FR_E_TI: (BACKBONE | {A, WA, G, WG}, CMCA, FR_E_TI),
    Variant.ASAM_ADM_FRM_STIG_STAR: (BACKBONE | {A, WA, G, WG}, CMCA, FRM_STIG_STAR),
    Variant.FULL: (BACKBONE | {A, WA, G, WG}, CMCA, FRM_STIG),
}

# Algorithm 1: the branch, what is minimised and with which weight, and what is updated, line by line.
FACTORS = Factors(lambda1=2.0, lambda2=3.0, lambda3=5.0)
DEFENDING, GUIDING, ATTACKING = {"def_id": 3.0, "def_tri": 3.0}, {"p_id": 5.0}, {"cov_id": 1.0, "att_id": 2.0}
ALGORITHM_1: dict[str, list[tuple[Branch, dict[str, float], set[Part]]]] = {
    "I": [
        (Branch.DEFEND, DEFENDING, {S, D, WD}),  # line 2
        (Branch.GUIDE, GUIDING, {S, D, G, WG}),  # line 3
        (Branch.ATTACK, ATTACKING, {S, A, WA}),  # lines 4 and 5
    ],
    "II": [
        (Branch.DEFEND, DEFENDING, {D}),  # lines 8 and 9
        (Branch.GUIDE, GUIDING, {S, D, G, WG}),  # line 10
        (Branch.ATTACK, ATTACKING, {S, A, WA}),  # line 11
    ],
}


def network(variant: Variant) -> Network:
    torch.manual_seed(0)
    return Network(
        Structure(
            IDENTITIES,
            "thin",
            attacker=variant.attacker,
            cross=CrossAttention() if variant.cross_attention else None,
            guide=variant.guide,
        )
    ).double()


def stages_of(module: Network, recipe: Recipe) -> tuple[Stage, Stage]:
    return stages(frozenset(module.parts), FACTORS, recipe)


def batch(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Clips of both modalities, three identities once in each, and the identity of every row."""
    generator = torch.Generator().manual_seed(seed)
    visible, infrared = torch.randn(2, IDENTITIES, 2, 3, 96, 16, dtype=torch.float64, generator=generator)
    return visible, infrared, torch.arange(IDENTITIES).repeat(2)


def criterion(
    gather: Callable[[Tensor], Tensor] = lambda rows: rows, *, after_neck: bool = False
) -> Criterion:
    return Criterion(0.3, Distance.EUCLIDEAN_UNIT, after_neck, gather)


def trainable(module: Network) -> set[str]:
    return {name for name, parameter in module.named_parameters() if parameter.requires_grad}


def freeze_all_but(module: Network, parts: Iterable[Part], born_trainable: set[str]) -> None:
    for part, child in module.parts.items():
        for name, parameter in child.named_parameters():
            parameter.requires_grad_(part in parts and f"{part}.{name}" in born_trainable)


def backward(module: Network, group: Group, born_trainable: set[str]) -> dict[str, Tensor]:
    """What the engine does before its step. The gradients, of every parameter that has one."""
    visible, infrared, identity = batch()
    freeze_all_but(module, group.trains, born_trainable)
    module.zero_grad(set_to_none=True)
    outputs = module(group.branches, visible, infrared, spares_stem=group.spares_stem)
    losses = criterion()(outputs, identity)
    weights = {name: weight for update in group.updates for name, weight in update.objectives.items()}
    assert weights.keys() == losses.keys()
    total = torch.stack([weight * losses[name] for name, weight in weights.items()]).sum()
    total.backward()  # type: ignore[no-untyped-call]
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("variant", Variant)
def test_a_variant_has_the_parts_of_its_row_in_table_1_and_no_others(variant: Variant) -> None:
    parts, cross, guidance = TABLE_1[variant]
    module = network(variant)
    assert set(module.parts) == parts
    assert {name for name, _ in module.named_children()} == parts
    assert {name for name, _ in module.defence.named_children()} == {"layers", "neck"} | cross
    if guidance:
        assert {name for name, _ in module.guidance.named_children()} == guidance | {"neck"}
        assert list(module.guidance.neck.parameters()) == []
    if A in parts:
        assert {name for name, _ in module.attacker.named_children()} == {"imsa", "layers", "neck"}


def test_table_1_has_eight_rows() -> None:
    assert len(TABLE_1) == len(Variant) == 8


@pytest.mark.parametrize("variant", Variant)
def test_the_updates_are_the_lines_of_algorithm_1_whose_parts_exist(variant: Variant) -> None:
    parts = TABLE_1[variant][0]
    first, second = stages(frozenset(parts), FACTORS, Recipe.ALGORITHM1)
    assert (first.name, second.name) == ("I", "II")
    for stage in (first, second):
        lines = [line for line in ALGORITHM_1[stage.name] if line[2] <= parts]
        assert [group.updates for group in stage.groups] == [
            (Update(branch, weights, frozenset(trains)),) for branch, weights, trains in lines
        ]
    branches = [group.name for group in first.groups]
    assert ("attack" in branches) == variant.attacker
    assert ("guide" in branches) == (variant.guide is not None)
    assert "defend" in branches


def test_the_weights_of_the_paper_are_one_and_two_halves() -> None:
    assert Factors() == Factors(lambda1=1.0, lambda2=0.5, lambda3=0.5)


@pytest.mark.parametrize(
    ("recipe", "parts", "names"),
    [
        (Recipe.ALGORITHM1, set(Part), ["defend", "guide", "attack"]),
        (Recipe.MERGED, set(Part), ["defend+guide", "attack"]),
        (Recipe.JOINT, set(Part), ["defend+guide+attack"]),
        (Recipe.MERGED, BACKBONE, ["defend"]),
        (Recipe.MERGED, BACKBONE | {A, WA}, ["defend", "attack"]),
        (Recipe.JOINT, BACKBONE | {G, WG}, ["defend+guide"]),
    ],
)
def test_a_recipe_says_which_updates_share_a_step(recipe: Recipe, parts: set[Part], names: list[str]) -> None:
    for stage in stages(frozenset(parts), FACTORS, recipe):
        assert [group.name for group in stage.groups] == names


@pytest.mark.parametrize("recipe", Recipe)
def test_only_the_defence_of_step_2_spares_the_stem(recipe: Recipe) -> None:
    first, second = stages(frozenset(Part), FACTORS, recipe)
    assert [group.spares_stem for group in first.groups if group.spares_stem] == []
    assert [group.spares_stem for group in second.groups if group.spares_stem] == [(Branch.DEFEND,)]


def reached(branch: Branch, stage: str) -> tuple[str, ...]:
    """How the names of the parameters begin that an update moves: those of its parts that its branch runs through."""
    stem = ("stem.",)
    match branch:
        case Branch.DEFEND:
            return ("defence.", *((*stem, "defence_classifier.") if stage == "I" else ()))
        case Branch.GUIDE:
            return (*stem, "defence.layers.", "guidance.", "guided_classifier.")
        case Branch.ATTACK:
            return (*stem, "attacker.", "attack_classifier.")


@pytest.mark.parametrize("recipe", Recipe)
@pytest.mark.parametrize("variant", Variant)
def test_an_update_moves_the_parameters_it_names_and_no_others(variant: Variant, recipe: Recipe) -> None:
    """One iteration of each stage, with one optimizer whose momentum and decay would move what merely has a zero
    gradient. In Step II, W_def holds the momentum of Step I and still rests.
    """
    module = network(variant)
    born_trainable = trainable(module)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4, nesterov=True)
    for stage in stages_of(module, recipe):
        for group in stage.groups:
            before = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
            backward(module, group, born_trainable)
            optimizer.step()
            moved = {name for name, p in module.named_parameters() if not torch.equal(p, before[name])}
            prefixes = tuple(prefix for branch in group.branches for prefix in reached(branch, stage.name))
            assert moved == {name for name in born_trainable if name.startswith(prefixes)}, group.name
            assert {Part(name.partition(".")[0]) for name in moved} == group.trains


@pytest.mark.parametrize("variant", Variant)
def test_the_biases_of_the_necks_are_never_trained(variant: Variant) -> None:
    module = network(variant)
    biases = {name for name, _ in module.named_parameters() if name.endswith("neck.norm.bias")}
    assert biases == {"defence.neck.norm.bias"} | ({"attacker.neck.norm.bias"} if variant.attacker else set())
    assert trainable(module) == {name for name, _ in module.named_parameters()} - biases


@pytest.mark.parametrize("recipe", [Recipe.MERGED, Recipe.JOINT])
@pytest.mark.parametrize("variant", [Variant.FRM_STIG, Variant.ASAM_ADM, Variant.FULL])
def test_a_shared_step_has_the_sum_of_the_gradients_of_its_updates(variant: Variant, recipe: Recipe) -> None:
    """Parameter by parameter, in both stages: sharing a forward adds no way for a gradient and closes none."""
    module = network(variant)
    born_trainable = trainable(module)
    for parameter in module.parameters():
        if parameter.requires_grad:
            parameter.data.add_(0.05 * torch.randn_like(parameter))  # so that attention is not the identity
    for stage in stages_of(module, recipe):
        for group in stage.groups:
            expected: dict[str, Tensor] = {}
            for update in group.updates:
                for name, gradient in backward(module, Group((update,)), born_trainable).items():
                    expected[name] = expected[name] + gradient if name in expected else gradient
            found = backward(module, group, born_trainable)
            assert found.keys() == expected.keys()
            for name, gradient in found.items():
                torch.testing.assert_close(gradient, expected[name], rtol=1e-8, atol=1e-12, msg=name)


def outputs() -> Outputs:
    generator = torch.Generator().manual_seed(0)

    def draw(width: int) -> Tensor:
        return torch.randn(4, width, dtype=torch.float64, generator=generator)

    return Outputs(Defended(draw(6), draw(6), draw(3)), Guided(draw(3)), Attacked(draw(3), draw(3)))


IDENTITY = torch.tensor([0, 2, 0, 2])


def test_the_criterion_gives_every_objective_the_output_the_paper_gives_it() -> None:
    drawn = outputs()
    assert drawn.defend is not None
    assert drawn.guide is not None
    assert drawn.attack is not None
    losses = criterion()(drawn, IDENTITY)
    expected = {
        "def_id": nn.functional.cross_entropy(drawn.defend.logits, IDENTITY),  # Eq. 9
        "def_tri": objectives.triplet(drawn.defend.feature, IDENTITY, 0.3, Distance.EUCLIDEAN_UNIT),  # Eq. 10
        "p_id": nn.functional.cross_entropy(drawn.guide.logits, IDENTITY),  # Eq. 16
        "cov_id": -drawn.attack.defence_logits.softmax(1).log().mean(),  # Eq. 3
        "att_id": nn.functional.cross_entropy(drawn.attack.logits, IDENTITY),  # Eq. 5
    }
    assert losses.keys() == expected.keys()
    for name, loss in losses.items():
        torch.testing.assert_close(loss, expected[name])


def test_the_weighted_objectives_of_a_joint_step_are_equation_17() -> None:
    losses = criterion()(outputs(), IDENTITY)
    (group,) = stages(frozenset(Part), FACTORS, Recipe.JOINT)[0].groups
    weighted = sum(w * losses[name] for update in group.updates for name, w in update.objectives.items())
    total = losses["cov_id"] + 2 * losses["att_id"]
    total = total + 3 * (losses["def_id"] + losses["def_tri"]) + 5 * losses["p_id"]
    torch.testing.assert_close(weighted, total)


def test_the_criterion_is_silent_about_branches_that_did_not_run() -> None:
    drawn = outputs()
    assert criterion()(Outputs(), IDENTITY) == {}
    assert criterion()(Outputs(guide=drawn.guide), IDENTITY).keys() == {"p_id"}
    assert criterion()(Outputs(attack=drawn.attack), IDENTITY).keys() == {"cov_id", "att_id"}


def test_the_literal_triplet_takes_the_feature_after_the_neck() -> None:
    drawn = outputs()
    assert drawn.defend is not None
    loss = criterion(after_neck=True)(drawn, IDENTITY)["def_tri"]
    expected = objectives.triplet(drawn.defend.normalised, IDENTITY, 0.3, Distance.EUCLIDEAN_UNIT)
    torch.testing.assert_close(loss, expected)


def test_triplets_are_mined_over_the_gathered_rows_and_the_rest_over_our_own() -> None:
    drawn, remote = outputs(), torch.randn(4, 6, dtype=torch.float64)
    assert drawn.defend is not None

    def gather(rows: Tensor) -> Tensor:
        return torch.cat([rows, remote if rows.is_floating_point() else rows])

    losses, own = criterion(gather)(drawn, IDENTITY), criterion()(drawn, IDENTITY)
    expected = objectives.triplet(
        torch.cat([drawn.defend.feature, remote]), IDENTITY.repeat(2), 0.3, Distance.EUCLIDEAN_UNIT
    )
    torch.testing.assert_close(losses["def_tri"], expected)
    assert not torch.allclose(losses["def_tri"], own["def_tri"])
    assert all(torch.equal(losses[name], own[name]) for name in own if name != "def_tri")
