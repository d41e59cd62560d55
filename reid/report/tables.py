"""Tables of results: for the terminal, for Markdown, for LaTeX, and as numbers for JSON.

    Retrieval of each direction -> results(...) -> Table -> .terminal() | .markdown() | .latex()
                                -> as_numbers(...) -> JSON

Scores are fractions everywhere and become percent here. A table of synthetic data says so in its title.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import rich.box
import rich.table
from rich.markup import escape

from reid.evaluation.metrics import Chance, Retrieval, rank
from reid.tracking.names import RANKS
from reid.types import Direction

SCORES = {**{f"rank{k}": f"Rank-{k}" for k in RANKS}, "map": "mAP", "minp": "mINP"}
SHORT_CELL = 12  # characters; a column with a longer cell may break its words in a terminal

_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}


@dataclass(frozen=True)
class Table:
    """Cells that are already text. `faint` are the rows to be read second; `notes` stand below the table.

    `bold` are the cells to be read first, by row and column.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    faint: frozenset[int] = frozenset()
    bold: frozenset[tuple[int, int]] = frozenset()

    def terminal(self) -> rich.table.Table:
        """For `rich`, which fits it into the terminal."""
        table = rich.table.Table(
            title=escape(self.title),
            caption=escape("\n".join(self.notes)),
            box=rich.box.SIMPLE_HEAD,
            pad_edge=False,
            collapse_padding=True,
            title_justify="left",
            caption_justify="left",
            title_style="bold",
            min_width=len(self.title),
        )
        for i, column in enumerate(self.columns):
            is_short = all(len(row[i]) <= SHORT_CELL for row in self.rows)
            words = [word for row in self.rows for word in row[i].split()]
            table.add_column(
                escape(column),
                justify="right" if i and is_short else "left",
                overflow="fold",
                min_width=max(len(column), *map(len, words), 0) if is_short else None,
            )
        for i, row in enumerate(self.rows):
            cells = self._marked(i, [escape(cell) for cell in row], "[bold]", "[/bold]")
            table.add_row(*cells, style="dim" if i in self.faint else "")
        return table

    def markdown(self) -> str:
        """GitHub's Markdown, with the title in bold and every note a paragraph."""
        marks = [":--", *["--:"] * (len(self.columns) - 1)]
        rows = [self._marked(i, [*map(_markdown, row)], "**", "**") for i, row in enumerate(self.rows)]
        lines = ["| " + " | ".join(row) + " |" for row in ([*map(_markdown, self.columns)], marks, *rows)]
        return (
            "\n\n".join([f"**{_markdown(self.title)}**", "\n".join(lines), *map(_markdown, self.notes)])
            + "\n"
        )

    def latex(self) -> str:
        """A `tabular` with the rules of booktabs; the notes become comments."""
        rows = [self._marked(i, [*map(_latex, row)], r"\textbf{", "}") for i, row in enumerate(self.rows)]
        body = [" & ".join(row) + r" \\" for row in ([*map(_latex, self.columns)], *rows)]
        lines = [
            *(f"% {line}" for note in (self.title, *self.notes) for line in note.splitlines()),
            r"\begin{tabular}{l" + "r" * (len(self.columns) - 1) + "}",
            r"\toprule",
            body[0],
            r"\midrule",
            *body[1:],
            r"\bottomrule",
            r"\end{tabular}",
        ]
        return "\n".join(lines) + "\n"

    def _marked(self, row: int, cells: list[str], before: str, after: str) -> list[str]:
        """The cells of a row, the bold ones between two marks."""
        return [
            f"{before}{cell}{after}" if (row, column) in self.bold else cell
            for column, cell in enumerate(cells)
        ]


