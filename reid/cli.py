"""The commands of `reid`. Each imports what it needs when it runs, so that help is there at once.

    reid COMMAND [--config FILE] [options]

Exit codes: 0 done; 1 the world failed, or a signal ended the run; 2 a mistake of the user, told in one message.
"""

import json
import logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from reid import config as configuration
from reid import signals
from reid.arguments import (
    ConfigArguments,
    DoctorArguments,
    EvaluateArguments,
    ReportArguments,
    RunsArguments,
    TrainArguments,
    named_run,
    parse,
    starting_point,
)
from reid.config import Config
from reid.types import ToldElsewhereError

if TYPE_CHECKING:
    from reid.doctor.checkup import Numbered
    from reid.report.subject import Subject
    from reid.tracking.runs import Summary
    from reid.training.run import Scored


def train(arguments: Sequence[str]) -> int:
    try:
        with signals.leaving_at_once(_marker(arguments)):
            return _train(arguments)
    except signals.Stopped as stopped:
        if _speaks():
            again = " and asks to be started again" if stopped.asks_again else ""
            print(f"reid train: stopped by {stopped.name}{again}; --resume continues", file=sys.stderr)
        return 1


def _train(arguments: Sequence[str]) -> int:
    base, rest = starting_point(arguments)
    chosen = parse(TrainArguments, rest, "train", TrainArguments(run=tyro.MISSING, config=base))
    from reid.report import album, plates, tables
    from reid.training.review import batch_of
    from reid.training.run import Scored
    from reid.training.run import train as run_training

    def publish(scored: Scored) -> tuple[list[Path], str]:
        found = album.Found(scored.evaluator, scored.evaluation)
        seen = album.seen(0, *batch_of(chosen.config, scored.manifest, 0), scored.manifest)
        drawn = plates.kept(found, seen, chosen.run, chosen.run.resolve().name)
        description = tables.results(scored.evaluation.results, **scored.labels).markdown()
        return plates.saved(drawn, chosen.run / "pictures"), description

    scored = run_training(
        chosen.config, chosen.run, publish, resume=chosen.resume, accept_changes=chosen.accept_changes
    )
    if scored is None:
        return 1
    if _speaks():
        _print_scores(scored)
    return 0


def evaluate(arguments: Sequence[str]) -> int:
    chosen = parse(EvaluateArguments, arguments, "evaluate")
    from reid.training.run import evaluate as run_evaluation
    from reid.training.run import read_checkpoint

    path, config, snapshot = read_checkpoint(chosen.checkpoint)
    changes: dict[str, dict[str, Any]] = {
        "data": {"root": chosen.root, "cache": chosen.cache, "num_workers": chosen.num_workers},
        "evaluation": {
            "embedding": chosen.embedding,
            "all_clips": chosen.all_clips or None,
            "rerank": chosen.rerank or None,
        },
        "engine": {"device": chosen.device},
    }
    scored = run_evaluation(path, configuration.changed(config, changes), snapshot)
    if _speaks():
        _print_scores(scored, as_json=chosen.json)
    return 0


def show_config(arguments: Sequence[str]) -> int:
    base, rest = starting_point(arguments)
    chosen = parse(ConfigArguments, rest, "config", ConfigArguments(config=base))
    if chosen.schema:
        print(json.dumps(Config.model_json_schema(), indent=2))
        return 0
    if chosen.json:
        found = configuration.difference(chosen.config).items()
        changes = {key: {"paper": old, "here": new} for key, (old, new) in found}
        print(json.dumps({"config": chosen.config.model_dump(mode="json"), "difference": changes}, indent=2))
        return 0
    print(configuration.to_yaml(chosen.config))
    for line in configuration.explanation(chosen.config).splitlines():
        print(line if line.startswith("#") else f"#   {line}")
    return 0


