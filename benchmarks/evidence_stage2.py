"""Step II against Step I continued: the same weights, batches, rates and number of further steps, for the full model.

    Step I -> snapshot -> Step II             -> scores, beliefs
                       -> Step I, continued   -> scores, beliefs

Step II leaves W_def as it is and keeps the defence's own update away from the stems. Twice: with the rate lowered before
Step II begins, as in the paper's schedule [A30], and with the full rate until its last epoch.
"""

from functools import partial

from benchmarks.evidence_asam import read, unused_batches
from benchmarks.evidence_table import Table, spread
from benchmarks.evidence_walkers import Trained, Walkers, finish
from reid.types import Variant

STAGE1_EPOCHS, FURTHER_EPOCHS = 6, 2
BRANCHES = {
    "Step II": (STAGE1_EPOCHS, FURTHER_EPOCHS),
    "Step I continued": (STAGE1_EPOCHS + FURTHER_EPOCHS, 0),
}
MILESTONES: dict[str, tuple[float, ...]] = {
    "the rate lowered before": (STAGE1_EPOCHS - 1, STAGE1_EPOCHS + 1),
    "the full rate": (STAGE1_EPOCHS + FURTHER_EPOCHS - 1,),
}
READINGS = ("clean right", "attacked right", "W_att right", "cosine Eq. 3", "cosine Eq. 5")


def report(walkers: Walkers, seeds: int) -> list[Table]:
    return [_table(walkers, seeds, rate) for rate in MILESTONES]


def _table(walkers: Walkers, seeds: int, rate: str) -> Table:
    runs: dict[str, list[Trained]] = {"Step I": [], **{name: [] for name in BRANCHES}}
    for seed in range(seeds):
        for name, run in branches(walkers, seed, MILESTONES[rate]).items():
            runs[name].append(run)
    rows = []
    for name, trained in runs.items():
        last = [run.engine.readings[run.engine.step] for run in trained]
        scores = (spread(run.rank1 for run in trained), spread(run.map for run in trained))
        rows.append(
            (name, *scores, *(spread(readings[reading] for readings in last) for reading in READINGS))
        )
    gains = [
        second.map - continued.map
        for second, continued in zip(runs["Step II"], runs["Step I continued"], strict=True)
    ]
    rows.append(("Step II less Step I continued", "", spread(gains), *[""] * len(READINGS)))
    return Table(f"The full model, unseen identities, {rate}", ("after", "Rank-1", "mAP", *READINGS), rows)


def branches(walkers: Walkers, seed: int, milestones: tuple[float, ...]) -> dict[str, Trained]:
    """A run of Step I, and both ways to go on from it."""
    probe = partial(read, unused_batches(walkers))

    def run(stage1: int, stage2: int, start: Trained | None) -> Trained:
        schedule = {"stage1_epochs": stage1, "stage2_epochs": stage2}
        engine = walkers.engine(
            walkers.config(Variant.FULL, seed, schedule=schedule, optimizer={"milestones": milestones})
        )
        engine.watch(probe)
        if start is not None:
            engine.restore(start.engine.snapshot({}))
        return finish(engine)

    first = run(STAGE1_EPOCHS, 0, None)
    return {"Step I": first, **{name: run(*epochs, first) for name, epochs in BRANCHES.items()}}
