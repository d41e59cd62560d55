"""Accuracy when the asking side is disturbed: by corruptions of its pictures, and by attacks.

    clean evaluation -> vectors of both sides, by which every disturbed query is searched
    clips of the asking side, each decoded once -> one disturbance after the other -> vectors -> ranks of the right answers
      -> Disturbed: scores of each direction, and how far the queries have moved

Whoever asks is disturbed, in both directions: the infrared clips of an infrared-to-visible search, the visible ones of the
other. Who answers stays clean. Nothing is kept of a batch of clips but the ranks of its right answers, so the memory does
not grow with the number of disturbances.

Legend: b clips of a batch, D components of a vector.
"""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import NamedTuple, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from reid.evaluation.attack import MetricAttack, attacked
from reid.evaluation.corruptions import SEVERITIES, Corruption, corrupted
from reid.evaluation.metrics import Hits, Labels, Retrieval, hits, retrieval
from reid.evaluation.retrieval import Evaluation, Evaluator, Protocol, similarities
from reid.model.network import Part
from reid.terminal import counted
from reid.types import Direction, Modality

ATTACKED_CLIPS = 8  # whose activations exist at a time, for the gradient


class Attack(StrEnum):
    METRIC = "metric"
    SELF = "self"


class Asked(NamedTuple):
    """A batch of the asking side: rows of the manifest (b,), uint8 clips (b, T, 3, H, W), their own clean vectors (b, D),
    and the means of the vectors of their right answers (b, D); where there is none, the clean vector.
    """

    rows: NDArray[np.int64]
    modality: Modality
    clips: Tensor
    clean: Tensor
    match: Tensor


class Disturbed(NamedTuple):
    """Scores of disturbed queries, and the mean cosine between their vectors and their clean ones."""

    retrieval: Retrieval
    cosine: float


Scores = dict[Direction, Disturbed]
Disturbance = Callable[[Asked], Tensor]  # -> vectors (b, D) of the disturbed queries, float32 on the CPU
Name = TypeVar("Name", bound=Hashable)


@dataclass(frozen=True)
class Conditions:
    """What disturbs the queries. `seed` is that of the corruptions."""

    corruptions: bool = False
    attack: MetricAttack | None = None
    seed: int = 0


@dataclass(frozen=True)
class Robustness:
    """What was found: of each corruption the scores at severity 1 to 5, and of each attack its scores."""

    conditions: Conditions
    corruptions: dict[Corruption, tuple[Scores, ...]]
    attacks: dict[Attack, Scores]


def require_plain(protocol: Protocol) -> None:
    """Raises ValueError for a protocol under which a query cannot be searched on its own."""
    options = {"all_clips": protocol.all_clips, "rerank": protocol.rerank}
    if refused := [f"evaluation.{name}" for name, is_on in options.items() if is_on]:
        raise ValueError(
            f"{' and '.join(refused)}: disturbed queries are searched clip by clip, by cosine; corruptions and attacks "
            "are for one clip a tracklet without re-ranking (--no-all-clips --no-rerank)"
        )


def examine(evaluator: Evaluator, clean: Evaluation, conditions: Conditions) -> Robustness:
    """Score the queries of a clean evaluation again under `conditions`. Every process calls it, and all get the same.

    Without ASAM there is no attack of its own, and none is reported. Raises ValueError as `require_plain` does.
    """
    wanted: dict[tuple[Corruption, int] | Attack, Disturbance] = {}
    if conditions.corruptions:
        wanted |= {
            (corruption, severity): partial(corrupt, evaluator, corruption, severity, conditions.seed)
            for corruption in Corruption
            for severity in SEVERITIES
        }
    if conditions.attack is not None:
        wanted[Attack.METRIC] = partial(attack_metric, evaluator, conditions.attack)
        if Part.ATTACKER in evaluator.network.parts:
            wanted[Attack.SELF] = partial(attack_self, evaluator)
    found = disturb(evaluator, clean, wanted)
    corruptions = {
        corruption: tuple(found[corruption, severity] for severity in SEVERITIES)
        for corruption in (Corruption if conditions.corruptions else ())
    }
    return Robustness(
        conditions, corruptions, {attack: found[attack] for attack in Attack if attack in found}
    )


def corrupt(evaluator: Evaluator, corruption: Corruption, severity: int, seed: int, asked: Asked) -> Tensor:
    """Vectors (b, D) of the corrupted clips."""
    clips = corrupted(asked.clips, asked.rows, corruption, severity, seed=seed)
    return evaluator.embed_clips(clips, asked.modality)


