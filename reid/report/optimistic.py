"""The optimistic number of the literature: of all evaluations of a run the best one, each score by itself.

Choosing it looks at the test set, so it promises more than the method holds. It is here because many papers print it:
compare it with theirs, and the last evaluation with the truth.
"""

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from reid.report.tables import SCORES, Table, labelled, percent, title_of
from reid.tracking.runs import Summary
from reid.types import Direction

Series = Mapping[str, tuple[NDArray[Any], NDArray[Any]]]


def optimistic(run: Summary, series: Series) -> Table | None:
    """The last and the best evaluation of a run by direction, with the best's steps; None before the first one, and for a
    parent, whose scores are means over more and more children.

    `series` is step and value of every point, as reid.tracking.runs.series reads them.
    """
    if run.is_parent:
        return None
    rows: list[tuple[str, ...]] = []
    for direction in Direction:
        points = {name: series.get(f"{direction}/{name}") for name in SCORES}
        known = {name: found for name, found in points.items() if found is not None}
        if not known:
            continue
        best = {name: int(values.argmax()) for name, (_, values) in known.items()}
        for label, cells in (
            (f"{title_of(direction)}, last", {name: percent(known[name][1][-1]) for name in known}),
            ("  best on the test set", {name: percent(known[name][1][best[name]]) for name in known}),
            ("  at step", {name: f"{known[name][0][best[name]]:,}" for name in known}),
        ):
            rows.append((label, *(cells.get(name, "-") for name in SCORES)))
    if not rows:
        return None
    return Table(
        labelled("Optimistic: each score at its best evaluation", run.is_synthetic),
        ("", *SCORES.values()),
        tuple(rows),
        ("Percent. Picked by looking at the test set: for comparing with papers that did so, not a result.",),
        frozenset(range(len(rows))) - frozenset(range(0, len(rows), 3)),
    )
