"""ADM: how retrieval of unseen identities bears disturbed queries, with it and without it, with ASAM and without.

    Walkers.train -> clean evaluation -> robustness.disturb: corruptions, a metric attack, ASAM's own -> Rank-1 that is left

The disturbances are those of `reid evaluate`. All but the lightest would leave nothing to compare at this size, so each is
given at two amounts.
"""

from functools import partial

from benchmarks.evidence_table import Table, spread
from benchmarks.evidence_walkers import Trained, Walkers
from reid.evaluation.attack import MetricAttack
from reid.evaluation.corruptions import LADDERS, Corruption
from reid.evaluation.retrieval import Evaluator
from reid.evaluation.robustness import Disturbance, Scores, attack_metric, attack_self, corrupt, disturb
from reid.types import Variant

VARIANTS = (Variant.BASELINE, Variant.ASAM, Variant.ADM, Variant.ASAM_ADM)
CORRUPTIONS = (Corruption.NOISE, Corruption.ILLUMINATION, Corruption.BLUR, Corruption.OCCLUSION)
SEVERITIES = (1, 3)
EPSILONS = (0.5, 2.0)
ATTACK_STEPS = 5
SELF = "ASAM's own"


def report(walkers: Walkers, seeds: int) -> list[Table]:
    rank1: dict[Variant, list[dict[str, float]]] = {}
    cosines: dict[Variant, list[dict[str, float]]] = {}
    for variant in VARIANTS:
        runs = [walkers.train(variant, seed) for seed in range(seeds)]
        scores = [disturbed(run) for run in runs]
        rank1[variant] = [
            {"clean": run.rank1} | {name: _mean_rank1(each) for name, each in found.items()}
            for run, found in zip(runs, scores, strict=True)
        ]
        cosines[variant] = [{name: _mean_cosine(each) for name, each in found.items()} for found in scores]
    return [
        _table("Rank-1 of unseen identities, mean of both directions, when the queries are disturbed", rank1),
        _table("Mean cosine between the vectors of disturbed and clean queries", cosines),
    ]


def disturbed(run: Trained) -> dict[str, Scores]:
    wanted = disturbances(run.engine.evaluator)
    if not Variant(run.engine.config.model.variant).attacker:
        del wanted[SELF]
    return disturb(run.engine.evaluator, run.evaluation, wanted)


def disturbances(evaluator: Evaluator) -> dict[str, Disturbance]:
    wanted: dict[str, Disturbance] = {
        f"{corruption}, {LADDERS[corruption].amounts[severity - 1]:g}": partial(
            corrupt, evaluator, corruption, severity, 0
        )
        for corruption in CORRUPTIONS
        for severity in SEVERITIES
    }
    for epsilon in EPSILONS:
        attack = MetricAttack(epsilon=epsilon, steps=ATTACK_STEPS, step_size=epsilon / 2)
        wanted[f"metric attack, {epsilon:g}/255"] = partial(attack_metric, evaluator, attack)
    return wanted | {SELF: partial(attack_self, evaluator)}


def _mean_rank1(scores: Scores) -> float:
    return sum(each.retrieval.rank(1) for each in scores.values()) / len(scores)


def _mean_cosine(scores: Scores) -> float:
    return sum(each.cosine for each in scores.values()) / len(scores)


def _table(title: str, found: dict[Variant, list[dict[str, float]]]) -> Table:
    names = list(found[Variant.ASAM][0])
    return Table(
        title,
        ("queries", *found),
        [
            (
                name,
                *(spread(each[name] for each in runs) if name in runs[0] else "" for runs in found.values()),
            )
            for name in names
        ],
    )