def attack_metric(evaluator: Evaluator, attack: MetricAttack, asked: Asked) -> Tensor:
    """Vectors (b, D) of the clips after projected gradient descent on their pixels."""
    device = evaluator.runtime.device
    aim = attack.aim(asked.clean, asked.match).to(device)
    found = []
    for piece in torch.arange(len(asked.rows)).split(ATTACKED_CLIPS):
        pixels = attacked(
            evaluator.network,
            asked.clips[piece].to(device),
            asked.rows[piece.numpy()],
            asked.modality,
            aim[piece],
            attack,
            evaluator.protocol.embedding,
        )
        found.append(pixels)
    return evaluator.embed_clips(torch.cat(found), asked.modality)


def attack_self(evaluator: Evaluator, asked: Asked) -> Tensor:
    """Vectors (b, D) of clips whose stem features went through ASAM's IMSA before the defence saw them."""
    return evaluator.embed_clips(asked.clips, asked.modality, self_attacked=True)


def disturb(
    evaluator: Evaluator, clean: Evaluation, disturbances: Mapping[Name, Disturbance]
) -> dict[Name, Scores]:
    """Scores of every disturbance in both directions. The clips are decoded once for all of them."""
    require_plain(evaluator.protocol)
    total = len(disturbances) * (len(clean.query.rows) + len(clean.gallery.rows))
    found: dict[Name, Scores] = {name: {} for name in disturbances}
    network, was_training = evaluator.network, evaluator.network.training
    network.eval()
    try:
        with counted("disturbing", total, "clips", speaks=evaluator.runtime.leads) as advance:
            for direction in Direction:
                for name, scores in _one_way(evaluator, clean, direction, disturbances, advance).items():
                    found[name][direction] = scores
    finally:
        network.train(was_training)
    return found


class _Ranks(NamedTuple):
    """What is kept of the disturbed queries, (Q,)."""

    hits: Hits
    cosine: NDArray[np.float64]


def _one_way(
    evaluator: Evaluator,
    clean: Evaluation,
    direction: Direction,
    disturbances: Mapping[Name, Disturbance],
    advance: Callable[[int], None],
) -> dict[Name, Disturbed]:
    asking, answering = clean.sides(direction)
    query, gallery = evaluator.labels(asking.rows), evaluator.labels(answering.rows)
    removes = evaluator.protocol.drop_same_camera
    pieces: list[tuple[NDArray[np.int64], dict[Name, _Ranks]]] = []
    for modality, (positions, clips) in evaluator.batches(asking.rows):
        chosen = positions.numpy()
        labels = Labels(query.identity[chosen], query.camera[chosen])
        own = asking.vectors[positions]
        match = _right_answers(own, labels, answering.vectors, gallery, removes=removes)
        asked = Asked(asking.rows[chosen], modality, clips, own, match)
        ranks = {}
        for name, disturbance in disturbances.items():
            vectors = disturbance(asked)
            rows = similarities(vectors, answering.vectors)
            cosine = (vectors * own).sum(1).double().numpy()
            ranks[name] = _Ranks(hits(rows, labels, gallery, remove_same_camera=removes), cosine)
            advance(len(clips) * evaluator.runtime.world)
        pieces.append((chosen, ranks))
    gathered = [piece for share in evaluator.runtime.collect(pieces) for piece in share]
    order = np.argsort(np.concatenate([chosen for chosen, _ in gathered]))
    found = {}
    for name in disturbances:
        kept = [ranks[name] for _, ranks in gathered]
        every = Hits(*(np.concatenate(column)[order] for column in zip(*(k.hits for k in kept), strict=True)))
        scores = retrieval(every, len(answering.rows), remove_same_camera=removes)
        found[name] = Disturbed(scores, float(np.concatenate([k.cosine for k in kept])[order].mean()))
    return found


def _right_answers(own: Tensor, query: Labels, answers: Tensor, gallery: Labels, *, removes: bool) -> Tensor:
    """The mean of the vectors of the right answers to each query, at unit length; its own without any. (b, D)"""
    right = query.identity[:, None] == gallery.identity
    if removes:
        right &= query.camera[:, None] != gallery.camera
    means = F.normalize(torch.from_numpy(right).float() @ answers, dim=1)
    return torch.where(torch.from_numpy(right.any(axis=1))[:, None], means, own)
