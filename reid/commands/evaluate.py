"""reid evaluate: the scores of a checkpoint."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from reid import terminal
from reid.arguments import parse
from reid.commands import printing
from reid.types import Embedding, Goal

if TYPE_CHECKING:
    from reid.config import Config
    from reid.evaluation.robustness import Conditions
    from reid.training.run import Scored


@dataclass(frozen=True)
class EvaluateArguments:
    """Score a checkpoint in both directions.

    With --corruptions or --attack, the asking side is disturbed, and the scores stand beside the clean ones.
    """

    checkpoint: Path
    """A checkpoint, or the folder of a run: then its newest valid checkpoint."""
    root: str | None = None
    """Packed data set, if not the one the run was trained on."""
    cache: Path | None = None
    """Folder on this machine for copies of shards, if not the run's `data.cache`; it is made if it is not there."""
    embedding: Embedding | None = None
    """What is compared, if not what the run compared."""
    all_clips: bool = False
    """Compare the mean of all clips of a tracklet instead of one; what is not said is as in the run."""
    rerank: bool = False
    """Order answers by k-reciprocal re-ranking instead of by cosine; what is not said is as in the run."""
    corruptions: bool = False
    """Score eight corruptions of the queries, each in five severities, beside the clean queries."""
    attack: bool = False
    """Score queries under attack beside clean ones: by changed pixels, and by the attack branch of the variants with ASAM."""
    epsilon: float = 4.0
    """Of --attack: how far each pixel may be changed, in 1/255."""
    attack_steps: int = 10
    """Of --attack: steps of the gradient descent."""
    step_size: float = 1.0
    """Of --attack: how far a pixel is changed in one step, in 1/255."""
    attack_goal: Goal = Goal.MATCH
    """Of --attack: what embeddings are led away from: the right answers, the query's own clean embedding, or both."""
    disturbance_seed: int = 0
    """Of --corruptions and --attack: what is drawn at random follows from it and from the tracklet."""
    num_workers: int | None = None
    """Worker processes that read and decode, if not as many as in training."""
    device: Literal["auto", "cpu"] | None = None
    """`cpu` leaves a GPU alone."""
    track: Path | None = None
    """Folder of a run of its own, in the checkpoint's experiment: MLflow is told the clean scores, as of a run that was trained."""
    json: bool = False
    """Print the scores as JSON."""


def main(arguments: Sequence[str]) -> int:
    chosen = parse(EvaluateArguments, arguments, "evaluate")
    from reid import config as configuration
    from reid.training.run import evaluate as run_evaluation
    from reid.training.run import read_checkpoint

    conditions = _conditions(chosen)
    if chosen.track is not None and chosen.track.exists():
        raise ValueError(f"--track {chosen.track}: is there already; name a folder for a new run")
    path, config, snapshot = read_checkpoint(chosen.checkpoint)
    usual = replace(chosen, all_clips=config.evaluation.all_clips, rerank=config.evaluation.rerank)
    chosen = parse(EvaluateArguments, arguments, "evaluate", usual)
    changes: dict[str, dict[str, Any]] = {
        "data": {"root": chosen.root, "cache": chosen.cache, "num_workers": chosen.num_workers},
        "evaluation": {
            "embedding": chosen.embedding,
            "all_clips": chosen.all_clips,
            "rerank": chosen.rerank,
        },
        "engine": {"device": chosen.device},
    }
    config = configuration.changed(config, changes)
    scored = run_evaluation(path, config, snapshot, conditions)
    if terminal.speaks():
        if chosen.track is not None:
            _track(scored, config, chosen.track)
        printing.scores(scored, as_json=chosen.json)
    return 0


def _track(scored: "Scored", config: "Config", folder: Path) -> None:
    """Begin a run, tell it the scores and of what they are, and end it."""
    from reid.report import tables
    from reid.tracking import names
    from reid.tracking.tracker import Tracker
    from reid.training import checkpoint
    from reid.training.scores import scores

    tracking, manifest = config.tracking, scored.manifest
    with Tracker.open(
        folder,
        experiment=tracking.experiment,
        run_name=folder.resolve().name,
        tracking_uri=tracking.uri,
    ) as tracker:
        tracker.params(
            {
                names.Param.VARIANT: config.model.variant,
                names.Param.PROTOCOL: scored.labels["protocol"],
                names.Param.DATASET: manifest.name,
                names.Param.DATASET_DIGEST: manifest.digest[:12],
            }
        )
        tracker.tags(
            {
                names.Tag.SOURCE: "reid evaluate",
                names.Tag.SYNTHETIC: manifest.synthetic,
                names.Tag.CHECKPOINT: scored.checkpoint.resolve(),
                names.Tag.CHECKPOINT_SHA: checkpoint.digest(scored.checkpoint),
            }
        )
        tracker.description(tables.results(scored.evaluation.results, **scored.labels).markdown())
        tracker.metrics(scored.step, scores(scored.evaluation))


def _conditions(chosen: EvaluateArguments) -> "Conditions | None":
    """What the queries are put through, if anything. Raises ValueError for options of an attack that nobody asked for."""
    from reid.evaluation.attack import MetricAttack
    from reid.evaluation.robustness import Conditions

    attack = MetricAttack(
        chosen.epsilon, chosen.attack_steps, chosen.step_size, chosen.attack_goal, chosen.disturbance_seed
    )
    if not chosen.attack and attack != MetricAttack(seed=chosen.disturbance_seed):
        raise ValueError(
            "--epsilon, --attack-steps, --step-size and --attack-goal are for --attack, which is missing"
        )
    if not (chosen.attack or chosen.corruptions):
        if chosen.disturbance_seed:
            raise ValueError("--disturbance-seed is for --corruptions and --attack, which are both missing")
        return None
    return Conditions(chosen.corruptions, attack if chosen.attack else None, chosen.disturbance_seed)
