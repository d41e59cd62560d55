"""Runs above runs: the parent of a sweep or an ablation, or of one configuration trained with several seeds.

    journals of the children -> gather -> what they share, means and deviations of what they reached -> the parent's journal

A parent trains nothing, and no process of its own lives with it: it is SCHEDULED until all its children have ended.
"""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from reid.tracking import names
from reid.tracking.journal import Journal, Kind, header
from reid.tracking.runs import RUNNING, Summary, identity, summary
from reid.tracking.tracker import Status, Tracker


def begin(folder: Path, *, experiment: str, run_name: str, parent: Path | None = None) -> None:
    """Make the journal of a parent, unless there is one. Any number of processes may call it at once.

    Raises ValueError as `Journal.introduce` does.
    """
    with Journal.open(folder) as journal:
        if journal.run is None:
            journal.introduce(experiment=experiment, name=run_name, parent=parent)
            journal.append(Kind.TAGS, {names.Tag.CHILDREN: "none has ended"})
            journal.append(Kind.FINISH, {"status": Status.SCHEDULED})


def families(runs: Iterable[Path]) -> dict[Path, list[Path]]:
    """Every parent among `runs` with its children among them; a parent comes after those of its children that are one."""
    headers = {run: header(run) for run in runs}
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

    It takes the parameters that all children share. Where they differ in nothing but the seed, it takes the mean and the
    sample deviation of every score over those that have finished, at the step "number of children that have finished", and
    says like them what was learned, so that a run above it can tell it from its neighbours.
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
        tracker.params(_shared(found))
        tracker.tags({names.Tag.CHILDREN: f"{len(finished)} of {len(found)} finished"})
        alone = _differ_in_seeds_alone(found)
        if alone and (learned := found[0].tags.get(names.Tag.LEARNED_SHA)):
            tracker.tags({names.Tag.LEARNED_SHA: learned})
        if description:
            tracker.description(description)
        known = {key: point.value for (key, step), point in journal.points.items() if step == len(finished)}
        means = _means(finished) if alone else {}
        if new := {key: value for key, value in means.items() if known.get(key) != value}:
            journal.append(
                Kind.METRICS, new, len(finished)
            )  # should a child reach another score, the newest counts
        status = _standing(found)
        journal.append(Kind.FINISH, {"status": status})
    return status


def _height(run: Path, found: Mapping[Path, Sequence[Path]]) -> int:
    return 1 + max((_height(child, found) for child in found.get(run, ())), default=0)


def _shared(runs: Sequence[Summary]) -> dict[str, str]:
    return {
        key: value
        for key, value in runs[0].params.items()
        if all(run.params.get(key) == value for run in runs[1:])
    }


def _differ_in_seeds_alone(runs: Sequence[Summary]) -> bool:
    return len({identity(run) for run in runs}) == 1


def _means(runs: Sequence[Summary]) -> dict[str, float]:
    found: dict[str, float] = {}
    for score in names.SCORES:
        values = [run.metrics[score] for run in runs if score in run.metrics]
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
