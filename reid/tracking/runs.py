"""What the journals of runs say, without a server: how they stand, their curves, and ends that nobody wrote.

RUNS/*/journal.jsonl -> find -> summary | series
"""

import logging
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray

from reid.tracking import names
from reid.tracking.journal import FILE_NAME, Journal, JournalInUseError, Kind, header, read, retagged
from reid.tracking.tracker import MAX_TAG_CHARACTERS, Status

HEARTBEAT_NAME = "heartbeat"
RUNNING = "RUNNING"
EMPTY = "EMPTY"  # it was killed before its first record
DAMAGED = "DAMAGED"  # its journal cannot be read

log = logging.getLogger(__name__)


@dataclass
class Summary:
    """A run in short. `metrics` are the latest values; times are in seconds since 1970; `step` is -1 before the first.

    `seconds` is how long its lives lasted, without the pauses between them and what was added after the last one.
    """

    folder: Path
    name: str = ""
    experiment: str = ""
    uid: str = ""
    status: str = RUNNING
    step: int = -1
    started: float = 0.0
    updated: float = 0.0
    seconds: float = 0.0
    num_starts: int = 0
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)

    @property
    def is_parent(self) -> bool:
        """Whether other runs are below this one. Such a run trains nothing."""
        return names.Tag.CHILDREN in self.tags

    @property
    def is_synthetic(self) -> bool:
        return self.tags.get(names.Tag.SYNTHETIC) == "True"

    @property
    def settled_params(self) -> dict[str, str]:
        """Its parameters; of a parent those that all runs below it share."""
        told = {
            key.removeprefix(names.SHARED): value
            for key, value in self.tags.items()
            if key.startswith(names.SHARED)
        }
        return told if self.is_parent else self.params


def find(folder: Path) -> Iterator[Path]:
    """Folders of runs in and below a folder, by name."""
    yield from sorted(journal.parent for journal in folder.rglob(FILE_NAME))


def find_all(folders: Sequence[Path]) -> list[Path]:
    """Folders of runs in and below some folders, each run once: where its journal is longest, if copies are there too.

    Raises ValueError for a folder that is not there, or if none holds a run.
    """
    if gone := [str(folder) for folder in folders if not folder.is_dir()]:
        raise ValueError(
            f"{', '.join(gone)}: there is no such folder; name folders of runs, or that hold such"
        )
    found: dict[Path, Path] = {}
    for folder in folders:
        for run in find(folder):
            found.setdefault(run.resolve(), run)
    if not found:
        raise ValueError(f"{', '.join(map(str, folders))}: no run here; a run's folder holds a journal")
    return _without_copies([*found.values()])


def _without_copies(runs: Sequence[Path]) -> list[Path]:
    same: dict[str, list[Path]] = {}
    for run in runs:
        try:
            uid = header(run)["uid"]
        except (ValueError, OSError):  # who reads all of it tells what is wrong with it
            uid = str(run)
        same.setdefault(uid, []).append(run)
    kept = {max(copies, key=lambda run: (run / FILE_NAME).stat().st_size) for copies in same.values()}
    for copies in same.values():
        for run in copies:
            if run not in kept:
                log.warning("%s: a copy of %s, left out", run, *kept.intersection(copies))
    return [run for run in runs if run in kept]


def summary(run_folder: Path) -> Summary:
    """How a run stands. Raises ValueError if the folder holds none, or a damaged journal."""
    found = Summary(run_folder, name=run_folder.resolve().name)
    try:
        for record in read(run_folder):
            found.started = found.started or record.time
            was_dead = record.kind is Kind.START or names.Tag.ENDED_BY in record.data
            if found.status == RUNNING and not was_dead:
                found.seconds += record.time - (found.updated or record.time)
            found.updated = record.time
            found.step = max(found.step, record.step if record.step is not None else -1)
            match record.kind:
                case Kind.RUN:
                    found.uid, found.name = record.data["uid"], record.data["name"]
                    found.experiment = record.data["experiment"]
                case Kind.START:
                    found.status, found.num_starts = RUNNING, found.num_starts + 1
                    found.tags.pop(names.Tag.ENDED_BY, None)
                case Kind.PARAMS:
                    found.params |= record.data
                case Kind.TAGS:
                    found.tags = retagged(found.tags, record.data)
                case Kind.METRICS:
                    found.metrics |= record.data
                case Kind.FINISH:
                    found.status = record.data["status"]
                    found.tags = retagged(
                        found.tags, {names.Tag.ENDED_BY: record.data.get(names.Tag.ENDED_BY)}
                    )
                case Kind.ARTIFACT | Kind.DATASET | Kind.CHECKPOINT:
                    pass
    except FileNotFoundError as error:
        raise ValueError(
            f"{run_folder}: no run here ({FILE_NAME} is missing). Name the folder of a run"
        ) from error
    if not found.started:
        found.status = EMPTY
        found.started = found.updated = (run_folder / FILE_NAME).stat().st_mtime
    return found


