"""reid train: a run, alone or under `accelerate launch`, that leaves at once when it is asked to."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from reid import signals, terminal
from reid.arguments import named_run, parse
from reid.commands import printing
from reid.configured import Flat, starting_point


@dataclass(frozen=True)
class TrainArguments:
    """Train a network. `accelerate launch` starts several processes of it.

    --config FILE gives a YAML file to start from, such as launch/experiments/vcm.yaml; the flags below change it.
    """

    run: Path
    """Folder of the run: configuration, journal, checkpoints and pictures go there."""
    config: Flat
    resume: bool = False
    """Continue from the newest valid checkpoint in --run, if there is one."""
    accept_changes: bool = False
    """With --resume: continue although the configuration or the data set is not that of the run so far."""


def main(arguments: Sequence[str]) -> int:
    try:
        with signals.leaving_at_once(_marker(arguments)):
            return _train(arguments)
    except signals.Stopped as stopped:
        if terminal.speaks():
            again = " and asks to be started again" if stopped.asks_again else ""
            print(f"reid train: stopped by {stopped.name}{again}; --resume continues", file=sys.stderr)
        return 1


def _train(arguments: Sequence[str]) -> int:
    base, rest = starting_point(arguments)
    chosen = parse(TrainArguments, rest, "train", TrainArguments(run=tyro.MISSING, config=base))
    from reid.doctor.storage import obstacle

    if (blocked := obstacle(chosen.run)) is not None:
        raise ValueError(
            f"--run {chosen.run}: {blocked} is a file, where a folder is needed; name another folder"
        )
    from reid.report import album, plates, tables
    from reid.training import build
    from reid.training.review import batch_of
    from reid.training.run import Scored
    from reid.training.run import train as run_training

    def publish(scored: Scored) -> tuple[list[Path], str]:
        batch, augmentation = batch_of(chosen.config, scored.manifest, 0), build.augmentation(chosen.config)
        seen = album.seen(0, *batch, scored.manifest, augmentation)
        drawn = plates.kept(scored, seen, chosen.run, chosen.run.resolve().name)
        description = tables.results(scored.evaluation.results, **scored.labels).markdown()
        return plates.saved(drawn, chosen.run / "pictures"), description

    scored = run_training(
        chosen.config, chosen.run, publish, resume=chosen.resume, accept_changes=chosen.accept_changes
    )
    if scored is None:
        return 1
    if terminal.speaks():
        printing.scores(scored)
    return 0


def _marker(arguments: Sequence[str]) -> Path | None:
    """Where a run that is stopped asks to be started again, known before anything else is."""
    run = named_run(arguments)
    return None if run is None else run / signals.MARKER