def runs(arguments: Sequence[str]) -> int:
    chosen = parse(RunsArguments, arguments, "runs")
    from reid.tracking import runs as journals

    if chosen.action == "reap" and chosen.uri:
        _reap_on_server(chosen.uri, chosen.experiment, 60 * chosen.silent_minutes)
        return 0
    found = [run for folder in chosen.folders for run in journals.find(folder)]
    if not found:
        raise ValueError(
            f"{', '.join(map(str, chosen.folders))}: no run here; a run's folder holds a journal"
        )
    if chosen.action == "sync":
        from reid.tracking.sender import sync
        from reid.tracking.tracker import tracking_uri_of

        for run in found:
            print(f"{run}: {sync(run, tracking_uri_of(run, chosen.uri))} records sent")
    elif chosen.action == "reap":
        for run in journals.reap(found, 60 * chosen.silent_minutes):
            print(f"{run}: closed; `reid runs sync {run}` tells MLflow")
    elif chosen.action == "gather":
        _gather(found)
    else:
        _print_runs(chosen, [journals.summary(run) for run in found])
    return 0


def report(arguments: Sequence[str]) -> int:
    chosen = parse(ReportArguments, arguments, "report")
    from reid.report.report import write
    from reid.report.subject import labels, place_of
    from reid.tracking import family, names
    from reid.tracking import runs as journals

    found = [run for folder in chosen.runs for run in journals.find(folder)]
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


def _subject(folder: Path, label: str, chosen: ReportArguments) -> "Subject":
    """What is left of a run, for the report room, which knows neither configurations nor training."""
    from reid.report import album
    from reid.report.subject import Subject
    from reid.tracking.runs import summary
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
        found=None if left.scored is None else album.Found(left.scored.evaluator, left.scored.evaluation),
        seen=None
        if left.scored is None or left.batch is None
        else album.seen(chosen.step, *left.batch, left.scored.manifest),
        unscored=left.unscored,
        unseen=left.unseen,
    )


def doctor(arguments: Sequence[str]) -> int:
    base, rest = starting_point(arguments)
    chosen = parse(DoctorArguments, rest, "doctor")
    from reid.doctor.checkup import examine, is_healthy
    from reid.doctor.finding import Subject

    config = configuration.changed(base, {"data": {"root": chosen.root}})
    found = examine(Subject(config, chosen.run, chosen.processes))
    if chosen.json:
        print(json.dumps([one.as_record() for one in found], indent=2))
    else:
        _print_findings(found)
    return 0 if is_healthy(found) else 1


def slurm(arguments: Sequence[str]) -> int:
    action, *words = arguments or ["--help"]
    if action != "check" or not words or words[0] in {"-h", "--help"}:
        print(
            "usage: reid slurm check [options of sbatch] SCRIPT [its arguments]\n\n"
            "Write `reid slurm check` in place of `sbatch`: it tells what would be submitted and what would go wrong,\n"
            "and submits nothing."
        )
        return 0 if {action, *words[:1]} & {"-h", "--help"} else 2
    from reid.doctor.checkup import examine, is_healthy
    from reid.doctor.finding import Subject
    from reid.doctor.submission import Call, checks

    call = Call.parse(words)
    subject = Subject()
    if call.script.name in {"train.sbatch", "ablation.sbatch"}:
        base, rest = starting_point(call.arguments)
        if call.script.name == "ablation.sbatch":
            rest = [*rest[1:], "--run", *rest[:1]]
        chosen = parse(TrainArguments, rest, "train", TrainArguments(run=tyro.MISSING, config=base))
        subject = Subject(chosen.config, chosen.run)
    print(f"{call.rendered}\n")
    for name, (value, source) in sorted(call.effective().items()):
        print(f"  --{name}{f'={value}' if value else ''}  ({source})")
    print()
    found = examine(subject, checks(call))
    _print_findings(found)
    return 0 if is_healthy(found) else 1


