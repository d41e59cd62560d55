"""The results of an experiment: a table with a row for each of its rows, and a chart of its curves.

Summary of each trial -> Results -> tables()    beside the paper's numbers, where the data is the paper's
                                 -> pictures()  scores against the numbers that were swept
                                 -> write()     NAME.md, NAME.tex, NAME.png and NAME.pdf in the experiment's folder
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from reid.report import charts
from reid.report.charts import Swept
from reid.report.comparison import mean_and_deviation, score_record, score_table
from reid.report.plates import Picture
from reid.report.rendering import write as write_figure
from reid.report.tables import Table
from reid.tracking import names
from reid.tracking.names import Param
from reid.tracking.runs import Summary
from reid.types import Direction

VCM = "hitsz-vcm"  # as preprocess/vcm.py names it
SOURCE = "The paper: arXiv 2307.03903, Table 1, as printed there."


class Row(NamedTuple):
    """A row and its trials, which differ in their seed. `paper`: Rank-1, 5, 10, 20 and mAP in percent."""

    label: str
    trials: Sequence[Summary]
    paper: Mapping[Direction, Sequence[float]]


class Curve(NamedTuple):
    """A number of the configuration, the trials of each of its values, and the value of the paper."""

    label: str
    trials: Mapping[float, Sequence[Summary]]
    paper: float | None


@dataclass(frozen=True)
class Results:
    """What an experiment has shown so far. `rows` are those that were begun; `missing` names the others."""

    name: str
    title: str
    rows: Sequence[Row]
    curves: Sequence[Curve] = ()
    missing: Sequence[str] = ()

    @property
    def synthetic(self) -> bool:
        return any(run.is_synthetic for run in self._trials())

    def tables(self) -> list[Table]:
        """A table a direction."""
        notes = [f"Not begun: {', '.join(self.missing)}."] if self.missing else []
        if beside := self._is_on_vcm() and any(row.paper for row in self.rows):
            notes.append(SOURCE)
        return [
            score_table(
                {row.label: row.trials for row in self.rows},
                direction,
                {row.label: row.paper[direction] for row in self.rows if beside and direction in row.paper},
                before=f"{self.title}: ",
                notes=notes,
            )
            for direction in Direction
        ]

    def description(self) -> str:
        """The tables in Markdown, for the head of the run above the trials."""
        return "\n".join(table.markdown() for table in self.tables())

    def pictures(self) -> Iterator[Picture]:
        """The curves, if there are any."""
        swept = [_swept(curve) for curve in self.curves if any(curve.trials.values())]
        if swept:
            caption = (
                "Rank-1 and mAP of both directions against each number, the others as they were configured. Points are "
                "means over seeds, bands sample deviations; dashed: the value of the paper."
            )
            draw = partial(charts.swept_curves, swept, title=self.title, synthetic=self.synthetic)
            yield Picture(self.name, draw, caption, is_chart=True)

    def write(self, folder: Path) -> list[Path]:
        """Write tables and charts. Returns the files."""
        files = {
            folder / f"{self.name}.md": self.description(),
            folder / f"{self.name}.tex": "\n".join(table.latex() for table in self.tables()),
        }
        for path, text in files.items():
            path.write_text(text)
        drawn = [
            write_figure(picture.draw, folder / f"{picture.name}.{kind}")
            for picture in self.pictures()
            for kind in ("png", "pdf")
        ]
        return [*files, *drawn]

    def as_records(self) -> list[dict[str, Any]]:
        """The rows as plain values, for JSON: fractions; the paper's numbers, in percent, only beside those of its data."""
        beside = self._is_on_vcm()
        return [
            {**score_record(row.label, row.trials), **({"paper": row.paper} if beside and row.paper else {})}
            for row in self.rows
        ]

    def _trials(self) -> list[Summary]:
        return [run for row in self.rows for run in row.trials]

    def _is_on_vcm(self) -> bool:
        """Whether the numbers can be held beside the paper's."""
        return not self.synthetic and all(run.params.get(Param.DATASET) == VCM for run in self._trials())


def _swept(curve: Curve) -> Swept:
    """NaN stands for a score that no trial has, no deviation for that of one trial."""
    values = sorted(value for value, trials in curve.trials.items() if trials)
    scores = {}
    for direction in Direction:
        for key in (names.first_rank(direction), names.mean_average_precision(direction)):
            found = [mean_and_deviation(curve.trials[value], key) for value in values]
            means = [np.nan if mean is None else mean for mean, _ in found]
            scores[key] = (np.array(means), np.array([deviation or 0.0 for _, deviation in found]))
    return Swept(curve.label, np.array(values), scores, curve.paper)
