"""What reid ablate and reid sweep do: train the trials of an experiment, and write what they show.

Both read the same kind of file, and differ in the one that they read unless told otherwise.
"""

import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from signal import Signals
from typing import TYPE_CHECKING, Literal

import tyro

from reid import config as configuration
from reid import signals, terminal
from reid.arguments import named_file, parse
from reid.commands import printing
from reid.commands.failures import INTERRUPTED, WORLD
from reid.config import Config, ConfigError
from reid.configured import Flat

if TYPE_CHECKING:
    from reid.experiments.experiment import Experiment
    from reid.experiments.runner import Outcome
    from reid.experiments.trials import Record, Trial
    from reid.report.experiment import Results
    from reid.tracking.tracker import Status

FILES = Path(__file__).parents[2] / "launch" / "experiments"


@dataclass(frozen=True)
class ExperimentArguments:
    """Train every row of an experiment with several seeds, and write the table or the curves.

    --config FILE gives what all rows start from, such as launch/experiments/vcm.yaml; the flags below change it. It may
    also name the experiment itself. Called again, it skips what has finished and continues what was interrupted.
    """

    out: Path
    """Folder of the experiment: a folder for each trial, ROW-SEED, and the results."""
    config: Flat
    rows: Path | None = None
    """The experiment, if not launch/experiments/ablation.yaml (ablate) or lambda_sweep.yaml (sweep)."""
    variants: str | None = None
    """Only these rows, by their names with commas between: baseline,full."""
    seeds: int = 3
    """Trials of each row, with the seeds --seed, --seed + 1, ..."""
    jobs: int = 1
    """Trials at the same time on this machine; each gets its share of the GPUs."""
    part: str | None = None
    """I/N trains share I of N; write no results."""
    trial: int | None = None
    """Train nothing: write the configuration of trial I, counted from 0, and print its name. All rows of a seed come first."""
    results_only: bool = False
    """Train nothing: write what the trials have shown so far."""
    launcher: str = field(default_factory=lambda: shlex.quote(sys.executable))
    """Words before `-m reid train`, such as "accelerate launch --config_file launch/accelerate/one_node.yaml"."""
    format: Literal["terminal", "markdown", "latex", "json"] = "terminal"
    """How results are printed."""
    json: bool = False
    """The same as --format json."""


def main(command: str, default: str, arguments: Sequence[str]) -> int:
    """Run the experiment of a command, by default that of a file of launch/experiments/."""
    try:
        with signals.leaving_at_once(None):
            return _main(command, FILES / default, arguments)
    except signals.Stopped as stopped:
        _say(f"reid {command}: stopped by {stopped.name}; the same command continues")
        return INTERRUPTED if stopped.name == Signals.SIGINT.name else WORLD


def told(command: str, words: Sequence[str]) -> tuple[ExperimentArguments, Path | None]:
    """What the command is told, and the file of the experiment if its words name one."""
    from reid.experiments.experiment import is_one

    file, rest = named_file(words)
    names_rows = file is not None and is_one(file)
    base = configuration.from_yaml(file) if file is not None and not names_rows else Config()
    chosen = parse(ExperimentArguments, rest, command, ExperimentArguments(out=tyro.MISSING, config=base))
    if names_rows and chosen.rows is not None:
        raise ConfigError(f"--config {file} and --rows {chosen.rows}: both are experiments; name one")
    return chosen, file if names_rows else chosen.rows


def _main(command: str, default: Path, arguments: Sequence[str]) -> int:
    chosen, file = told(command, arguments)
    from reid.experiments import experiment as experiments
    from reid.experiments import trials

    part, kind = _part(chosen), printing.kind_of(chosen.format, as_json=chosen.json)
    if chosen.results_only:
        _show(chosen.out, kind)
        return 0
    experiment = experiments.from_yaml(file or default)
    rows = experiment.chosen(None if chosen.variants is None else tuple(chosen.variants.split(",")))
    planned = trials.plan(experiment, rows, chosen.config, chosen.out, chosen.seeds)
    if chosen.trial is not None and not 0 <= chosen.trial < len(planned):
        raise ConfigError(
            f"--trial: expected 0 to {len(planned) - 1}, found {chosen.trial}; --seeds makes more"
        )
    _require_data(chosen.config)
    trials.claim(experiment, chosen.config, chosen.out)
    if chosen.trial is not None:
        planned[chosen.trial].write()
        print(planned[chosen.trial].name)
        return 0
    share = planned[part[0] - 1 :: part[1]]
    code = _train(command, experiment, share, chosen)
    if part == (1, 1) and any(trial.has_begun() for trial in planned):
        _show(chosen.out, kind)
    return code


