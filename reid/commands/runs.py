"""reid runs: what journals know, and what MLflow is told of it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from reid import config as configuration
from reid.arguments import parse
from reid.commands import printing

if TYPE_CHECKING:
    from reid.tracking.runs import Summary


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
    uri: str | None = None
    """MLflow server or store: for sync, if not MLFLOW_TRACKING_URI or the file beside the run; for reap, to close there."""
    experiment: str | None = None
    """The experiment on the server in which reap closes runs."""
    silent_minutes: float = 5.0
    """reap closes what gave no sign of life for so long."""
    waiting: bool = False
    """reap closes also what asked to be started again and was not, as after `scancel`."""


def main(arguments: Sequence[str]) -> int:
    chosen = parse(RunsArguments, arguments, "runs")
    from reid.tracking import runs as journals

    if chosen.action == "reap" and chosen.uri:
        if chosen.waiting:
            raise ValueError(
                "--waiting: only a journal tells how long a run has waited; name its folder without --uri"
            )
        _reap_on_server(chosen.uri, chosen.experiment, 60 * chosen.silent_minutes)
        return 0
    found = journals.find_all(chosen.folders)
    if chosen.action == "sync":
        from reid.tracking.sender import sync
        from reid.tracking.tracker import tracking_uri_of

        for run in found:
            print(f"{run}: {sync(run, tracking_uri_of(run, chosen.uri))} records sent")
    elif chosen.action == "reap":
        for run in journals.reap(found, 60 * chosen.silent_minutes, waiting=chosen.waiting):
            print(f"{run}: closed; `reid runs sync {run}` tells MLflow")
    elif chosen.action == "gather":
        _gather(found)
    else:
        _print_runs(chosen, [journals.summary(run) for run in found])
    return 0


def _reap_on_server(uri: str, experiment: str | None, silent_seconds: float) -> None:
    from reid.tracking.mlflow import reap

    if experiment is None:
        raise ValueError("--uri closes runs on a server: say in which --experiment")
    for name in reap(uri, experiment, silent_seconds):
        print(f"{name}: closed on the server")


def _gather(found: list[Path]) -> None:
    from reid.report.comparison import Comparison
    from reid.tracking import family
    from reid.tracking.runs import summary

    families = family.families(found)
    if not families:
        raise ValueError("none of these runs has children; train some with --tracking.parent FOLDER")
    for parent, children in families.items():
        below = [summary(run) for run in family.leaves(parent, families)]
        status = family.gather(parent, children, Comparison(below, configuration.is_learned).description())
        print(f"{parent}: {status}, {len(children)} children; `reid runs sync {parent}` tells MLflow")


def _print_runs(chosen: RunsArguments, summaries: "list[Summary]") -> None:
    from reid.report import comparison
    from reid.report.optimistic import optimistic
    from reid.tracking.runs import series
    from reid.types import Direction

    if chosen.action == "compare":
        compared = comparison.Comparison(summaries, configuration.is_learned)
        tables = [compared.differences(), *map(compared.scores, Direction)]
        records = compared.as_records()
    elif chosen.action == "ls":
        tables, records = [comparison.listing(summaries)], comparison.as_records(summaries)
    else:
        shown = [(comparison.details(run), optimistic(run, series(run.folder))) for run in summaries]
        tables = [table for pair in shown for table in pair if table is not None]
        records = comparison.as_records(summaries)
    if chosen.format == "json":
        print(json.dumps(records, indent=2))
    else:
        printing.tables(tables, chosen.format)
