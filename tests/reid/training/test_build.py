"""reid/training/build.py: every key of the configuration reaches the code it is for."""

import pytest
import torch

from reid.data.manifest import Manifest
from reid.model.resnet import Layers, Stem
from reid.runtime import Runtime
from reid.training import build
from reid.training.recipe import Factors, stages
from reid.types import Distance, Embedding, Variant


def started() -> Runtime:
    return Runtime.start(precision="fp64", device="cpu", seed=0, deterministic=False)


def test_the_optimizer_holds_every_weight_once_and_the_trunk_at_its_own_rate(tiny):
    config = tiny()
    net = build.network(config, 8)
    optimizer = build.optimizer(config, net)
    trunk = {id(p) for m in net.modules() if isinstance(m, Stem | Layers) for p in m.parameters()}
    held = [(parameter, group) for group in optimizer.param_groups for parameter in group["params"]]
    assert sorted(id(parameter) for parameter, _ in held) == sorted(
        id(parameter) for parameter in net.parameters() if parameter.requires_grad
    )
    assert {group["peak"] for parameter, group in held if id(parameter) in trunk} == {0.012}
    assert {group["peak"] for parameter, group in held if id(parameter) not in trunk} == {0.12}
    assert all(
        (group["momentum"], group["weight_decay"], group["nesterov"]) == (0.9, 5e-4, True)
        for _, group in held
    )
    plain = build.optimizer(tiny(optimizer={"momentum": 0.0}), net)
    assert not plain.param_groups[0]["nesterov"]  # torch refuses Nesterov without momentum


@pytest.mark.parametrize("variant", Variant)
def test_a_network_has_the_parts_of_its_variant_and_stages_for_them(tiny, variant):
    config = tiny(model={"variant": variant}, objective={"lambda1": 2.0})
    net = build.network(config, 5)
    assert net.defence_classifier.weight.shape[0] == 5
    assert ("attacker" in net.parts) == variant.attacker
    assert ("guidance" in net.parts) == (variant.guide is not None)
    assert build.training_stages(config, net) == stages(frozenset(net.parts), Factors(2.0, 0.5, 0.5))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("backbone", "resnet50"),
        ("num_parts", 1),
        ("attention_reduction", 4),
        ("separate_attention", True),
        ("num_lstm_layers", 2),
        ("gate_reduction", 4),
        ("guided_neck", True),
        ("pooling", "gem"),
        ("non_local", True),
    ],
)
def test_every_choice_of_the_model_changes_its_weights(tiny, key, value):
    with torch.device("meta"):
        usual, other = (build.network(config, 8) for config in (tiny(), tiny(model={key: value})))
    shapes = [{name: tensor.shape for name, tensor in net.state_dict().items()} for net in (usual, other)]
    assert shapes[0] != shapes[1]


def test_choices_without_weights_of_their_own_arrive_too(tiny):
    net = build.network(
        tiny(model={"last_stride": 2, "num_parts": 1, "pair_clips": True, "update_cross_statistics": True}), 8
    )
    assert (net.defence.cross.pair_clips, net.defence.cross.update_statistics) == (True, True)
    maps = torch.zeros(2, net.stem.visible(torch.zeros(1, 3, 32, 16)).shape[1], 8, 4)
    assert net.defence.trunk(maps)[1].shape[2] == build.network(tiny(), 8).defence.trunk(maps)[1].shape[2] / 2


@pytest.mark.parametrize(
    ("triplet", "distance", "after_neck"),
    [
        ("auto", Distance.EUCLIDEAN_UNIT, False),
        ("euclidean", Distance.EUCLIDEAN, False),
        ("squared_bn", Distance.SQUARED, True),
    ],
)
def test_the_triplet_measures_what_is_configured(tiny, triplet, distance, after_neck):
    criterion = build.criterion(tiny(objective={"triplet": triplet, "margin": 0.2}), started())
    assert (criterion.distance, criterion.after_neck, criterion.margin) == (distance, after_neck, 0.2)


def gather_in_pair(config) -> list[float]:
    runtime = started()
    return build.criterion(config, runtime).gather(torch.tensor([float(runtime.rank)])).tolist()


def test_triplets_are_mined_over_all_processes_or_in_each(pair, tiny):
    assert pair(gather_in_pair, tiny()) == [[0.0, 1.0], [0.0, 1.0]]
    assert pair(gather_in_pair, tiny(objective={"mining": "local"})) == [[0.0], [1.0]]


def test_clips_augmentation_and_protocol_follow_their_keys(tiny, packed):
    config = tiny(
        data={"padding": 3, "flip": 0.25, "grey": 0.75, "augment_per_frame": True, "minimum_frames": 14}
        | {"channel_exchange": 0.2, "channel_erasing": 0.4},
        evaluation={
            "embedding": "both",
            "drop_same_camera": False,
            "batch_clips": 5,
            "all_clips": True,
            "rerank": True,
        },
    )
    assert tuple(build.clip_shape(config)) == (3, 32, 16)
    augmentation = build.augmentation(config)
    assert (augmentation.padding, augmentation.flip_probability) == (3, 0.25)
    assert (augmentation.grey_probability, augmentation.per_frame) == (0.75, True)
    assert (augmentation.exchange_probability, augmentation.erasing_probability) == (0.2, 0.4)
    protocol = build.protocol(config)
    assert (protocol.minimum_frames, protocol.embedding) == (14, Embedding.BOTH)
    assert (protocol.drop_same_camera, protocol.batch_clips, protocol.shape) == (
        False,
        5,
        build.clip_shape(config),
    )
    assert (protocol.all_clips, protocol.rerank) == (True, True)


def test_the_plan_draws_the_configured_batch_and_refuses_an_impossible_split(tiny, packed):
    manifest = Manifest.open(packed)
    config = tiny(data={"num_identities": 6, "num_tracklets": 3})
    plan = build.batch_plan(config, manifest)
    batch = plan.batch(0)
    assert len(set(batch.identity.tolist())) == 6
    assert batch.visible.shape == (18,)
    assert plan.pairs_per_process(2) == 9
    with pytest.raises(ValueError, match=r"6 identities .* over 4 processes\. Start one of \[1, 2, 3, 6\]"):
        plan.pairs_per_process(4)
    longer = build.batch_plan(tiny(data={"minimum_frames": 16, "num_identities": 2}), manifest)
    assert all(manifest.num_frames[longer.batch(step).visible].min() >= 16 for step in range(20))
