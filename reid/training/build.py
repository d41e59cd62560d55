"""What a configuration builds: the network, its optimizer, the stages it goes through, the protocol it is scored by.

The only place where the keys of `model`, `objective` and `optimizer` meet the code they are for.
"""

import torch
from torch import nn

from reid.config import Config
from reid.data.augmentation import Augmentation
from reid.data.batches import BatchPlan
from reid.data.clips import ClipShape
from reid.data.manifest import Manifest
from reid.evaluation.retrieval import Protocol
from reid.model.defence import CrossAttention
from reid.model.network import Network, Structure
from reid.model.resnet import Layers, Stem
from reid.runtime import Runtime
from reid.training.recipe import Criterion, Factors, Stage, stages
from reid.types import Distance, Embedding


def network(config: Config, num_identities: int) -> Network:
    """The parts of the configured variant, with fresh weights."""
    model, variant = config.model, config.model.variant
    cross = CrossAttention(model.attention_reduction, model.pair_clips, model.update_cross_statistics)
    return Network(
        Structure(
            num_identities=num_identities,
            backbone=model.backbone,
            last_stride=model.last_stride,
            attacker=variant.attacker,
            cross=cross if variant.cross_attention else None,
            guide=variant.guide,
            num_parts=model.num_parts,
            attention_reduction=model.attention_reduction,
            separate_attention=model.separate_attention,
            num_lstm_layers=model.num_lstm_layers,
            gate_reduction=model.gate_reduction,
            guided_neck=model.guided_neck,
            generalized_mean=model.pooling == "gem",
            non_local=model.non_local,
            recompute=config.engine.activation_checkpointing,
        )
    )


def optimizer(config: Config, net: Network) -> torch.optim.SGD:
    """One SGD over everything that can be trained: a weight whose gradient is None rests, and does not decay [A31].

    Each group holds its `peak` rate; the rate of a step is `peak * config.rate(step)`. A group is the trunk or the rest of
    one part, because the fused kernel wants weights together that first moved together.
    """
    settings = config.optimizer
    groups = []
    for module in net.parts.values():
        trunks = [m for m in module.modules() if isinstance(m, Stem | Layers)]
        trunk = [parameter for m in trunks for parameter in m.parameters()]
        in_trunk = {id(parameter) for parameter in trunk}
        rest = [p for p in module.parameters() if id(p) not in in_trunk and p.requires_grad]
        groups += [
            {"params": parameters, "peak": peak}
            for parameters, peak in ((trunk, settings.trunk_learning_rate), (rest, settings.learning_rate))
            if parameters
        ]
    return torch.optim.SGD(
        groups,
        lr=settings.learning_rate,
        momentum=settings.momentum,
        nesterov=settings.nesterov and settings.momentum > 0,
        weight_decay=settings.weight_decay,
        fused=True,
    )


def training_stages(config: Config, net: Network) -> tuple[Stage, Stage]:
    """Step I and Step II for the parts that `net` has."""
    factors = Factors(config.objective.lambda1, config.objective.lambda2, config.objective.lambda3)
    return stages(frozenset(net.parts), factors, config.schedule.recipe)


def criterion(config: Config, runtime: Runtime) -> Criterion:
    """The objectives, with triplets mined as configured."""
    distance = config.triplet_distance
    return Criterion(
        margin=config.objective.margin,
        distance=distance,
        after_neck=distance is Distance.SQUARED,
        gather=runtime.gather if config.objective.mining == "global" else nn.Identity(),
    )


def clip_shape(config: Config) -> ClipShape:
    return ClipShape(config.data.clip_frames, config.data.height, config.data.width)


def augmentation(config: Config) -> Augmentation:
    return Augmentation(
        padding=config.data.padding,
        flip_probability=config.data.flip,
        grey_probability=config.data.grey,
        exchange_probability=config.data.channel_exchange,
        erasing_probability=config.data.channel_erasing,
        per_frame=config.data.augment_per_frame,
    )


def batch_plan(config: Config, manifest: Manifest) -> BatchPlan:
    return BatchPlan.of(
        manifest,
        num_identities=config.data.num_identities,
        num_tracklets=config.data.num_tracklets,
        minimum_frames=config.data.minimum_frames,
        seed=config.seed,
    )


def protocol(config: Config) -> Protocol:
    """The protocol, with the embedding that `auto` stands for [A20]."""
    embedding = config.evaluation.embedding
    if embedding is Embedding.AUTO:
        embedding = Embedding.GLOBAL if config.model.variant.guide is None else Embedding.GUIDED
    return Protocol(
        shape=clip_shape(config),
        minimum_frames=config.data.minimum_frames,
        embedding=embedding,
        drop_same_camera=config.evaluation.drop_same_camera,
        batch_clips=config.evaluation.batch_clips,
        all_clips=config.evaluation.all_clips,
        rerank=config.evaluation.rerank,
    )
