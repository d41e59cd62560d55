"""reid evaluate: the scores of a checkpoint."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from reid import config as configuration
from reid import terminal
from reid.arguments import parse
from reid.commands import printing
from reid.types import Embedding


@dataclass(frozen=True)
class EvaluateArguments:
    """Score a checkpoint in both directions."""

    checkpoint: Path
    """A checkpoint, or the folder of a run: then its newest valid checkpoint."""
    root: str | None = None
    """Packed data set, if not the one the run was trained on."""
    cache: Path | None = None
    """Folder on this machine for copies of shards, if not the run's `data.cache`; it is made if it is not there."""
    embedding: Embedding | None = None
    """What is compared, if not what the run compared."""
    all_clips: bool = False
    """Compare the mean of all clips of a tracklet instead of one."""
    rerank: bool = False
    """Order answers by k-reciprocal re-ranking instead of by cosine."""
    num_workers: int | None = None
    """Worker processes that read and decode, if not as many as in training."""
    device: Literal["auto", "cpu"] | None = None
    """`cpu` leaves a GPU alone."""
    json: bool = False
    """Print the scores as JSON."""


def main(arguments: Sequence[str]) -> int:
    chosen = parse(EvaluateArguments, arguments, "evaluate")
    from reid.training.run import evaluate as run_evaluation
    from reid.training.run import read_checkpoint

    path, config, snapshot = read_checkpoint(chosen.checkpoint)
    changes: dict[str, dict[str, Any]] = {
        "data": {"root": chosen.root, "cache": chosen.cache, "num_workers": chosen.num_workers},
        "evaluation": {
            "embedding": chosen.embedding,
            "all_clips": chosen.all_clips or None,
            "rerank": chosen.rerank or None,
        },
        "engine": {"device": chosen.device},
    }
    scored = run_evaluation(path, configuration.changed(config, changes), snapshot)
    if terminal.speaks():
        printing.scores(scored, as_json=chosen.json)
    return 0
