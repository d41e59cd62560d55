"""An experiment as a file of launch/experiments/: rows, each a name and the keys of the configuration that it changes.

    YAML -> Experiment: rows, and curves, each of which is a row for every value of one key

Nothing else knows the rows of Table 1: whoever trains, compares or draws them is given an `Experiment`.
"""

import difflib
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from reid import config as configuration
from reid.config import Config, ConfigError
from reid.types import Direction

SET_BY_EXPERIMENTS = ("seed", "tracking.parent", "tracking.run_name")

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=60)]
"""Part of the name of a folder."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Row(_Part):
    """A line of a table: `changes` are values by dotted keys of the configuration.

    `label` is what a table calls it, by default its name. `paper` are the paper's own Rank-1, 5, 10, 20 and mAP, in percent.
    """

    name: Name
    label: str = ""
    changes: dict[str, Any] = Field(default_factory=dict)
    paper: dict[Direction, tuple[float, float, float, float, float]] = Field(default_factory=dict)

    @property
    def title(self) -> str:
        return self.label or self.name


class Curve(_Part):
    """A number of the configuration, the values it takes, and the one that the paper chose."""

    key: str
    label: str = ""
    values: tuple[float, ...] = Field(min_length=1)
    paper: float | None = None

    @property
    def title(self) -> str:
        return self.label or self.key

    def row(self, value: float) -> Row:
        """The row in which the key has one of the values."""
        short = self.key.rpartition(".")[2]
        return Row(name=f"{short}-{value:g}", label=f"{short} = {value:g}", changes={self.key: value})


class Experiment(_Part):
    """What is trained and compared. `name` is that of its files; `pictured` are the rows whose answers a report shows."""

    name: Name
    title: str
    rows: tuple[Row, ...] = ()
    curves: tuple[Curve, ...] = ()
    pictured: tuple[str, ...] = ()

    @property
    def every_row(self) -> tuple[Row, ...]:
        """The rows, and those of the curves."""
        return self.rows + tuple(curve.row(value) for curve in self.curves for value in curve.values)

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        rows = self.every_row
        names = Counter(row.name for row in rows)
        found = [f"{name}: this row is there {count} times" for name, count in names.items() if count > 1]
        titles = Counter({row.name: row.title for row in rows}.values())
        found += [
            f"{title}: {count} rows have this label, and a table tells them apart by it"
            for title, count in titles.items()
            if count > 1
        ]
        if not rows:
            found.append("rows: there is none, and no curve either")
        found += [
            f"{row.name}: {_complaint(key)}" for row in rows for key in row.changes if not _may_change(key)
        ]
        if strangers := [name for name in self.pictured if name not in names]:
            found.append(f"pictured: {', '.join(strangers)}: no such row")
        if found:
            raise ValueError("\n  ".join(found))
        return self

    def chosen(self, names: tuple[str, ...] | None) -> tuple[Row, ...]:
        """The rows of these names in the order of the file; all without names. Raises ConfigError for one it does not have."""
        if names is None:
            return self.every_row
        known = [row.name for row in self.every_row]
        if strangers := [name for name in names if name not in known]:
            raise ConfigError(
                f"--variants: {self.title} has no row {', '.join(strangers)}; its rows are {', '.join(known)}"
            )
        if twice := [name for name, count in Counter(names).items() if count > 1]:
            raise ConfigError(f"--variants: {', '.join(twice)}: named more than once")
        return tuple(row for row in self.every_row if row.name in names)


def is_one(path: Path) -> bool:
    """Whether a file holds rows or curves, and so an experiment rather than a configuration."""
    try:
        return configuration.holds_rows(configuration.content_of(path, ""))
    except ConfigError:
        return False  # who reads it as the one or the other tells what is wrong with it


def from_yaml(path: Path) -> Experiment:
    """Read an experiment. Raises ConfigError naming the file and every mistake in it."""
    return from_dict(configuration.content_of(path, "launch/experiments/ablation.yaml"), str(path))


def from_dict(content: Any, source: str) -> Experiment:
    """Check what a file holds. Raises ConfigError with `source` and every mistake."""
    try:
        return Experiment.model_validate(content)
    except ValidationError as error:
        raise configuration.refusal(error, source) from error


def _may_change(key: str) -> bool:
    return key not in SET_BY_EXPERIMENTS and key in configuration.flatten(Config())


def _complaint(key: str) -> str:
    if key in SET_BY_EXPERIMENTS:
        return f"{key} is set for each trial, no row can change it"
    near = difflib.get_close_matches(key, configuration.flatten(Config()), n=1)
    return f"the configuration has no key {key}{f'; is {near[0]} meant?' if near else ''}"
