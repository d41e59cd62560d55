"""What each command of `reid` can be told, and how its words become that.

words -> --config FILE, the start -> flags -> a frozen dataclass; every mistake in the words is told at once
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tyro
from pydantic import ValidationError

from reid import config as configuration
from reid.config import Config
from reid.types import Embedding

Flat = Annotated[Config, tyro.conf.arg(name="")]
Arguments = TypeVar("Arguments")


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


@dataclass(frozen=True)
class ReportArguments:
    """Write pictures, tables and one page that holds everything, of one run or of several side by side.

    The newest weights of each run are scored again, in fp32. Where weights or data set are gone, the page says so, and
    holds what the journal knows.
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Folders of runs, or folders that hold such."""
    out: Path | None = None
    """Where to write; by default `report` in the run's folder, or beside the runs."""
    root: str | None = None
    """Packed data set, if not the one the runs were trained on."""
    step: int = 0
    """Iteration, from 0, whose batch is shown."""
    num_workers: int | None = None
    """Worker processes that read and decode, if not as many as in training."""
    device: Literal["auto", "cpu"] | None = None
    """`cpu` leaves a GPU alone."""
    attach: bool = False
    """Add the page to the run in MLflow; `reid runs sync` sends it."""


@dataclass(frozen=True)
class ConfigArguments:
    """Print the resolved configuration and its difference from the paper.

    --config FILE gives a YAML file to start from; the flags below change it.
    """

    config: Flat
    schema: bool = False
    """Print the JSON schema of the configuration instead."""
    json: bool = False
    """Print JSON."""


@dataclass(frozen=True)
class RunsArguments:
    """Look after runs by their journals; a server is needed only for `sync`, and for `reap --uri`.

    ls lists, show tells of one, compare puts several side by side with means and deviations over seeds, gather tells each
    parent what its children reached, sync sends to MLflow what it does not have yet, reap closes the runs whose machine
    vanished: in their journals, or with --uri and --experiment on a server.
    """

    action: Annotated[Literal["ls", "show", "compare", "gather", "sync", "reap"], tyro.conf.Positional]
    """What to do."""
    folders: Annotated[tuple[Path, ...], tyro.conf.Positional] = (Path("runs"),)
    """Folders of runs, or folders that hold such."""
    format: Literal["terminal", "markdown", "latex", "json"] = "terminal"
    """How results are printed."""
    uri: str | None = None
    """MLflow server or store: for sync, if not MLFLOW_TRACKING_URI or the file beside the run; for reap, to close there."""
    experiment: str | None = None
    """The experiment on the server in which reap closes runs."""
    silent_minutes: float = 5.0
    """reap closes what gave no sign of life for so long."""


@dataclass(frozen=True)
class DoctorArguments:
    """Look for what would make a run fail, or be slow, before it is started.

    --config FILE gives the configuration of that run, such as launch/experiments/vcm.yaml.
    """

    root: str | None = None
    """Packed data set, if not the one that --config names."""
    run: Path = Path("runs/doctor")
    """Folder that the run would have. Nothing is left there."""
    processes: int = 1
    """Training processes that would be started on this machine."""
    json: bool = False
    """Print the findings as JSON."""


def starting_point(arguments: Sequence[str]) -> tuple[Config, list[str]]:
    """The configuration that --config names, or the paper's, and the arguments left."""
    parser = argparse.ArgumentParser(prog="reid", add_help=False, allow_abbrev=False)
    parser.add_argument("--config", type=Path)
    found, rest = parser.parse_known_args(arguments)
    return configuration.from_yaml(found.config) if found.config else Config(), rest


def named_run(arguments: Sequence[str]) -> Path | None:
    """The folder that --run names, whatever else the words are."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--run", type=Path)
    run: Path | None = parser.parse_known_args(arguments)[0].run
    return run


def parse(
    kind: type[Arguments], arguments: Sequence[str], command: str, default: Arguments | None = None
) -> Arguments:
    given: dict[str, Any] = {} if default is None else {"default": default}
    config = (tyro.conf.EnumChoicesFromValues,)
    try:
        parsed: Arguments = tyro.cli(
            kind, prog=f"reid {command}", args=list(arguments), config=config, **given
        )
    except ValidationError as error:
        raise configuration.refusal(error, "the options given") from error
    return parsed
