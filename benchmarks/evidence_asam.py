"""ASAM: what the attack does to the defence's classifier, to the stems, and to retrieval when it is added to the baseline.

    Walkers.train, the attack's objectives weighted -> readings at every evaluation -> means over seeds

Arms: the baseline; with ASAM; with ASAM but without Eq. 3, so that the attacker only learns to recognise; with ASAM but
without Eq. 5, so that it only confuses. Readings are of clips of training identities that are augmented as never before:
W_def knows no others. Gradients are those of training mode, taken on a copy of the network.
"""

import copy
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.evidence_table import Table, spread
from benchmarks.evidence_walkers import Readings, Trained, Walkers
from reid.data.clips import normalise
from reid.data.loader import training_batches
from reid.model.network import Branch, Network, Part
from reid.training import build, objectives
from reid.types import Modality, Variant

NEVER_REACHED = 10**6  # batches from this step on are used by no training
NUM_BATCHES = 4
ATTACK = "with ASAM"
ARMS: dict[str, tuple[Variant, dict[str, float]]] = {
    "baseline": (Variant.BASELINE, {}),
    ATTACK: (Variant.ASAM, {}),
    "without Eq. 3": (Variant.ASAM, {"cov_id": 0.0}),
    "without Eq. 5": (Variant.ASAM, {"att_id": 0.0}),
}


@dataclass(frozen=True)
class Clips:
    """Normalised clips (B, T, 3, H, W) of both modalities, and the identity (2B,) of all rows."""

    visible: Tensor
    infrared: Tensor
    identity: Tensor


def unused_batches(walkers: Walkers) -> list[Clips]:
    config = walkers.base
    with training_batches(
        walkers.manifest,
        build.batch_plan(config, walkers.manifest),
        first=NEVER_REACHED,
        last=NEVER_REACHED + NUM_BATCHES,
        shape=build.clip_shape(config),
        augmentation=build.augmentation(config),
        num_workers=0,
    ) as batches:
        return [
            Clips(normalise(clips.visible), normalise(clips.infrared), clips.identity.repeat(2))
            for clips in batches
        ]


def read(batches: list[Clips], network: Network) -> Readings:
    """What the classifiers believe in evaluation, and how the gradients of the stems agree in training."""
    copied = copy.deepcopy(network)
    found: list[Readings] = [
        _beliefs(copied.eval(), clips) | _conflict(copied.train(), clips) for clips in batches
    ]
    return {name: sum(readings[name] for readings in found) / len(found) for name in found[0]}


@torch.no_grad()
def _beliefs(network: Network, clips: Clips) -> Readings:
    """Mean probability of the right identity, and mean of the highest one."""
    attacks = Part.ATTACKER in network.parts
    branches = (Branch.DEFEND, Branch.ATTACK) if attacks else (Branch.DEFEND,)
    outputs = network(branches, clips.visible, clips.infrared)
    assert outputs.defend is not None
    found = _belief("clean", outputs.defend.logits, clips.identity)
    if outputs.attack is not None:
        found |= _belief("attacked", outputs.attack.defence_logits, clips.identity)
        found |= _belief("W_att", outputs.attack.logits, clips.identity)
        found |= _belief("self-attacked", _through_imsa(network, clips), clips.identity)
    return found


def _belief(name: str, logits: Tensor, identity: Tensor) -> Readings:
    probabilities = logits.softmax(1)
    right = probabilities.gather(1, identity[:, None])
    return {f"{name} right": float(right.mean()), f"{name} highest": float(probabilities.amax(1).mean())}


def _through_imsa(network: Network, clips: Clips) -> Tensor:
    """What W_def says if the defence sees the stems' features after IMSA, (2B, M)."""
    frames = clips.visible.shape[1]
    features = torch.cat(
        [
            network.self_attacked(network.stem_features(pixels, modality), modality)
            for pixels, modality in ((clips.visible, Modality.VISIBLE), (clips.infrared, Modality.INFRARED))
        ]
    )
    feature = network.defence.feature(*network.defence.trunk(features), frames)
    logits: Tensor = network.defence_classifier(network.defence.neck(feature))
    return logits


