"""FRM-STIG: what it tells apart of identities that differ in the order of frames or of parts only (`evidence_patterns.py`).

    patterns -> features of stripes -> FRM-STIG alone, by Adam         -> accuracy of W_se
    patterns -> film -> stem, defence, FRM-STIG, by updates of Step I  -> accuracy of W_se, and Rank-1

Stripes alone, averaged over the frames, are the control of the module; a network without FRM-STIG is that of the whole.
From pixels, the trunk has learned to tell the four patterns before, as that of the paper knows ImageNet; then all updates of
Step I train all parts there are. Tested are fresh clips of the same six identities: by the classifier, and by retrieval of
visible clips by infrared ones, of the guided vector and of the global one [A20].
"""

from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.amp import GradScaler

from benchmarks.evidence_patterns import (
    NUM_IDENTITIES,
    NUM_PARTS,
    NUM_PATTERNS,
    Draw,
    arrangement,
    disordered,
    film,
    motion,
    patterns_alone,
)
from benchmarks.evidence_table import Table, spread
from reid import config as configuration
from reid.config import Config
from reid.data.clips import normalise
from reid.evaluation.metrics import Labels, evaluate
from reid.evaluation.retrieval import similarities
from reid.model.guidance import Guidance
from reid.model.network import Branch, Network, Part, Structure
from reid.runtime import Runtime
from reid.training import build
from reid.training.updater import Updater
from reid.types import Embedding, Guide, Modality


class Stripes(Guidance):
    """FRM-STIG without its LSTMs and its gate: the stripes, averaged over the frames."""

    def forward(self, maps: Tensor, num_frames: int) -> Tensor:
        """(B*T, D, H, W) -> (B, K*D)."""
        return self.stripes(maps, num_frames).mean(1).flatten(1)


STRIPES_ALONE = "stripes alone"
FEATURES, FEATURE_NOISE = 32, 0.1