COMMANDS: dict[str, tuple[Callable[[Sequence[str]], int], str]] = {
    "train": (train, "train a network, alone or under `accelerate launch`"),
    "evaluate": (evaluate, "score a checkpoint in both directions"),
    "runs": (runs, "list, show, compare, gather, send and close runs"),
    "report": (report, "pictures, tables and a page of one run, or of several side by side"),
    "doctor": (doctor, "look for what would make a run fail, or be slow, before it is started"),
    "slurm": (slurm, "tell what sbatch would be given, and what would go wrong"),
    "config": (show_config, "print the configuration, its difference from the paper, its JSON schema"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    name, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name not in COMMANDS:
        lines = [f"  {command:<10} {summary}" for command, (_, summary) in COMMANDS.items()]
        print("\n".join(["usage: reid COMMAND [options]; `reid COMMAND --help` lists them", "", *lines]))
        if name in {"-h", "--help"}:
            return 0
        print(f"\nreid: there is no command {name!r}", file=sys.stderr)
        return 2
    logging.basicConfig(
        level=logging.INFO if _speaks() else logging.ERROR,
        format="%(asctime)s %(message)s",
        datefmt="%H:%M:%S",
        handlers=[_Lines()],
    )
    try:
        return COMMANDS[name][0](rest)
    except ToldElsewhereError:
        return 2
    except (ValueError, RuntimeError, OSError) as error:
        if not (isinstance(error, OSError) or _is_ours(error)):
            raise  # a bug, or a library's own trouble: the traceback says more than a sentence
        process = "" if _speaks() else f" (process {os.environ['RANK']})"
        print(f"reid {name}{process}: {error}", file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1


class _Lines(logging.Handler):
    """Writes to what standard error is at the moment: above anything that is kept at the foot of a terminal."""

    def emit(self, record: logging.LogRecord) -> None:
        sys.stderr.write(f"{self.format(record)}\n")


def _is_ours(error: BaseException) -> bool:
    """Whether this package raised `error` itself, and so meant its text for the user."""
    *_, (innermost, _) = traceback.walk_tb(error.__traceback__)
    return Path(innermost.f_code.co_filename).is_relative_to(Path(__file__).parent)


def _marker(arguments: Sequence[str]) -> Path | None:
    """Where a run that is stopped asks to be started again, known before anything else is."""
    run = named_run(arguments)
    return None if run is None else run / signals.MARKER


def _print_scores(scored: "Scored", *, as_json: bool = False) -> None:
    from rich.console import Console

    from reid.report import tables

    if as_json:
        found = tables.as_numbers(scored.evaluation.results, **scored.labels)
        print(json.dumps({**found, "checkpoint": str(scored.checkpoint), "step": scored.step}, indent=2))
    else:
        Console().print(tables.results(scored.evaluation.results, **scored.labels).terminal())


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
    from rich.console import Console

    from reid.report import comparison
    from reid.types import Direction

    if chosen.action == "compare":
        compared = comparison.Comparison(summaries, configuration.is_learned)
        tables = [compared.differences(), *map(compared.scores, Direction)]
        records = compared.as_records()
    elif chosen.action == "ls":
        tables, records = [comparison.listing(summaries)], comparison.as_records(summaries)
    else:
        tables, records = list(map(comparison.details, summaries)), comparison.as_records(summaries)
    if chosen.format == "json":
        print(json.dumps(records, indent=2))
        return
    for table in tables:
        if chosen.format == "terminal":
            Console().print(table.terminal())
        else:
            print(table.markdown() if chosen.format == "markdown" else table.latex())


def _print_findings(found: "list[Numbered]") -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    colours = {"ok": "green", "warning": "yellow", "failure": "bold red"}
    table = Table.grid(padding=(0, 2))
    for number, name, (status, what, remedy) in found:
        told = Text(what).append(f"\n-> {remedy}" if remedy else "", colours[status])
        table.add_row(f"{number:>2}", name, Text(status, colours[status]), told)
    Console().print(table)
    counts = {status: sum(one.finding.status == status for one in found) for status in colours}
    print(f"\n{counts['ok']} of {len(found)} ok, {counts['warning']} warnings, {counts['failure']} failures")


def _speaks() -> bool:
    """Whether this process may print: the first of a launch, whose number the launcher leaves in the environment."""
    return os.environ.get("RANK", "0") == "0"
