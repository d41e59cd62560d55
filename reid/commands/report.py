"""reid report: pictures, tables and one page."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from reid.arguments import parse

if TYPE_CHECKING:
    from reid.experiments.trials import Record
    from reid.report.subject import Subject


@dataclass(frozen=True)
class ReportArguments:
    """Write pictures, tables and one page that holds everything, of one run, of several side by side, or of an experiment.

    The newest weights of each run are scored again, in fp32. Where weights or data set are gone, the page says so, and
    holds what the journal knows.
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Folders of runs, or folders that hold such; or that of `reid ablate` or `reid sweep`."""
    out: Path | None = None
    """Where to write; by default `report` in the run's folder, or beside the runs."""
    root: str | None = None
    """Packed data set, if not the one the runs were trained on."""
    step: int = 0
    """Iteration, from 0, whose batch is shown."""
    num_workers: int | None = None
    """Worker processes that read and decode, if not as many as in training."""
    device: Literal["auto", "cpu"] | None = None
    """`cpu` leaves a GPU alone."""
    attach: bool = False
    """Add the page to the run in MLflow; `reid runs sync` sends it."""


def main(arguments: Sequence[str]) -> int:
    chosen = parse(ReportArguments, arguments, "report")
    if not chosen.runs:
        raise ValueError("name the folder of a run, of several, or of an experiment: reid report runs/full")
    from reid.experiments import trials
    from reid.report.report import write
    from reid.report.subject import labels, place_of
    from reid.tracking import family, names
    from reid.tracking import runs as journals

    record = trials.read(chosen.runs[0]) if len(chosen.runs) == 1 else None
    if record is not None:
        return _report_experiment(record, chosen.runs[0], chosen)
    found = journals.find_all(chosen.runs)
    parents = family.families(found)
    folders = [run for run in found if run not in parents]
    out = place_of(folders, chosen.out)
    if chosen.attach and not (len(folders) == 1 and out.resolve().is_relative_to(folders[0].resolve())):
        raise ValueError("--attach: only a page about one run, inside of its folder, can become part of it")
    page = write([_subject(*run, chosen) for run in zip(folders, labels(folders), strict=True)], out)
    if chosen.attach:
        journals.attach(folders[0], {page: names.Folder.REPORT}, {})
    print(page)
    return 0


def _report_experiment(record: "Record", folder: Path, chosen: ReportArguments) -> int:
    """The tables and curves of an experiment, and the answers of one trial of each row that its file wants pictured."""
    from reid.commands import experiment
    from reid.experiments import trials
    from reid.report.report import write
    from reid.report.subject import labels

    if chosen.attach:
        raise ValueError("--attach: only a page about one run can become part of it")
    begun = trials.begun(record, folder)
    if not begun:
        raise ValueError(f"{folder}: no trial has begun yet")
    shown = list(dict.fromkeys(begun[row][0] for row in record.experiment.pictured if row in begun))
    subjects = [_subject(*run, chosen) for run in zip(shown, labels(shown), strict=True)] if shown else []
    print(write(subjects, chosen.out or folder / "report", experiment.results(record, begun)))
    return 0


def _subject(folder: Path, label: str, chosen: ReportArguments) -> "Subject":
    """What is left of a run, for the report room, which knows neither configurations nor training."""
    from reid import config as configuration
    from reid.report import album
    from reid.report.subject import Subject
    from reid.tracking.runs import summary
    from reid.training import build
    from reid.training.review import review

    changes: dict[str, dict[str, Any]] = {
        "data": {"root": chosen.root, "num_workers": chosen.num_workers},
        "engine": {"device": chosen.device},
    }
    left = review(folder, changes, chosen.step)
    return Subject(
        label,
        summary(folder),
        difference=None if left.config is None else configuration.difference(left.config),
        found=left.scored,
        seen=None
        if left.scored is None or left.batch is None or left.config is None
        else album.seen(chosen.step, *left.batch, left.scored.manifest, build.augmentation(left.config)),
        unscored=left.unscored,
        unseen=left.unseen,
    )
