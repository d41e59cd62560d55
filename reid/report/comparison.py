"""Runs beside each other, from the summaries of their journals.

[Summary] -> listing                   one line a run
          -> details                   all of one run
          -> Comparison -> differences in what they differ: a row for each value, and who has it
                        -> scores      means and deviations of runs that differ in nothing but their seed
          -> as_records                the same as numbers, for JSON
groups of [Summary] -> score_table     the scores of groups that somebody else has made
"""

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from reid.report.tables import Table, labelled, percent, shortened, title_of
from reid.tracking import names
from reid.tracking.runs import Summary, identity, over_seeds, seed_of, settings
from reid.tracking.tracker import Status
from reid.types import Direction

NOTHING = "-"
INTERNAL_TAGS = (names.Tag.DESCRIPTION, names.Tag.RUN_FOLDER)
MAX_LABEL_CHARACTERS = 24
CALLED = "tracking."
SEED = names.Param.SEED


def listing(runs: Sequence[Summary]) -> Table:
    """One line a run, the newest last."""
    columns = ("run", "status", "variant", "seed", "step", "R1 I-V", "R1 V-I", "mAP", "last sign")
    rows = [
        (
            _here(run.folder),
            run.status,
            run.settled_params.get(names.Param.VARIANT, NOTHING),
            run.settled_params.get(SEED, NOTHING),
            NOTHING if run.is_parent or run.step < 0 else f"{run.step:,}",
            *(_score(run, key) for key in (*map(names.first_rank, Direction), names.Metric.MEAN_MAP)),
            _age(run.updated),
        )
        for run in sorted(runs, key=lambda run: run.started)
    ]
    note = "R1: Rank-1 infrared to visible (I-V) and visible to infrared (V-I); mAP: mean of both directions; percent."
    return Table(labelled("Runs", any(run.is_synthetic for run in runs)), columns, tuple(rows), (note,))


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
    return Table(labelled(run.name, run.is_synthetic), ("", _here(run.folder)), tuple(rows))


def headline(run: Summary) -> str:
    """The scores to remember of a run, in a few words; nothing where it has none."""
    found = {
        "Rank-1 I-V": names.first_rank(Direction.INFRARED_TO_VISIBLE),
        "V-I": names.first_rank(Direction.VISIBLE_TO_INFRARED),
        "mean mAP": names.Metric.MEAN_MAP,
    }
    return ", ".join(f"{label} {_score(run, key)}" for label, key in found.items() if key in run.metrics)


def as_records(runs: Sequence[Summary]) -> list[dict[str, Any]]:
    """Everything that the summaries hold, as plain values."""
    return [{**asdict(run), "folder": str(run.folder)} for run in runs]


class Comparison:
    """Runs in groups: the runs of one differ in nothing but their seed. Parents of other runs are left out, because they
    would count their children twice.

    Keys for which `is_learned` is False belong to the machine: they neither name a group nor come first.
    """

    def __init__(self, runs: Sequence[Summary], is_learned: Callable[[str], bool]) -> None:
        self._is_learned = is_learned
        self._facts = {run.folder: _facts(run) for run in runs if not run.is_parent}
        self._runs = [run for run in runs if not run.is_parent]
        self.groups = self._named_groups()

    def differences(self) -> Table:
        """A row for each value of each key that is not the same in all runs, with the groups and runs that have it."""
        rows: list[tuple[str, ...]] = []
        faint = set()
        keys = _differing(list(self._facts.values()))
        for key in sorted(keys, key=lambda key: (not self._is_learned(key), key == SEED, key)):
            owners: dict[str, list[Summary]] = {}
            for run in self._runs:
                owners.setdefault(self._facts[run.folder].get(key, NOTHING), []).append(run)
            if not self._is_learned(key):
                faint |= set(range(len(rows), len(rows) + len(owners)))
            first, *others = sorted(owners)
            rows += [(key, first, self._named(owners[first]))]
            rows += [("", value, self._named(owners[value])) for value in others]
        notes = () if rows else ("The configurations and the data of these runs are all the same.",)
        return Table("Differences", ("key", "value", "runs"), tuple(rows), notes, frozenset(faint))

    def scores(self, direction: Direction) -> Table:
        """Scores of a direction in percent: mean and sample deviation over the seeds of otherwise equal runs."""
        return score_table(self.groups, direction)

    def description(self) -> str:
        """Scores of both directions in Markdown, for the head of a parent."""
        return "\n".join(self.scores(direction).markdown() for direction in Direction)

    def as_records(self) -> list[dict[str, Any]]:
        """The groups as plain values: means and deviations as fractions, and the runs."""
        return [score_record(label, members) for label, members in self.groups.items()]

    def _named_groups(self) -> dict[str, list[Summary]]:
        """Groups under what tells each from the others."""
        groups: dict[frozenset[tuple[str, str]], list[Summary]] = {}
        for run in self._runs:
            groups.setdefault(identity(run), []).append(run)
        facts = [self._facts[members[0].folder] for members in groups.values()]
        telling = sorted(key for key in _differing(facts) if key != SEED and self._is_learned(key))
        found: dict[str, list[Summary]] = {}
        for each, members in zip(facts, groups.values(), strict=True):
            label = ", ".join(_label(key, each[key]) for key in telling if key in each) or members[0].name
            found[label if label not in found else f"{label} ({members[0].name})"] = members
        return found

    def _named(self, runs: Sequence[Summary]) -> str:
        """Whole groups by their label, other runs by their name."""
        words: list[str] = []
        for label, members in self.groups.items():
            having = [run.name for run in members if run in runs]
            words += [f"{label} ({len(members)})"] if 1 < len(having) == len(members) else having
        return ", ".join(words)


