"""Runs beside each other, from the summaries of their journals.

[Summary] -> listing      one line a run
          -> details      all of one run
          -> differences  the parameters in which runs differ
          -> scores       means and deviations of runs that differ in nothing but their seed
          -> as_records   the same as numbers, for JSON
"""

import statistics
import textwrap
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from reid.report.tables import Table, labelled, percent, title_of
from reid.tracking import names
from reid.tracking.runs import Summary
from reid.types import Direction

NOTHING = "-"
INTERNAL_TAGS = (names.Tag.DESCRIPTION, names.Tag.RUN_FOLDER)


def listing(runs: Sequence[Summary]) -> Table:
    """One line a run, the newest last."""
    columns = ("run", "status", "variant", "seed", "step", "R1 I-V", "R1 V-I", "mAP", "last sign")
    rows = [
        (
            str(run.folder),
            run.status,
            run.params.get(names.Param.VARIANT, NOTHING),
            run.params.get(names.Param.SEED, NOTHING),
            f"{max(run.step, 0):,}",
            *(
                _score(run, key)
                for key in (*(names.rank(direction, 1) for direction in Direction), names.Metric.MEAN_MAP)
            ),
            _age(run.updated),
        )
        for run in sorted(runs, key=lambda run: run.started)
    ]
    note = "R1: Rank-1 infrared to visible (I-V) and visible to infrared (V-I); mAP: mean of both directions; percent."
    return Table(labelled("Runs", any(map(_is_synthetic, runs))), columns, tuple(rows), (note,))


def details(run: Summary) -> Table:
    """Parameters, tags and latest metrics of a run."""
    rows = [
        ("experiment", run.experiment),
        ("status", run.status),
        ("step", f"{max(run.step, 0):,}"),
        ("starts", str(run.num_starts)),
        ("changed", _age(run.updated)),
        *sorted(run.params.items()),
        *((key, value) for key, value in sorted(run.tags.items()) if key not in INTERNAL_TAGS),
        *((key, f"{value:.6g}") for key, value in sorted(run.metrics.items())),
    ]
    return Table(labelled(run.name, _is_synthetic(run)), ("", str(run.folder)), tuple(rows))


def differences(runs: Sequence[Summary]) -> Table:
    """A row for each parameter that is not the same in all runs, a column a run."""
    keys = sorted({key for run in runs for key in run.params})
    rows = [(key, *(run.params.get(key, NOTHING) for run in runs)) for key in keys]
    differing = tuple(row for row in rows if len(set(row[1:])) > 1)
    notes = () if differing else ("The parameters of these runs are all the same.",)
    return Table("Differences", ("parameter", *(run.name for run in runs)), differing, notes)


def scores(runs: Sequence[Summary], direction: Direction) -> Table:
    """Latest scores of a direction in percent: mean and sample deviation over the seeds of otherwise equal runs."""
    columns = {
        **{f"Rank-{k}": names.rank(direction, k) for k in names.RANKS},
        "mAP": names.mean_average_precision(direction),
        "mINP": names.mean_inverse_penalty(direction),
    }
    rows = [
        (label, str(len(members)), *(_mean_and_deviation(members, key) for key in columns.values()))
        for label, members in _groups(runs)
    ]
    notes = ("Percent: mean (deviation over seeds), from the latest evaluation of each run.",)
    title = labelled(title_of(direction), any(map(_is_synthetic, runs)))
    return Table(title, ("", "seeds", *columns), tuple(rows), notes)


def as_records(runs: Sequence[Summary]) -> list[dict[str, Any]]:
    """Everything that the summaries hold, as plain values."""
    return [{**asdict(run), "folder": str(run.folder)} for run in runs]


def _groups(runs: Sequence[Summary]) -> Iterator[tuple[str, list[Summary]]]:
    """Runs whose parameters agree in all but the seed, under what tells the group from the others."""
    groups: dict[frozenset[tuple[str, str]], list[Summary]] = {}
    for run in runs:
        shared = frozenset((key, value) for key, value in run.params.items() if key != names.Param.SEED)
        groups.setdefault(shared, []).append(run)
    everywhere = frozenset.intersection(*groups) if groups else frozenset()
    for shared, members in groups.items():
        telling = sorted(shared - everywhere)
        words = [
            value if key == names.Param.VARIANT else f"{key}={textwrap.shorten(value, 24, placeholder='...')}"
            for key, value in telling
        ]
        yield ", ".join(words) or members[0].name, members


def _mean_and_deviation(runs: Sequence[Summary], key: str) -> str:
    values = [run.metrics[key] for run in runs if key in run.metrics]
    if not values:
        return NOTHING
    mean = percent(statistics.fmean(values))
    return f"{mean} ({percent(statistics.stdev(values))})" if len(values) > 1 else mean


def _score(run: Summary, key: str) -> str:
    return percent(run.metrics[key]) if key in run.metrics else NOTHING


def _is_synthetic(run: Summary) -> bool:
    return run.tags.get(names.Tag.SYNTHETIC) == "True"


def _age(moment: float) -> str:
    seconds = max(0, round(time.time() - moment))
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"
