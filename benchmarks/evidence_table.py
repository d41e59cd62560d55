"""How the evidence is told: tables in Markdown, whose cells are means and sample deviations over seeds."""

import statistics
from collections.abc import Iterable, Sequence
from typing import NamedTuple


class Table(NamedTuple):
    title: str
    columns: tuple[str, ...]
    rows: Sequence[Sequence[str]]

    def __str__(self) -> str:
        lines = [self.columns, (":--", *["--:"] * (len(self.columns) - 1)), *self.rows]
        return "\n".join([f"{self.title}\n", *(f"| {' | '.join(line)} |" for line in lines)])


def spread(values: Iterable[float], digits: int = 3) -> str:
    """Mean +- sample deviation; of a single value, the value."""
    found = list(values)
    mean = f"{statistics.fmean(found):.{digits}f}"
    return mean if len(found) == 1 else f"{mean} +- {statistics.stdev(found):.{digits}f}"