def score_table(
    groups: Mapping[str, Sequence[Summary]],
    direction: Direction,
    references: Mapping[str, Sequence[float]] | None = None,
    *,
    before: str = "",
    notes: Sequence[str] = (),
) -> Table:
    """A row a group of runs that differ in nothing but their seed, in percent: mean and sample deviation.

    Runs that repeat a seed count as one, by their mean. `references` are numbers of the paper for some groups, each a faint
    row below its group: Rank-1, 5, 10, 20 and mAP in percent, as printed there. `before` begins the title.
    """
    columns = {
        **{f"Rank-{k}": names.rank(direction, k) for k in names.RANKS},
        "mAP": names.mean_average_precision(direction),
        "mINP": names.mean_inverse_penalty(direction),
    }
    rows: list[tuple[str, ...]] = []
    faint = set()
    for label, members in groups.items():
        found = (mean_and_deviation(members, key) for key in columns.values())
        rows.append((label, str(_num_seeds(members)), *(_mean_and_deviation(*each) for each in found)))
        if references and label in references:
            faint.add(len(rows))
            rows.append(("  the paper", NOTHING, *(f"{number:.2f}" for number in references[label]), NOTHING))
    runs = {run.folder: run for members in groups.values() for run in members}.values()
    said = [
        "Percent: mean (sample deviation over seeds) of the last evaluation of each finished run.",
        *notes,
    ]
    if unfinished := [run.name for run in runs if run.status != Status.FINISHED]:
        said.append(f"Not finished, and left out: {', '.join(unfinished)}.")
    if repeated := [
        label for label, members in groups.items() if _num_seeds(members) < len(_finished(members))
    ]:
        said.append(
            f"Some seed was run more than once, and counts as one, by the mean of its runs: {', '.join(repeated)}."
        )
    title = labelled(f"{before}{title_of(direction)}", any(run.is_synthetic for run in runs))
    return Table(title, ("", "seeds", *columns), tuple(rows), tuple(said), frozenset(faint))


def score_record(label: str, members: Sequence[Summary]) -> dict[str, Any]:
    """A group as plain values: means and deviations as fractions, and the runs."""
    found = {key: mean_and_deviation(members, key) for key in names.SCORES}
    return {
        "group": label,
        "num_finished": len(_finished(members)),
        "num_seeds": _num_seeds(members),
        "mean": {key: mean for key, (mean, _) in found.items() if mean is not None},
        "deviation": {key: deviation for key, (_, deviation) in found.items() if deviation is not None},
        "runs": as_records(members),
    }


def mean_and_deviation(runs: Sequence[Summary], key: str) -> tuple[float | None, float | None]:
    """Mean and sample deviation of a score over the seeds that have finished, as fractions; None where there is none."""
    values = over_seeds(_finished(runs), key)
    mean = statistics.fmean(values) if values else None
    return mean, statistics.stdev(values) if len(values) > 1 else None


def _facts(run: Summary) -> dict[str, str]:
    """What a run was told and what it found: its configuration where its folder has one, else its parameters.

    What it is called and where it is tracked does not count.
    """
    configured = {key: value for key, value in settings(run.folder).items() if not key.startswith(CALLED)}
    return {
        **configured,
        **{key: value for key, value in run.params.items() if not configured or key in names.FACTS},
    }


def _differing(facts: Sequence[Mapping[str, str]]) -> set[str]:
    keys = {key for each in facts for key in each}
    return {key for key in keys if len({each.get(key) for each in facts}) > 1}


def _label(key: str, value: str) -> str:
    short = shortened(value, MAX_LABEL_CHARACTERS)
    last = key.rpartition(".")[2]
    return short if last == names.Param.VARIANT else f"{last}={short}"


def _finished(runs: Sequence[Summary]) -> list[Summary]:
    return [run for run in runs if run.status == Status.FINISHED]


def _num_seeds(runs: Sequence[Summary]) -> int:
    return len({seed_of(run) for run in _finished(runs)})


def _mean_and_deviation(mean: float | None, deviation: float | None) -> str:
    if mean is None:
        return NOTHING
    return percent(mean) if deviation is None else f"{percent(mean)} ({percent(deviation)})"


def _score(run: Summary, key: str) -> str:
    score = run.metrics.get(key, math.nan)  # a mean that was taken back is NaN too
    return NOTHING if math.isnan(score) else percent(score)


def _here(folder: Path) -> str:
    """A path as short as it can be typed."""
    absolute, here = folder.resolve(), Path.cwd()
    return str(absolute.relative_to(here) if absolute.is_relative_to(here) else folder)


def _age(moment: float) -> str:
    seconds = max(0, round(time.time() - moment))
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"