def _part(chosen: ExperimentArguments) -> tuple[int, int]:
    """I and N of --part, and that the numbers given make sense together."""
    for name, value in (("seeds", chosen.seeds), ("jobs", chosen.jobs)):
        if value < 1:
            raise ConfigError(f"--{name}: expected at least 1, found {value}")
    kinds = {"--part": chosen.part, "--trial": chosen.trial, "--results-only": chosen.results_only or None}
    if len(given := [name for name, value in kinds.items() if value is not None]) > 1:
        raise ConfigError(f"{' and '.join(given)}: give one of them")
    if chosen.part is None:
        return 1, 1
    match = re.fullmatch(r"(\d+)/(\d+)", chosen.part)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise ConfigError(f"--part: expected I/N with I from 1 to N, such as 2/8, found {chosen.part!r}")
    return int(match[1]), int(match[2])


def _require_data(config: Config) -> None:
    """Raises ValueError once, where every trial would."""
    from reid.data.dataset import open_dataset

    if config.data.root is None:
        raise ConfigError("data.root: no data set is named; give the folder of a packed one with --data.root")
    open_dataset(config.data.root)


def _train(
    command: str, experiment: "Experiment", planned: "Sequence[Trial]", chosen: ExperimentArguments
) -> int:
    """Train what is not finished, a line for each trial. The exit code."""
    from reid.experiments.runner import perform

    asked: list[int] = []
    failed = []
    width = max((len(trial.name) for trial in planned), default=0)
    _say(f"{experiment.title}: {len(planned)} trials in {chosen.out}")
    launcher = shlex.split(chosen.launcher)
    with signals.noting(asked.append):
        for outcome in perform(planned, launcher=launcher, num_jobs=chosen.jobs, asked=asked):
            if outcome.code and not asked:
                failed.append(outcome.trial.name)
            _say(f"  {outcome.trial.name:<{width}}  {_line(outcome, asked)}")
    if asked:
        raise signals.Stopped(Signals(asked[0]).name, asks_again=False)
    if failed:
        _say(f"reid {command}: {len(failed)} of {len(planned)} trials failed: {', '.join(failed)}")
    return int(bool(failed))


def _line(outcome: "Outcome", asked: Sequence[int]) -> str:
    """What a person wants to know of a trial, in a line; of one that failed, the end of what it said."""
    lasted = terminal.duration(outcome.seconds)
    if outcome.code and asked:
        return f"stopped after {lasted}"
    if outcome.code:
        end = "\n".join(f"    {line}" for line in outcome.told.splitlines())
        return f"FAILED after {lasted} (exit code {outcome.code}); the end of {outcome.trial.log}:\n{end}"
    from reid.report.comparison import headline
    from reid.tracking.runs import summary

    when = "before" if outcome.code is None else f"in {lasted}"
    return f"finished {when}  {headline(summary(outcome.trial.run))}"


def _show(folder: Path, kind: printing.Kind) -> None:
    """Tell the runs above the trials what they reached; write and print the results."""
    from reid.experiments import trials
    from reid.tracking import family
    from reid.tracking.runs import find
    from reid.tracking.tracker import OFFLINE

    record = trials.read(folder)
    if record is None:
        raise ConfigError(f"{folder}: there is no experiment here ({trials.RECORD} is missing)")
    begun = trials.begun(record, folder)
    if not begun:
        raise ConfigError(f"{folder}: no trial has begun yet")
    families = family.families(find(folder))
    for parent in families:
        gather(parent, families)
    found = results(record, begun)
    files = found.write(folder)
    printing.results(found.tables(), found.as_records(), kind)
    _say("\n".join(map(str, files)))
    if record.base.tracking.uri != OFFLINE:
        _say(f"`reid runs sync {folder}` tells MLflow of the runs above the trials")


def gather(parent: Path, families: Mapping[Path, Sequence[Path]]) -> "Status":
    """Tell a run above others what they reached: that of an experiment by the experiment's tables, any other by its own."""
    from reid.experiments import trials
    from reid.report.comparison import Comparison
    from reid.tracking import family
    from reid.tracking.runs import summary

    record = trials.read(parent)
    if record is not None:
        told = results(record, trials.begun(record, parent)).description()
    else:
        below = [summary(run) for run in family.leaves(parent, families)]
        told = Comparison(below, configuration.is_learned).description()
    return family.gather(parent, families[parent], told)


def _say(text: str) -> None:
    """What goes on, beside the results on standard output."""
    print(text, file=sys.stderr, flush=True)


def results(record: "Record", begun: "Mapping[str, Sequence[Path]]") -> "Results":
    """What the report room, which knows no experiments, is told of one."""
    from reid.report.experiment import Curve, Results, Row
    from reid.tracking.runs import summary

    experiment = record.experiment
    found = {row: [summary(run) for run in runs] for row, runs in begun.items()}
    return Results(
        experiment.name,
        experiment.title,
        [Row(row.title, found[row.name], row.paper) for row in experiment.every_row if row.name in found],
        [
            Curve(
                curve.title,
                {value: found.get(curve.row(value).name, []) for value in curve.values},
                curve.paper,
            )
            for curve in experiment.curves
        ],
        [row.name for row in experiment.every_row if row.name not in found],
    )
