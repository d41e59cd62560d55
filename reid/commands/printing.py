"""What several commands print."""

import json
import math
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from rich.console import Console

    from reid.doctor.checkup import Numbered
    from reid.report.tables import Table
    from reid.training.run import Scored

WIDE = 200  # characters of a line where no terminal is
Kind = Literal["terminal", "markdown", "latex", "json"]


def scores(scored: "Scored", *, as_json: bool = False) -> None:
    """Clean scores, and where queries were disturbed, scores that say so in every title and key."""
    from reid.report import robustness
    from reid.report import tables as clean

    results, found = scored.evaluation.results, scored.robustness
    if as_json:
        numbers = clean.as_numbers(results, **scored.labels)
        if found is not None:
            numbers = robustness.as_numbers(found, numbers)
        print(json.dumps({**numbers, "checkpoint": str(scored.checkpoint), "step": scored.step}, indent=2))
        return
    shown = [clean.results(results, **scored.labels)]
    if found is not None:
        shown += robustness.results(found, results, **scored.labels)
    tables(shown, "terminal")


def kind_of(chosen: Kind, *, as_json: bool) -> Kind:
    """What --format and --json say together."""
    if as_json and chosen not in {"terminal", "json"}:
        raise ValueError(f"--json and --format {chosen}: name one of them")
    return "json" if as_json else chosen


def results(shown: "Iterable[Table]", records: Sequence[Mapping[str, Any]], kind: Kind) -> None:
    """Print tables or, as JSON, the records behind them. JSON has no NaN and no infinity: such a number is null there."""
    if kind == "json":
        print(json.dumps(_plain(records), indent=2, allow_nan=False))
    else:
        tables(shown, kind)


def _plain(value: Any) -> Any:
    match value:
        case float():
            return value if math.isfinite(value) else None
        case Mapping():
            return {key: _plain(one) for key, one in value.items()}
        case list() | tuple():
            return [_plain(one) for one in value]
        case _:
            return value


def tables(given: "Iterable[Table]", kind: Literal["terminal", "markdown", "latex"]) -> None:
    """Print them; as text, with an empty line between two."""
    for number, table in enumerate(given):
        if kind == "terminal":
            _console().print(*[""] * bool(number), table.terminal(), sep="\n")
        else:
            print(table.markdown() if kind == "markdown" else table.latex())


def findings(found: "list[Numbered]") -> None:
    from rich.table import Table
    from rich.text import Text

    colours = {"ok": "green", "warning": "yellow", "failure": "bold red"}
    table = Table.grid(padding=(0, 2))
    for number, name, (status, what, remedy) in found:
        told = Text(what).append(f"\n-> {remedy}" if remedy else "", colours[status])
        table.add_row(f"{number:>2}", name, Text(status, colours[status]), told)
    _console().print(table)
    counts = {status: sum(one.finding.status == status for one in found) for status in colours}
    print(f"\n{counts['ok']} of {len(found)} ok, {counts['warning']} warnings, {counts['failure']} failures")


def _console() -> "Console":
    """Standard output. A file or a pipe has no width: only COLUMNS folds what goes there."""
    from rich.console import Console

    has_width = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(width=None if has_width else WIDE)
