"""A run looked at again: its newest weights scored anew, and a batch of its training made again.

    folder of a run -> checkpoint -> configuration, weights -> data set -> Scored, the batch of a step

What cannot be had any more is missing from the review, with the reason; the rest is there.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reid import config as configuration
from reid.config import Config, ConfigError
from reid.data.batches import Batch
from reid.data.clips import PairedClips
from reid.data.loader import training_batches
from reid.data.manifest import Manifest
from reid.data.quarantine import Quarantine
from reid.data.shards import DamagedShardError
from reid.data.sources import SourceError
from reid.training import build
from reid.training.resume import RESOLVED
from reid.training.run import Scored, evaluate, read_checkpoint

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Review:
    """What a run left. Where `config`, `scored` or `batch` is None, `unscored` or `unseen` says why."""

    config: Config | None = None
    scored: Scored | None = None
    batch: tuple[Batch, PairedClips] | None = None
    unscored: str = ""
    unseen: str = ""


def review(folder: Path, changes: dict[str, dict[str, Any]], step: int) -> Review:
    """Score the newest valid checkpoint of a run, with `changes` to its configuration; all runs in fp32, to be compared.

    The batch is that of iteration `step`, from 0. Raises ConfigError if the run has no such step.
    """
    try:
        path, config, snapshot = read_checkpoint(folder)
    except ValueError as error:
        return _without(folder, _resolved(folder), error)
    if not 0 <= step < config.num_steps:
        raise ConfigError(
            f"{folder}: there is no step {step}; the run has the steps 0 to {config.num_steps - 1}"
        )
    wanted = configuration.changed(configuration.changed(config, changes), {"engine": {"precision": "fp32"}})
    try:
        scored = evaluate(path, wanted, snapshot)
    except (ValueError, SourceError, DamagedShardError) as error:
        return _without(folder, config, error)
    trained_on, found = snapshot.state["dataset"]["digest"], scored.manifest.digest
    if trained_on != found:
        unseen = f"the run was trained on the data set {trained_on[:12]}, and this is {found[:12]}"
        return Review(config, scored, unseen=unseen)
    return Review(config, scored, batch_of(wanted, scored.manifest, step))


def batch_of(config: Config, manifest: Manifest, step: int) -> tuple[Batch, PairedClips]:
    """The global batch of iteration `step`, from 0, as training reads and augments it: made again, not remembered."""
    plan = build.batch_plan(config, manifest)
    batches = training_batches(
        manifest,
        plan,
        first=step,
        last=step + 1,
        shape=build.clip_shape(config),
        augmentation=build.augmentation(config),
        num_workers=0,
        quarantine=Quarantine(config.data.quarantine_frames),
    )
    with batches:
        return plan.batch(step), next(batches)


def _without(folder: Path, config: Config | None, error: Exception) -> Review:
    log.warning("%s: nothing that needs weights and data set can be shown: %s", folder, error)
    return Review(config, unscored=str(error), unseen=str(error))


def _resolved(folder: Path) -> Config | None:
    """The configuration that a run wrote when it began; None if it did not come so far."""
    path = folder / RESOLVED
    return configuration.from_yaml(path) if path.exists() else None