def module_alone(
    draw: Draw, kind: Guide | str, *, seed: int, iterations: int, rate: float, num_clips: int = 64
) -> float:
    """Train FRM-STIG and W_se on features of fresh clips, then count on 1,500 others how often the identity is right."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    looks = 2 * torch.rand(NUM_PATTERNS, FEATURES, generator=generator)
    if kind == STRIPES_ALONE:
        module: Guidance = Stripes(FEATURES, NUM_PARTS, Guide.MOTION_ONLY)
    else:
        module = Guidance(FEATURES, NUM_PARTS, Guide(kind), reduction=1)
    classifier = nn.Linear(NUM_PARTS * FEATURES, NUM_IDENTITIES, bias=False)
    optimizer = torch.optim.Adam([*module.parameters(), *classifier.parameters()], rate)

    def logits(identity: Tensor) -> Tensor:
        stripes = looks[draw(identity, generator)]  # (B, T, K, D)
        stripes = stripes + FEATURE_NOISE * torch.randn(stripes.shape, generator=generator)
        maps = stripes.mT.flatten(0, 1)[..., None]  # (B*T, D, K, 1)
        scores: Tensor = classifier(module(maps, stripes.shape[1]))
        return scores

    for iteration in range(iterations):
        optimizer.param_groups[0]["lr"] = rate * min(1, 2 - 2 * iteration / iterations)
        identity = torch.randint(NUM_IDENTITIES, (num_clips,), generator=generator)
        optimizer.zero_grad()
        F.cross_entropy(logits(identity), identity).backward()
        optimizer.step()
    with torch.no_grad():
        identity = torch.randint(NUM_IDENTITIES, (1500,), generator=generator)
        return float((logits(identity).argmax(1) == identity).double().mean())


SCRATCH_EPOCHS, KNOWING_EPOCHS = 10, 5
BASE: dict[str, Any] = {
    "data": {"height": 16 * NUM_PARTS, "width": 32, "num_identities": NUM_IDENTITIES, "num_tracklets": 2},
    "model": {"backbone": "thin", "weights": "none", "num_parts": NUM_PARTS},
    "objective": {"lambda2": 1.0, "lambda3": 1.0},
    "optimizer": {
        "learning_rate": 0.1,
        "trunk_learning_rate": 0.01,
        "warmup_epochs": 1,
        "milestones": (KNOWING_EPOCHS - 1,),
        "clip_norm": 5,
        "scale_with_batch": False,
    },
    "schedule": {"stage1_epochs": KNOWING_EPOCHS, "stage2_epochs": 0, "epoch_iterations": 20},
    "engine": {"precision": "fp32", "device": "cpu"},
}
CHANGES_FROM_SCRATCH: dict[str, dict[str, Any]] = {
    "optimizer": {"trunk_learning_rate": 0.05, "milestones": (SCRATCH_EPOCHS - 1,)},
    "schedule": {"stage1_epochs": SCRATCH_EPOCHS},
}
CHANGES_OF_PATTERNS: dict[str, dict[str, Any]] = {
    "data": {"num_identities": NUM_PATTERNS, "num_tracklets": 6},
    "optimizer": {"learning_rate": 0.05, "trunk_learning_rate": 0.05},
}


def configured(changes: dict[str, dict[str, Any]] | None = None) -> Config:
    return configuration.changed(configuration.from_dict(BASE, "the evidence on FRM-STIG"), changes or {})


class Outcome(NamedTuple):
    """Of 360 clips of a modality: how often the classifier is right, and Rank-1; that of a guided vector if there is one."""

    accuracy: float
    guided: float | None
    alone: float


def end_to_end(draw: Draw, guide: Guide | None, *, seed: int, knows_patterns: bool = True) -> Outcome:
    """Train stem, defence and, if there is a `guide`, FRM-STIG from pixels, and test them."""
    runtime = Runtime.start(precision="fp32", device="cpu", seed=seed, deterministic=False)
    generator = torch.Generator().manual_seed(seed)
    network = _network(NUM_IDENTITIES, guide)
    if knows_patterns:
        teacher = _network(NUM_PATTERNS, None)
        train(teacher, patterns_alone, configured(CHANGES_OF_PATTERNS), runtime, generator)
        network.stem.load_state_dict(teacher.stem.state_dict())
        network.defence.load_state_dict(teacher.defence.state_dict())
    train(network, draw, configured(None if knows_patterns else CHANGES_FROM_SCRATCH), runtime, generator)
    return examined(network, draw, generator)


def _network(num_identities: int, guide: Guide | None) -> Network:
    """Without ASAM and ADM, so that what differs is FRM-STIG."""
    return Network(
        Structure(
            num_identities, backbone="thin", attacker=False, cross=None, guide=guide, num_parts=NUM_PARTS
        )
    )


def train(network: Network, draw: Draw, config: Config, runtime: Runtime, generator: torch.Generator) -> None:
    """All steps of the schedule by the updates of Step I, on fresh clips."""
    optimizer = build.optimizer(config, network)
    groups = build.training_stages(config, network)[0].groups
    model = runtime.prepare(network)
    updater = Updater(
        network,
        model,
        optimizer,
        build.criterion(config, runtime),
        {group.name: GradScaler("cpu", enabled=False) for group in groups},
        config.optimizer.clip_norm,
    )
    identity = torch.arange(config.data.num_identities).repeat_interleave(config.data.num_tracklets)
    for step in range(config.num_steps):
        for weights in optimizer.param_groups:
            weights["lr"] = weights["peak"] * config.rate(step)
        clips = filmed(draw, identity, generator)
        for group in groups:
            updater.apply(group, *clips, identity.repeat(2))


def filmed(draw: Draw, identity: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Fresh clips of each identity (B,), visible and infrared, normalised."""
    visible, infrared = (
        normalise(film(draw(identity, generator), modality, generator))
        for modality in (Modality.VISIBLE, Modality.INFRARED)
    )
    return visible, infrared