def side_by_side(
    direction: Direction,
    runs: Mapping[str, Mapping[str, float]],
    chance: Mapping[str, float] | None,
    *,
    notes: tuple[str, ...] = (),
    synthetic: bool,
) -> Table:
    """A row a run in one direction, in percent, the best of each column bold; below them random guessing, if given.

    Scores are fractions by the names of `fractions`; one that is missing is a dash.
    """
    best = {name: max((run[name] for run in runs.values() if name in run), default=None) for name in SCORES}
    bold = frozenset(
        (i, j)
        for i, run in enumerate(runs.values())
        for j, name in enumerate(SCORES, start=1)
        if len(runs) > 1 and name in run and run[name] == best[name]
    )
    rows = [
        (run, *(percent(scores[name]) if name in scores else "-" for name in SCORES))
        for run, scores in runs.items()
    ]
    if chance is not None:
        rows.append(("by chance", *(percent(chance[name]) for name in SCORES)))
    faint = frozenset([len(runs)] if chance is not None else [])
    title = labelled(title_of(direction), synthetic)
    return Table(title, ("", *SCORES.values()), tuple(rows), ("Percent.", *notes), faint, bold)


def results(results: Mapping[Direction, Retrieval], *, protocol: str, synthetic: bool) -> Table:
    """Both directions in percent, with the scores of random guessing below each."""
    rows: list[tuple[str, ...]] = []
    for direction, result in results.items():
        rows.append((title_of(direction), *_scores(result)))
        rows.append(("  by chance", *_scores(result.chance)))
    faint = frozenset(range(1, len(rows), 2))
    rows.append(("Mean", *map(percent, _mean(results).values())))
    queries = " and ".join(str(result.num_queries) for result in results.values())
    skipped = sum(result.num_skipped for result in results.values())
    removed = sum(result.num_removed_pairs for result in results.values())
    notes = (
        "Percent; one checkpoint for both directions.",
        f"Protocol: {protocol}.",
        f"{queries} queries; {skipped} without a match in the gallery were not counted; {removed} pairs were removed.",
    )
    columns = ("", *SCORES.values())
    return Table(labelled("Retrieval", synthetic), columns, tuple(rows), notes, faint)


def as_numbers(results: Mapping[Direction, Retrieval], *, protocol: str, synthetic: bool) -> dict[str, Any]:
    """The same as fractions, for JSON."""
    return {
        "synthetic": synthetic,
        "protocol": protocol,
        "directions": {
            str(direction): {
                **fractions(result),
                "chance": fractions(result.chance),
                "num_queries": result.num_queries,
                "num_skipped": result.num_skipped,
                "num_removed_pairs": result.num_removed_pairs,
            }
            for direction, result in results.items()
        },
        "mean": _mean(results),
    }


def title_of(direction: Direction) -> str:
    """`Infrared to visible` and `Visible to infrared`."""
    return direction.replace("_", " ").capitalize()


def labelled(title: str, synthetic: bool) -> str:
    """A title that says so where the data is not real."""
    return f"{title} on SYNTHETIC data" if synthetic else title


def shortened(text: str, most: int) -> str:
    """At most `most` characters, the middle left out: names differ at their ends."""
    return text if len(text) <= most else f"{text[: most // 2]}...{text[3 - most // 2 :]}"


def percent(fraction: float) -> str:
    """One decimal, without a sign: 0.6531 is `65.3`."""
    return f"{100 * fraction:.1f}"


def _scores(found: Retrieval | Chance) -> tuple[str, ...]:
    return tuple(map(percent, fractions(found).values()))


def fractions(found: Retrieval | Chance) -> dict[str, float]:
    """The scores that tables show, by the names in SCORES."""
    return {**{f"rank{k}": rank(found.cmc, k) for k in RANKS}, "map": found.map, "minp": found.minp}


def _mean(results: Mapping[Direction, Retrieval]) -> dict[str, float]:
    both = [fractions(result) for result in results.values()]
    return {score: sum(found[score] for found in both) / len(both) for score in both[0]}


def _markdown(text: str) -> str:
    return re.sub(r"([|\\`*_<>\[\]])", r"\\\1", text).replace("\n", " ")


def _latex(text: str) -> str:
    escaped = (_LATEX.get(c, "\\" + c if c in "&%$#_{}" else c) for c in text.replace("\n", " "))
    return "".join(escaped)
