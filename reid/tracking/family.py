"""Runs above runs: the parent of a sweep or an ablation, or of one configuration trained with several seeds.

    journals of the children -> gather -> what they share, means and deviations of what they reached -> the parent's journal

A parent trains nothing, and no process of its own lives with it: it is SCHEDULED until all its children have ended. Nobody
knows which children will still come, so whatever it is told can be taken back: parameters stand in tags, and a mean that
holds no longer becomes NaN.
"""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from reid.tracking import names
from reid.tracking.journal import Journal, Kind, header
from reid.tracking.runs import RUNNING, Summary, identity, over_seeds, summary
from reid.tracking.tracker import Status, Tracker
from reid.tracking.view import PARAMS


def begin(
    folder: Path,
    *,
    experiment: str,
    run_name: str,
    parent: Path | None = None,
    tags: Mapping[str, str] | None = None,
) -> None:
    """Make the journal of a parent, unless there is one. Any number of processes may call it at once.

    It has the `tags`, and so has every run below it. Raises ValueError as `Journal.introduce` does.
    """
    with Journal.open(folder) as journal:
        if journal.run is None:
            about = journal.introduce(experiment=experiment, name=run_name, parent=parent, tags=tags)
            journal.append(Kind.TAGS, {names.Tag.CHILDREN: "none has ended", **about["tags"]})
            journal.append(Kind.FINISH, {"status": Status.SCHEDULED})


def families(runs: Iterable[Path]) -> dict[Path, list[Path]]:
    """Every parent among `runs` with its children among them; a parent comes after those of its children that are one.

    Runs that cannot be read, or that were killed before they said who they are, are in no family.
    """
    headers = {}
    for run in runs:
        with suppress(ValueError, OSError):
            headers[run] = header(run)
    found: dict[Path, list[Path]] = {}
    for parent, about in headers.items():
        if children := [run for run, other in headers.items() if other["parent_uid"] == about["uid"]]:
            found[parent] = children
    return dict(sorted(found.items(), key=lambda item: _height(item[0], found)))


def leaves(parent: Path, found: Mapping[Path, Sequence[Path]]) -> list[Path]:
    """The runs below a parent that are none themselves."""
    return [leaf for child in found.get(parent, ()) for leaf in (leaves(child, found) or [child])]


def gather(parent: Path, children: Sequence[Path], description: str = "") -> Status:
    """Tell a parent what its children reached so far, and how it therefore stands.

    It takes the parameters that all children share, as tags, and is synthetic as soon as one of them is. The row of an
    experiment, which learns the same in all of its trials, has what tables show also as parameters. Where children are trials
    that differ in nothing but the seed, it takes the mean and the sample deviation of every score over those that have
    finished, at the step "number of children that have finished" (never at a former one, where MLflow would not see it).
    It is SCHEDULED while a child is still to end, then FINISHED, or FAILED if not all children finished. `description` is
    Markdown. May be called again at any time. Raises ValueError without children, JournalInUseError.
    """
    if not children:
        raise ValueError(
            f"{parent}: no run names this one as its parent; train some with --tracking.parent {parent}"
        )
    found = [summary(child) for child in children]
    finished = [child for child in found if child.status == Status.FINISHED]
    with Journal.open(parent) as journal:
        tracker = Tracker(journal, None)
        former = [key for key in journal.tags if key.startswith(names.SHARED)]
        shared = _shared(found)
        tracker.tags({**dict.fromkeys(former), **{names.shared(key): value for key, value in shared.items()}})
        if names.Tag.ROW in journal.tags:
            tracker.params({key: shared[key] for key in PARAMS if key in shared and key != names.Param.SEED})
        tracker.tags({names.Tag.CHILDREN: f"{len(finished)} of {len(found)} finished"})
        if any(child.is_synthetic for child in found):
            tracker.tags({names.Tag.SYNTHETIC: True})
        if description:
            tracker.description(description)
        told = {key: value for key, value in summary(parent).metrics.items() if not math.isnan(value)}
        means = _means(finished) if _are_seeds_of_one_row(found) else {}
        withdrawn = dict.fromkeys(told.keys() - means.keys(), math.nan)
        if new := {key: value for key, value in means.items() if told.get(key) != value} | withdrawn:
            journal.append(Kind.METRICS, new, max(len(finished), journal.last_step))
        status = _standing(found)
        journal.append(Kind.FINISH, {"status": status})
    return status


def _height(run: Path, found: Mapping[Path, Sequence[Path]]) -> int:
    return 1 + max((_height(child, found) for child in found.get(run, ())), default=0)


def _shared(runs: Sequence[Summary]) -> dict[str, str]:
    """The parameters that all runs share. One that was killed before it told any does not count."""
    told = [set(run.settled_params.items()) for run in runs if run.settled_params]
    return dict(sorted(set.intersection(*told))) if told else {}


def _are_seeds_of_one_row(runs: Sequence[Summary]) -> bool:
    told = {identity(run) for run in runs if run.settled_params}
    return len(told) == 1 and not any(run.is_parent for run in runs)


def _means(runs: Sequence[Summary]) -> dict[str, float]:
    found: dict[str, float] = {}
    for score in names.SCORES:
        values = over_seeds(runs, score)
        if values:
            found[score] = statistics.fmean(values)
        if len(values) > 1:
            found[names.deviation(score)] = statistics.stdev(values)
    return found


def _standing(runs: Sequence[Summary]) -> Status:
    statuses = {run.status for run in runs}
    if statuses & {RUNNING, Status.SCHEDULED}:
        return Status.SCHEDULED
    return Status.FINISHED if statuses == {Status.FINISHED} else Status.FAILED