@torch.no_grad()
def examined(network: Network, draw: Draw, generator: torch.Generator, rounds: int = 10) -> Outcome:
    """What the classifier and the vectors tell of fresh clips. Infrared clips ask, visible ones answer."""
    network.eval()
    has_guide = Part.GUIDANCE in network.parts
    kinds = (Embedding.GUIDED, Embedding.GLOBAL) if has_guide else (Embedding.GLOBAL,)
    identity = torch.arange(NUM_IDENTITIES).repeat_interleave(6)
    right: list[Tensor] = []
    asking: dict[Embedding, list[Tensor]] = {kind: [] for kind in kinds}
    answering: dict[Embedding, list[Tensor]] = {kind: [] for kind in kinds}
    for _ in range(rounds):
        visible, infrared = filmed(draw, identity, generator)
        outputs = network((Branch.GUIDE if has_guide else Branch.DEFEND,), visible, infrared)
        found = outputs.guide or outputs.defend
        assert found is not None
        right.append((found.logits.argmax(1) == identity.repeat(2)).double())
        for kind in kinds:
            asking[kind].append(network.embed(infrared, Modality.INFRARED, kind))
            answering[kind].append(network.embed(visible, Modality.VISIBLE, kind))
    who = identity.repeat(rounds).numpy()
    query, gallery = Labels(who, np.zeros_like(who)), Labels(who, np.ones_like(who))
    rank1 = {
        kind: evaluate(
            similarities(torch.cat(asking[kind]), torch.cat(answering[kind])), query, gallery
        ).rank(1)
        for kind in kinds
    }
    return Outcome(float(torch.cat(right).mean()), rank1.get(Embedding.GUIDED), rank1[Embedding.GLOBAL])


MODULE_ROWS: tuple[tuple[str, Draw, tuple[Guide | str, ...], int, float], ...] = (
    ("motion", motion, (STRIPES_ALONE, Guide.MOTION_ONLY, Guide.WITHOUT_SPATIAL, Guide.FULL), 300, 0.01),
    ("disordered", disordered, (Guide.MOTION_ONLY, Guide.FULL), 300, 0.01),
    (
        "arrangement",
        arrangement,
        (STRIPES_ALONE, Guide.MOTION_ONLY, Guide.WITHOUT_SPATIAL, Guide.FULL),
        1500,
        0.004,
    ),
)
PIXEL_ROWS: tuple[tuple[str, Draw, Guide | None, bool], ...] = (
    ("motion", motion, None, True),
    ("motion", motion, Guide.MOTION_ONLY, True),
    ("motion", motion, Guide.FULL, True),
    ("disordered", disordered, Guide.FULL, True),
    ("motion, trunk from random weights", motion, Guide.FULL, False),
    ("arrangement", arrangement, None, True),
    ("arrangement", arrangement, Guide.MOTION_ONLY, True),
    ("arrangement", arrangement, Guide.FULL, True),
)


def report(seeds: int) -> list[Table]:
    modules = [
        (
            name,
            kind,
            spread(
                module_alone(draw, kind, seed=seed, iterations=iterations, rate=rate) for seed in range(seeds)
            ),
        )
        for name, draw, kinds, iterations, rate in MODULE_ROWS
        for kind in kinds
    ]
    pixels = []
    for name, draw, guide, knows in PIXEL_ROWS:
        found = [end_to_end(draw, guide, seed=seed, knows_patterns=knows) for seed in range(seeds)]
        guided = "" if guide is None else spread(each.guided for each in found if each.guided is not None)
        scores = (spread(each.accuracy for each in found), guided, spread(each.alone for each in found))
        pixels.append((name, guide or "none", *scores))
    chance = f"chance {1 / NUM_IDENTITIES:.3f}"
    return [
        Table(
            f"FRM-STIG alone, on features of stripes ({chance})",
            ("identities differ in", "kind", "accuracy"),
            modules,
        ),
        Table(
            f"End to end from pixels ({chance})",
            ("identities differ in", "guide", "accuracy", "Rank-1, guided", "Rank-1, global"),
            pixels,
        ),
    ]
