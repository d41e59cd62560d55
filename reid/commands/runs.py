"""reid runs: what journals know, and what MLflow is told of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from reid.arguments import parse
from reid.commands import printing
from reid.commands.failures import WORLD, Failures


@dataclass(frozen=True)
class RunsArguments:
    """Look after runs by their journals; a server is needed only for `sync`, and for `reap --uri`.

    ls lists, show tells of one, compare puts several side by side with means and deviations over seeds, gather tells each
    parent what its children reached, sync sends to MLflow what it does not have yet, reap closes the runs whose machine
    vanished: in their journals, or with --uri and --experiment on a server.
    """

    action: Annotated[Literal["ls", "show", "compare", "gather", "sync", "reap"], tyro.conf.Positional]
    """What to do."""
    folders: Annotated[tuple[Path, ...], tyro.conf.Positional] = (Path("runs"),)
    """Folders of runs, or folders that hold such."""
    format: Literal["terminal", "markdown", "latex", "json"] = "terminal"
    """How results are printed."""
    json: bool = False
    """The same as --format json."""
    uri: str | None = None
    """MLflow server or store: for sync, if not MLFLOW_TRACKING_URI, or else the one that the run was started with, or else the
    file beside the run; for reap, to close there."""
    experiment: str | None = None
    """The experiment on the server in which reap closes runs."""
    silent_minutes: float = 5.0
    """reap closes what gave no sign of life for so long."""
    waiting: bool = False
    """reap closes also what asked to be started again and was not, as after `scancel`."""


def main(arguments: Sequence[str]) -> int:
    chosen = parse(RunsArguments, arguments, "runs")
    kind = printing.kind_of(chosen.format, as_json=chosen.json)
    from reid.tracking import runs as journals

    if chosen.action == "reap" and chosen.uri:
        if chosen.waiting:
            raise ValueError(
                "--waiting: only a journal tells how long a run has waited; name its folder without --uri"
            )
        _reap_on_server(chosen.uri, chosen.experiment, 60 * chosen.silent_minutes)
        return 0
    found = journals.find_all(chosen.folders)
    failures = Failures("runs")
    if chosen.action == "sync":
        _sync(found, chosen.uri, failures)
    elif chosen.action == "reap":
        for run in found:
            with failures.told():
                if journals.reap([run], 60 * chosen.silent_minutes, waiting=chosen.waiting):
                    print(f"{run}: closed; `reid runs sync {run}` tells MLflow")
    elif chosen.action == "gather":
        _gather(found, failures)
    elif chosen.action == "ls":
        _list(found, kind, failures)
    elif chosen.action == "show":
        _show(found, kind, failures)
    else:
        _compare(found, kind, failures)
    return failures.code


def _reap_on_server(uri: str, experiment: str | None, silent_seconds: float) -> None:
    from reid.tracking.mlflow import reap

    if experiment is None:
        raise ValueError("--uri closes runs on a server: say in which --experiment")
    for name in reap(uri, experiment, silent_seconds):
        print(f"{name}: closed on the server")


def _sync(found: Sequence[Path], uri: str | None, failures: Failures) -> None:
    from reid.tracking import family
    from reid.tracking.runs import EMPTY, summary
    from reid.tracking.target import redacted
    from reid.tracking.tracker import destination_of

    families = family.families(found)
    for run in found:
        with failures.told():
            if summary(run).status == EMPTY:
                print(f"{run}: empty, there is nothing to send")
                continue
            first, *_ = family.leaves(run, families) or [run]
            address = destination_of(first, uri)
            print(f"{run} -> {redacted(address)}: {_sent(run, address, failures)}")


def _sent(run: Path, address: str, failures: Failures) -> str:
    """Send a run; what came of it."""
    from reid.tracking.mlflow import REFUSED_NAME, num_refused
    from reid.tracking.sender import SenderInUseError, sync

    try:
        sent = f"{sync(run, address)} records sent"
    except SenderInUseError:
        return "is being sent by another process"
    if not (refused := num_refused(run, address)):
        return sent
    failures.note(WORLD)
    return f"{sent}, {refused} refused: {run / REFUSED_NAME} says why"


def _gather(found: Sequence[Path], failures: Failures) -> None:
    from reid.commands import experiment
    from reid.tracking import family

    families = family.families(found)
    if not families:
        raise ValueError("none of these runs has children; train some with --tracking.parent FOLDER")
    for parent, children in families.items():
        with failures.told():
            status = experiment.gather(parent, families)
            print(f"{parent}: {status}, {len(children)} children; `reid runs sync {parent}` tells MLflow")


def _list(found: Sequence[Path], kind: printing.Kind, failures: Failures) -> None:
    from reid.report import comparison
    from reid.tracking.runs import DAMAGED, Summary, summary

    summaries = []
    for run in found:
        changed = run.stat().st_mtime
        told = Summary(run, name=run.resolve().name, status=DAMAGED, started=changed, updated=changed)
        with failures.told():
            told = summary(run)
        summaries.append(told)
    printing.results([comparison.listing(summaries)], comparison.as_records(summaries), kind)


def _show(found: Sequence[Path], kind: printing.Kind, failures: Failures) -> None:
    from reid.report import comparison
    from reid.report.optimistic import optimistic
    from reid.tracking.runs import series, summary

    summaries, tables = [], []
    for run in found:
        with failures.told():
            told = summary(run)
            shown = (comparison.details(told), optimistic(told, series(run)))
            tables += [table for table in shown if table is not None]
            summaries.append(told)
    printing.results(tables, comparison.as_records(summaries), kind)


def _compare(found: Sequence[Path], kind: printing.Kind, failures: Failures) -> None:
    from reid.config import is_learned
    from reid.report.comparison import Comparison
    from reid.tracking.runs import EMPTY, settings, summary
    from reid.types import Direction

    summaries = []
    for run in found:
        with failures.told():
            told = summary(run)
            settings(run)  # a damaged configuration is left out, too
            if told.status != EMPTY:
                summaries.append(told)
    compared = Comparison(summaries, is_learned)
    tables = [compared.differences(), *map(compared.scores, Direction)]
    printing.results(tables, compared.as_records(), kind)