def settings(run_folder: Path) -> dict[str, str]:
    """The resolved configuration of a run by dotted keys, as text; empty where its folder has none.

    Raises ValueError for a file that is none.
    """
    path = run_folder / names.CONFIGURATION
    try:
        content = yaml.safe_load(path.read_text()) if path.exists() else {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: damaged, this is no YAML: {' '.join(str(error).split())}") from error
    if isinstance(content, dict):
        return {
            (f"{section}.{key}" if isinstance(values, dict) else section): str(value)
            for section, values in content.items()
            for key, value in (values.items() if isinstance(values, dict) else [(section, values)])
        }
    raise ValueError(f"{path}: damaged, expected sections of a configuration, found {content!r:.60}")


def identity(run: Summary) -> frozenset[tuple[str, str]]:
    """The same for runs whose scores may be averaged: they learn and are scored alike, but for the seed."""
    params = {key: value for key, value in run.params.items() if key != names.Param.SEED}
    return frozenset({**params, names.Tag.LEARNED_SHA: run.tags.get(names.Tag.LEARNED_SHA, "")}.items())


def over_seeds(runs: Sequence[Summary], metric: str) -> list[float]:
    """The latest values of a metric, one for each seed: runs that repeat a seed are no further evidence, and count as their
    mean.
    """
    by_seed: dict[str, list[float]] = {}
    for run in runs:
        if metric in run.metrics:
            by_seed.setdefault(seed_of(run), []).append(run.metrics[metric])
    return [statistics.fmean(values) for values in by_seed.values()]


def seed_of(run: Summary) -> str:
    """What tells a run from its equals: its seed; of a run that names none, its folder."""
    return run.params.get(names.Param.SEED) or str(run.folder)


def series(run_folder: Path) -> dict[str, tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """Every metric of a run: its steps, ascending, and its values."""
    points: dict[str, dict[int, float]] = {}
    for record in read(run_folder):
        if record.kind is Kind.METRICS and record.step is not None:
            for key, value in record.data.items():
                points.setdefault(key, {})[record.step] = value
    return {
        key: (np.array(sorted(at)), np.array([at[step] for step in sorted(at)]))
        for key, at in sorted(points.items())
    }


def stage_ends(run_folder: Path) -> list[int]:
    """The last step seen of each stage but the last: exact where a log interval ends with the stage."""
    steps, stages = series(run_folder).get(names.Metric.STAGE, (np.zeros(0, np.int64), np.zeros(0)))
    return [int(step) for step in steps[:-1][np.diff(stages) > 0]]


def attach(run_folder: Path, files: Mapping[Path, str], tags: Mapping[str, object]) -> None:
    """Add files (and the folder that each shall have in MLflow) and tags to a run that has ended. `sync` sends them.

    Raises JournalInUseError while the run is being written, and ValueError for files outside the run folder.
    """
    with Journal.open(run_folder) as journal:
        for path, folder in files.items():
            inside = path.resolve().relative_to(run_folder.resolve()).as_posix()
            journal.append(Kind.ARTIFACT, {"path": inside, "folder": folder})
        if tags:
            journal.append(Kind.TAGS, {key: str(value)[:MAX_TAG_CHARACTERS] for key, value in tags.items()})


def bury(run_folder: Path, reason: str, *, waiting: bool = False) -> bool:
    """Write into the journal of a trainer that died without a word that it was killed. False if one is writing it.

    A journal that has its end already keeps that, unless the run is said to be `waiting` for another start in vain.
    """
    try:
        with Journal.open(run_folder) as journal:
            if journal.is_running or waiting:
                journal.append(Kind.FINISH, {"status": Status.KILLED, names.Tag.ENDED_BY: reason})
    except JournalInUseError:
        return False
    return True


def reap(runs: Sequence[Path], silent_seconds: float, *, waiting: bool = False) -> list[Path]:
    """Bury the runs that are said to run, are written by no one, and gave no sign of life for so long. Returns them.

    With `waiting` also those that asked to be started again and were not, as after a job was cancelled.
    """
    reasons = {RUNNING: "silence: its node has vanished"}
    if waiting:
        reasons[Status.SCHEDULED] = "nobody: it asked to be started again, and was not"
    return [
        run
        for run, found in ((run, summary(run)) for run in runs)
        if found.status in reasons
        and found.num_starts  # parents of other runs have none
        and time.time() - _last_sign_of_life(run) > silent_seconds
        and bury(run, reasons[found.status], waiting=found.status == Status.SCHEDULED)
    ]


def beat(run_folder: Path) -> None:
    """Leave a sign of life beside the journal."""
    (run_folder / HEARTBEAT_NAME).touch()


def _last_sign_of_life(run_folder: Path) -> float:
    signs = (run_folder / name for name in (FILE_NAME, HEARTBEAT_NAME))
    return max(sign.stat().st_mtime for sign in signs if sign.exists())