def _conflict(network: Network, clips: Clips) -> Readings:
    """How long the attack's gradients of the stems are beside the defence's identification, and the cosines of the two."""
    if Part.ATTACKER not in network.parts:
        return {}
    network.requires_grad_(True)
    outputs = network((Branch.DEFEND, Branch.ATTACK), clips.visible, clips.infrared)
    assert outputs.defend is not None
    assert outputs.attack is not None
    losses = {
        "defence": objectives.identification(outputs.defend.logits, clips.identity),
        "Eq. 3": objectives.confusion(outputs.attack.defence_logits),
        "Eq. 5": objectives.identification(outputs.attack.logits, clips.identity),
    }
    stems = list(network.stem.parameters())
    slopes = {
        name: torch.cat([slope.flatten() for slope in torch.autograd.grad(loss, stems, retain_graph=True)])
        for name, loss in losses.items()
    }
    found: Readings = {}
    for name in ("Eq. 3", "Eq. 5"):
        found[f"cosine {name}"] = float(F.cosine_similarity(slopes[name], slopes["defence"], dim=0))
        found[f"length {name}"] = float(slopes[name].norm() / slopes["defence"].norm())
    return found


@torch.no_grad()
def stem_features(network: Network, batches: list[Clips]) -> Tensor:
    """The stems' features of all clips, pooled over the frames and a grid of 4 x 2, centred: (N, C * 8)."""
    network.eval()
    maps = torch.cat(
        [
            network.stem(clips.visible.flatten(0, 1), clips.infrared.flatten(0, 1)).unflatten(
                0, (-1, clips.visible.shape[1])
            )
            for clips in batches
        ]
    ).mean(1)
    pooled = F.adaptive_avg_pool2d(maps, (4, 2)).flatten(1)
    return pooled - pooled.mean(0)


def alignment(one: Tensor, other: Tensor) -> float:
    """Linear CKA of two sets of features (N, D): 1 where one is the other turned and scaled (Kornblith et al., 2019)."""
    return float((other.T @ one).norm() ** 2 / ((one.T @ one).norm() * (other.T @ other).norm()))


def separation(features: Tensor, identity: Tensor) -> float:
    """Share of the features' variance (N, D) that lies between identities."""
    means = torch.stack([features[identity == who].mean(0) for who in identity])
    return float(means.square().sum() / features.square().sum())


def report(walkers: Walkers, seeds: int) -> list[Table]:
    batches = unused_batches(walkers)
    runs = {
        arm: [walkers.train(variant, seed, weights, partial(read, batches)) for seed in range(seeds)]
        for arm, (variant, weights) in ARMS.items()
    }
    return [_over_training(runs[ATTACK], walkers), _at_the_end(runs), _stems(runs, batches)]


def _over_training(runs: list[Trained], walkers: Walkers) -> Table:
    """A row a reading, a column an evaluation."""
    steps = list(runs[0].engine.readings)
    names = list(runs[0].engine.readings[steps[0]])
    chance = f"1/M = {1 / walkers.manifest.num_identities:.3f}"
    return Table(
        f"With ASAM, over training ({chance}): probability of the right identity and the highest one, by W_def where "
        "nothing else is said; gradients of the stems beside those of the defence's identification",
        ("step", *map(str, steps)),
        [
            (name, *(spread((run.engine.readings[step][name] for run in runs), 2) for step in steps))
            for name in names
        ],
    )


def _at_the_end(runs: dict[str, list[Trained]]) -> Table:
    columns = ("clean right", "clean highest", "attacked right", "attacked highest", "W_att right")
    rows = []
    for arm, trained in runs.items():
        last = [run.engine.readings[run.engine.step] for run in trained]
        scores = (spread(run.rank1 for run in trained), spread(run.map for run in trained))
        lost = spread(run.map - plain.map for run, plain in zip(trained, runs["baseline"], strict=True))
        beliefs = (spread(readings[name] for readings in last) if name in last[0] else "" for name in columns)
        rows.append((arm, *scores, lost, *beliefs))
    return Table(
        "At the end: retrieval of unseen identities, and beliefs",
        ("", "Rank-1", "mAP", "mAP less the baseline's", *columns),
        rows,
    )


def _stems(runs: dict[str, list[Trained]], batches: list[Clips]) -> Table:
    identity = torch.cat([clips.identity for clips in batches])
    features = {
        arm: [stem_features(run.engine.network, batches) for run in trained] for arm, trained in runs.items()
    }
    rows = []
    for arm, found in features.items():
        reference = features["baseline"]
        others = reference[1:] + reference[:1] if arm == "baseline" else reference
        alike = [alignment(one, other) for one, other in zip(found, others, strict=True)]
        rows.append((arm, spread(alike), spread(separation(each, identity) for each in found)))
    return Table(
        "The stems at the end: how alike their features are to those of the baseline of the same seed (linear CKA; the "
        "baseline itself is compared with another seed), and the share of variance between identities",
        ("", "CKA", "between identities"),
        rows,
    )
