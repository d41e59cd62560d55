"""reid/model/network.py: the parts joined as the paper joins them, and the vectors that retrieval compares."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import resnet50

from reid.model.defence import CrossAttention
from reid.model.neck import average_pool
from reid.model.network import Branch, Network, Part, Structure
from reid.types import Embedding, Guide, Modality

CLIPS, FRAMES, IDENTITIES = 3, 2, 5


def network(
    *,
    attacker: bool = True,
    cross: CrossAttention | None = CrossAttention(),  # noqa: B008  (frozen)
    guide: Guide | None = Guide.FULL,
    separate_attention: bool = False,
) -> Network:
    torch.manual_seed(0)
    return Network(
        Structure(
            IDENTITIES,
            "thin",
            attacker=attacker,
            cross=cross,
            guide=guide,
            separate_attention=separate_attention,
        )
    )


@pytest.fixture
def full(awake: Callable[[nn.Module], nn.Module]) -> Network:
    """All parts, in evaluation, with attention that shows."""
    module = network()
    awake(module).eval()
    for classifier in (module.attack_classifier, module.defence_classifier, module.guided_classifier):
        nn.init.normal_(classifier.weight)
    return module


def clips(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(CLIPS, FRAMES, 3, 96, 32, dtype=torch.float64, generator=generator)


@torch.no_grad()
def test_every_branch_is_the_chain_of_its_parts(full: Network) -> None:
    visible, infrared = clips(0), clips(1)
    outputs = full(tuple(Branch), visible, infrared)
    x = torch.cat([full.stem.visible(visible.flatten(0, 1)), full.stem.infrared(infrared.flatten(0, 1))])
    shallow = full.defence.layers.shallow(x)
    deep = full.defence.layers.layer4(shallow)
    feature = full.defence.feature(shallow, deep, FRAMES)
    normalised = full.defence.neck(feature)
    attacked = full.attacker(x, FRAMES)
    expected = {
        "feature": (outputs.defend.feature, feature),
        "f_d": (outputs.defend.normalised, normalised),
        "W_def": (outputs.defend.logits, normalised @ full.defence_classifier.weight.T),
        "W_se": (outputs.guide.logits, full.guidance(deep, FRAMES) @ full.guided_classifier.weight.T),
        "W_def of f": (outputs.attack.defence_logits, attacked @ full.defence_classifier.weight.T),
        "W_att": (outputs.attack.logits, attacked @ full.attack_classifier.weight.T),
    }
    for name, (found, wanted) in expected.items():
        assert found.shape[0] == 2 * CLIPS, name
        torch.testing.assert_close(found, wanted, msg=lambda text, name=name: f"{name}: {text}")


@torch.no_grad()
def test_branches_do_not_depend_on_which_others_run_beside_them(full: Network) -> None:
    visible, infrared = clips(0), clips(1)
    together = full(tuple(Branch), visible, infrared, spares_stem=(Branch.DEFEND,))
    for branch in Branch:
        alone = full((branch,), visible, infrared)
        assert {other: getattr(alone, other) is not None for other in Branch} == {
            other: other is branch for other in Branch
        }
        for one, other in zip(getattr(alone, branch), getattr(together, branch), strict=True):
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize(("modality", "row"), [("visible", 1), ("infrared", 2)])
@torch.no_grad()
def test_a_clip_moves_its_own_rows_and_its_partner_only_through_cmca(
    full: Network, modality: str, row: int
) -> None:
    """Visible row i and infrared row i are partners; no other row sees a change in either."""
    batch = {"visible": clips(0), "infrared": clips(1)}
    before = full(tuple(Branch), **batch)
    batch[modality][row] += 1
    after = full(tuple(Branch), **batch)
    own = row if modality == "visible" else CLIPS + row
    partner = CLIPS + row if modality == "visible" else row

    def moved(old: Tensor, new: Tensor) -> set[int]:
        return set((old != new).any(1).nonzero().flatten().tolist())

    assert moved(before.defend.feature, after.defend.feature) == {own, partner}
    assert moved(before.guide.logits, after.guide.logits) == {own}
    assert moved(before.attack.logits, after.attack.logits) == {own}


@torch.no_grad()
def test_permuting_the_pairs_permutes_the_outputs(full: Network) -> None:
    order = torch.tensor([2, 0, 1])
    outputs = full(tuple(Branch), clips(0), clips(1))
    permuted = full(tuple(Branch), clips(0)[order], clips(1)[order])
    both = torch.cat([order, CLIPS + order])
    for branch in Branch:
        for one, other in zip(getattr(outputs, branch), getattr(permuted, branch), strict=True):
            torch.testing.assert_close(one[both], other)


@torch.no_grad()
def test_separate_attention_gives_infrared_its_own_imsa() -> None:
    module = network(separate_attention=True).double().eval()
    before = module((Branch.ATTACK,), clips(0), clips(1)).attack.logits
    nn.init.ones_(module.attacker.imsa[1].output[1].bias)
    after = module((Branch.ATTACK,), clips(0), clips(1)).attack.logits
    assert torch.equal(before[:CLIPS], after[:CLIPS])
    assert (before[CLIPS:] != after[CLIPS:]).any(1).all()


def test_a_spared_stem_gets_no_gradient_and_the_rest_gets_the_same() -> None:
    module = network().double().eval()
    gradients = []
    for spared in ((), (Branch.DEFEND,)):
        module.zero_grad(set_to_none=True)
        outputs = module((Branch.DEFEND,), clips(0), clips(1), spares_stem=spared)
        outputs.defend.logits.square().sum().backward()
        gradients.append({n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None})
    live, spared_gradients = gradients
    stem = {name for name in live if name.startswith("stem.")}
    assert len(stem) == 6
    assert spared_gradients.keys() == live.keys() - stem
    for name, gradient in spared_gradients.items():
        torch.testing.assert_close(gradient, live[name])


def test_the_attack_passes_through_the_frozen_classifier_and_not_into_it() -> None:
    module = network().double()
    outputs = module((Branch.ATTACK,), clips(0), clips(1))
    outputs.attack.defence_logits.square().sum().backward()
    assert module.defence_classifier.weight.grad is None
    assert all(parameter.grad is None for parameter in module.defence.parameters())
    assert module.attacker.layers.layer1[0].conv1.weight.grad.abs().max() > 0
    assert module.stem.visible.conv1.weight.grad.abs().max() > 0


@pytest.mark.parametrize("modality", Modality)
@torch.no_grad()
def test_embeddings_are_the_vectors_of_the_paper_at_unit_length(full: Network, modality: Modality) -> None:
    x = clips(3)
    stem = full.stem.visible if modality is Modality.VISIBLE else full.stem.infrared
    shallow = full.defence.layers.shallow(stem(x.flatten(0, 1)))
    deep = full.defence.layers.layer4(shallow)
    guided = full.guidance(deep, FRAMES)
    pooled = full.defence.neck(average_pool(deep, FRAMES))
    crossed = full.defence.layers.layer4(full.defence.cmca3(shallow, shallow))
    attended = full.defence.neck(average_pool((crossed + full.defence.cmca4(deep, deep)) / 2, FRAMES))
    expected = {
        Embedding.AUTO: guided,
        Embedding.GUIDED: guided,
        Embedding.GLOBAL: pooled,
        Embedding.SELF_ATTENDED: attended,
        Embedding.BOTH: torch.cat([F.normalize(guided), F.normalize(pooled)], 1),
    }
    assert guided.shape == (CLIPS, 6 * 128)
    assert pooled.shape == (CLIPS, 128)
    for kind in Embedding:
        found = full.embed(x, modality, kind)
        torch.testing.assert_close(found, F.normalize(expected[kind]))
        torch.testing.assert_close(found.norm(dim=1), torch.ones(CLIPS, dtype=torch.float64))
        assert found.shape[1] == full.embedding_width(kind)


@pytest.mark.parametrize("modality", Modality)
@torch.no_grad()
def test_what_imsa_makes_of_a_stems_features_can_be_embedded_in_their_place(
    awake: Callable[[nn.Module], nn.Module], modality: Modality
) -> None:
    module = network(separate_attention=True)
    awake(module).eval()
    features = module.stem_features(clips(3), modality)
    assert torch.equal(module.embed_features(features, FRAMES), module.embed(clips(3), modality))
    attacked = module.self_attacked(features, modality)
    place = 0 if modality is Modality.VISIBLE else 1
    assert torch.equal(attacked, module.attacker.imsa[place](features))
    assert attacked.shape == features.shape
    embedded = module.embed_self_attacked(clips(3), modality)
    assert torch.equal(embedded, module.embed_features(attacked, FRAMES))
    assert (embedded - module.embed(clips(3), modality)).norm(dim=1).min() > 1e-3


def test_without_an_attack_branch_there_is_no_attack_of_asams_own() -> None:
    with pytest.raises(ValueError, match="needs the attack branch, which this variant does not have"):
        network(attacker=False).self_attacked(torch.zeros(2, 16, 8, 4), Modality.VISIBLE)


@pytest.mark.parametrize("kind", Embedding)
@torch.no_grad()
def test_an_embedding_needs_neither_partner_nor_batch(full: Network, kind: Embedding) -> None:
    x = clips(3)
    together = full.embed(x, Modality.INFRARED, kind)
    for row in range(CLIPS):
        torch.testing.assert_close(full.embed(x[row][None], Modality.INFRARED, kind)[0], together[row])


@torch.no_grad()
def test_an_embedding_takes_the_stem_of_its_modality(full: Network) -> None:
    before = {modality: full.embed(clips(3), modality) for modality in Modality}
    nn.init.zeros_(full.stem.infrared.conv1.weight)
    assert torch.equal(full.embed(clips(3), Modality.VISIBLE), before[Modality.VISIBLE])
    assert not torch.allclose(full.embed(clips(3), Modality.INFRARED), before[Modality.INFRARED])


@torch.no_grad()
def test_without_guidance_the_automatic_embedding_is_the_global_one() -> None:
    module = network(guide=None).double().eval()
    automatic = module.embed(clips(3), Modality.VISIBLE)
    assert torch.equal(automatic, module.embed(clips(3), Modality.VISIBLE, Embedding.GLOBAL))
    assert automatic.shape == (CLIPS, module.embedding_width()) == (CLIPS, 128)


@pytest.mark.parametrize(
    ("kind", "missing"),
    [
        (Embedding.GUIDED, "FRM-STIG"),
        (Embedding.BOTH, "FRM-STIG"),
        (Embedding.SELF_ATTENDED, "CMCA"),
    ],
)
def test_an_embedding_the_variant_cannot_give_is_an_error_that_names_the_remedy(
    kind: Embedding, missing: str
) -> None:
    baseline = network(attacker=False, cross=None, guide=None)
    with pytest.raises(ValueError, match=rf"evaluation\.embedding: {kind} needs {missing}.*use auto"):
        baseline.embed(clips(3).float(), Modality.VISIBLE, kind)


def test_pretrained_weights_reach_both_stems_and_both_trunks_and_nothing_else() -> None:
    torch.manual_seed(1)
    weights = resnet50(weights=None).state_dict()
    module = Network(Structure(IDENTITIES))
    before = {name: value.clone() for name, value in module.state_dict().items()}
    module.load_pretrained(weights)
    after = module.state_dict()
    homes = ("stem.visible.", "stem.infrared.", "attacker.layers.", "defence.layers.")
    for name, value in after.items():
        home = next((home for home in homes if name.startswith(home)), None)
        assert torch.equal(value, before[name] if home is None else weights[name.removeprefix(home)]), name
    with pytest.raises(ValueError, match=r"model\.weights do not fit the backbone"):
        network().load_pretrained(weights)


def test_the_network_of_the_paper_has_the_parameters_counted_by_hand() -> None:
    """ResNet-50 has 25,557,032 parameters, of which 2,049,000 are its head and 9,536 its stem."""
    with torch.device("meta"):
        module = Network(Structure(num_identities=500))
    layers = 25_557_032 - 2_049_000 - 9_536
    neck = 2 * 2048

    def attention(channels: int) -> int:
        """Query, key and value with biases, output without, and a normalisation."""
        width = channels // 2
        return 3 * (channels * width + width) + width * channels + 2 * channels

    lstm = 4 * (2048 * 2048 + 2048 * 2048 + 2048 + 2048)
    gate = 4096 * 256 + 256 + 256 * 2048 + 2048
    expected = {
        Part.STEM: 2 * 9_536,
        Part.ATTACKER: attention(64) + layers + neck,
        Part.ATTACK_CLASSIFIER: 2048 * 500,
        Part.DEFENCE: layers + attention(1024) + attention(2048) + neck,
        Part.DEFENCE_CLASSIFIER: 2048 * 500,
        Part.GUIDANCE: 2 * lstm + gate,
        Part.GUIDED_CLASSIFIER: 6 * 2048 * 500,
    }
    found = {part: sum(p.numel() for p in child.parameters()) for part, child in module.parts.items()}
    assert found == expected
    assert sum(found.values()) == sum(p.numel() for p in module.parameters()) == 134_437_984


@torch.no_grad()
def test_clips_enter_in_the_memory_format_that_fused_kernels_need() -> None:
    module = network(attacker=True, cross=None, guide=None).to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    seen: list[Tensor] = []
    module.attacker.imsa[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    module((Branch.ATTACK,), clips(0).float(), clips(1).float())
    assert seen[0].is_contiguous(memory_format=torch.channels_last)
