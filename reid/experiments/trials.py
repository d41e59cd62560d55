"""From an experiment to its trials: a row with a seed, each a run in a folder of its own.

    Experiment, configuration, seeds -> Trial -> FOLDER/configs/ROW-SEED.yaml   what `reid train --config` is given
                                                 FOLDER/ROW-SEED                its run
                                                 FOLDER/logs/ROW-SEED.log       what it said
    FOLDER/experiment.yaml   what FOLDER is for: no other experiment can use it
    FOLDER, FOLDER/rows/ROW  runs above the trials: of the experiment, and of the seeds of each row

Rows that make the same configuration, such as the paper's own in three curves, share their trials: those of the first.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from reid import config as configuration
from reid.config import Config, ConfigError
from reid.experiments import experiment as experiments
from reid.experiments.experiment import Experiment, Row
from reid.tracking import family, names
from reid.tracking.journal import FILE_NAME
from reid.tracking.runs import summary
from reid.tracking.tracker import Status

RECORD = "experiment.yaml"


class Trial(NamedTuple):
    """A run of an experiment in `folder`."""

    row: Row
    seed: int
    config: Config
    folder: Path

    @property
    def name(self) -> str:
        return f"{self.row.name}-{self.seed}"

    @property
    def run(self) -> Path:
        return self.folder / self.name

    @property
    def file(self) -> Path:
        return self.folder / "configs" / f"{self.name}.yaml"

    @property
    def log(self) -> Path:
        return self.folder / "logs" / f"{self.name}.log"

    def has_begun(self) -> bool:
        return (self.run / FILE_NAME).exists()

    def is_finished(self) -> bool:
        return self.has_begun() and summary(self.run).status == Status.FINISHED

    def write(self) -> None:
        """Write the file of its configuration, and begin the run above the seeds of its row."""
        _replace(self.file, configuration.to_yaml(self.config))
        family.begin(
            _above(self.row, self.folder),
            experiment=self.config.tracking.experiment,
            run_name=self.row.name,
            parent=self.folder,
            tags={names.Tag.ROW: self.row.name},
        )


class Record(NamedTuple):
    """What a folder is for: the experiment, and the configuration that its rows change."""

    experiment: Experiment
    base: Config


def plan(
    experiment: Experiment, rows: Sequence[Row], base: Config, folder: Path, num_seeds: int
) -> list[Trial]:
    """The trials of some rows of an experiment, all rows of the first seed before those of the next.

    The first seed is that of `base`. Raises ConfigError for a row whose values cannot be.
    """
    if named := [key for key in ("parent", "run_name") if getattr(base.tracking, key) is not None]:
        raise ConfigError(f"tracking.{named[0]}: the trials of an experiment have it from their folder")
    owners = _owners(experiment, base)
    owning = {owners[row.name].name: owners[row.name] for row in rows}
    return [
        Trial(row, seed, _configured(base, row, seed, _above(row, folder).resolve()), folder)
        for seed in range(base.seed, base.seed + num_seeds)
        for row in owning.values()
    ]


def claim(experiment: Experiment, base: Config, folder: Path) -> None:
    """Make `folder` the experiment's, with the run above its trials. Any number of processes may call it at once.

    Raises ConfigError if it belongs to another experiment, or to the same one of another configuration.
    """
    former = read(folder)
    if former is None and (folder / FILE_NAME).exists():
        raise ConfigError(f"{folder}: is the folder of a run; name another one with --out")
    if former is not None and (reasons := _contradictions(Record(experiment, base), former)):
        raise ConfigError(
            "\n  ".join(
                [f"{folder}: belongs to another experiment; name another folder with --out", *reasons]
            )
        )
    content = {
        "experiment": experiment.model_dump(mode="json", exclude_defaults=True),
        "config": base.model_dump(mode="json"),
    }
    _replace(folder / RECORD, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
    kind = names.Tag.SWEEP if experiment.curves else names.Tag.ABLATION
    family.begin(
        folder,
        experiment=base.tracking.experiment,
        run_name=folder.resolve().name,
        tags={kind: experiment.name},
    )


def read(folder: Path) -> Record | None:
    """What a folder is for; None if it is not that of an experiment. Raises ConfigError for a record that is none of ours."""
    path = folder / RECORD
    if not path.exists():
        return None
    content = configuration.content_of(path, "")
    if not isinstance(content, dict) or content.keys() != {"experiment", "config"}:
        raise ConfigError(
            f"{path}: this is no record of `reid ablate` or `reid sweep`; name another folder, or move the file away"
        )
    return Record(
        experiments.from_dict(content["experiment"], str(path)),
        configuration.from_dict(content["config"], str(path)),
    )


def begun(record: Record, folder: Path) -> dict[str, list[Path]]:
    """The runs of every row, by its name, that have a journal; by seed. Rows without any are not there."""
    runs: dict[str, list[tuple[int, Path]]] = {}
    for journal in folder.glob(f"*/{FILE_NAME}"):
        row, dash, seed = journal.parent.name.rpartition("-")
        if dash and seed.isdecimal():
            runs.setdefault(row, []).append((int(seed), journal.parent))
    owners = _owners(record.experiment, record.base)
    return {
        row.name: [run for _, run in sorted(runs[owner])]
        for row in record.experiment.every_row
        if (owner := owners[row.name].name) in runs
    }


def _above(row: Row, folder: Path) -> Path:
    """The folder of the run above the seeds of a row."""
    return folder / "rows" / row.name


def _owners(experiment: Experiment, base: Config) -> dict[str, Row]:
    """The first row that makes the same configuration as each row, by the name of the latter."""
    first: dict[str, Row] = {}
    return {
        row.name: first.setdefault(_configured(base, row, base.seed, None).model_dump_json(), row)
        for row in experiment.every_row
    }


def _configured(base: Config, row: Row, seed: int, parent: Path | None) -> Config:
    content: dict[str, Any] = base.model_dump(mode="json")
    set_here = {"seed": seed, "tracking.parent": parent and str(parent)}
    for key, value in {**row.changes, **set_here}.items():
        section, dot, last = key.rpartition(".")
        (content[section] if dot else content)[last] = value
    return configuration.from_dict(content, f"the row {row.name}")


def _contradictions(now: Record, former: Record) -> list[str]:
    if now.experiment.name != former.experiment.name:
        return [f"it holds {former.experiment.title!r}, not {now.experiment.title!r}"]
    changes = {row.name: row.changes for row in former.experiment.every_row}
    names = {row.name for row in now.experiment.every_row}
    found = [f"the row {name}: there when it began, not now" for name in changes if name not in names]
    found += [
        f"the row {row.name}: {json.dumps(changes[row.name])} when it began, {json.dumps(row.changes)} now"
        for row in now.experiment.every_row
        if changes.get(row.name, row.changes) != row.changes
    ]
    return found + [
        f"{key}: {old!r} when it began, {new!r} now"
        for key, (old, new) in configuration.difference(now.base, former.base).items()
        if configuration.is_learned(key) and key != "seed"
    ]


def _replace(path: Path, text: str) -> None:
    """Write a file that others may read at the same time: never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.uname().nodename}.{os.getpid()}")
    partial.write_text(text)
    partial.replace(path)
