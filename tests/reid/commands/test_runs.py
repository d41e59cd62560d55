"""reid/commands/runs.py: each run by itself, whatever state the others are in; numbers for programs; where runs are sent."""

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from reid.cli import main
from reid.config import Config
from reid.experiments import experiment, trials
from reid.tracking import family, names, runs
from reid.tracking.journal import FILE_NAME, Journal
from reid.tracking.runs import summary
from reid.tracking.tracker import OFFLINE, Status, Tracker, destination_of
from reid.types import Direction

RANK1 = names.first_rank(Direction.INFRARED_TO_VISIBLE)
HOLD = """
import sys, time
from pathlib import Path
from reid.tracking.journal import Journal
journal = Journal.open(Path(sys.argv[1]))
print("ready", flush=True)
time.sleep(60)
"""
HOLD_SENDER = """
import fcntl, sys, time
lock = open(sys.argv[1], "w")
fcntl.lockf(lock, fcntl.LOCK_EX)
print("ready", flush=True)
time.sleep(60)
"""


@pytest.fixture(autouse=True)
def _nobody_says_where_and_lines_are_long(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("COLUMNS", "300")


def trained(folder: Path, seed: int = 0, rank1: float = 0.5, parent: Path | None = None) -> Path:
    with Tracker.open(
        folder, experiment="e", run_name=folder.name, tracking_uri=OFFLINE, parent=parent
    ) as tracker:
        tracker.params({names.Param.VARIANT: "full", names.Param.SEED: seed})
        tracker.metrics(1, {RANK1: rank1, names.Metric.GRADIENT_NORM: math.inf, names.Metric.LOSS: math.nan})
    return folder


@pytest.fixture
def mixed(tmp_path) -> Path:
    """A sound run between one that is damaged and one that was killed before its first record."""
    folder = tmp_path / "runs"
    good = trained(folder / "b-good")
    for name in ("a-damaged", "c-empty"):
        (folder / name).mkdir()
    (folder / "a-damaged" / FILE_NAME).write_bytes(b"damage\n" + (good / FILE_NAME).read_bytes())
    (folder / "c-empty" / FILE_NAME).touch()
    return folder


def lines(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.splitlines()]


def test_a_damaged_and_an_empty_run_are_listed_beside_the_others(mixed, capsys):
    assert main(["runs", "ls", str(mixed), "--json"]) == 2
    told = capsys.readouterr()
    assert {Path(run["folder"]).name: run["status"] for run in json.loads(told.out)} == {
        "a-damaged": "DAMAGED",
        "b-good": "FINISHED",
        "c-empty": "EMPTY",
    }
    (complaint,) = told.err.splitlines()
    assert complaint.startswith(f"reid runs: {mixed / 'a-damaged' / FILE_NAME}: damaged at byte 0")
    shutil.rmtree(mixed / "a-damaged")
    assert main(["runs", "ls", str(mixed)]) == 0
    (row,) = (line for line in lines(capsys.readouterr().out) if "c-empty" in line)
    assert "EMPTY - - - - - -" in row
    assert row.endswith("s")  # seconds since its file was made, not days since 1970


def test_a_run_is_shown_compared_and_sent_though_others_are_damaged(mixed, capsys):
    assert main(["runs", "show", str(mixed), "--format", "markdown"]) == 2
    told = capsys.readouterr()
    assert "**b-good**" in told.out
    assert len(told.err.splitlines()) == 1
    assert main(["runs", "compare", str(mixed), "--json"]) == 2
    told = capsys.readouterr()
    assert [run["name"] for group in json.loads(told.out) for run in group["runs"]] == ["b-good"]
    assert len(told.err.splitlines()) == 1
    uri = f"sqlite:///{mixed}/other.db"
    assert main(["runs", "sync", str(mixed), "--uri", uri]) == 2
    told = capsys.readouterr()
    good, empty = told.out.splitlines()
    assert good.startswith(f"{mixed / 'b-good'} -> {uri}: ")
    assert good.endswith("records sent")
    assert empty == f"{mixed / 'c-empty'}: empty, there is nothing to send"
    assert "a-damaged" in told.err
    assert main(["runs", "sync", str(mixed / "c-empty")]) == 0


def test_a_damaged_configuration_is_told_in_a_line_and_the_other_runs_are_compared(tmp_path, capsys):
    for name in ("a", "b"):
        trained(tmp_path / name)
    (tmp_path / "a" / names.CONFIGURATION).write_text("a: [1")
    assert main(["runs", "compare", str(tmp_path), "--json"]) == 2
    told = capsys.readouterr()
    assert [run["name"] for group in json.loads(told.out) for run in group["runs"]] == ["b"]
    (complaint,) = told.err.splitlines()
    assert complaint.startswith(
        f"reid runs: {tmp_path / 'a' / names.CONFIGURATION}: damaged, this is no YAML"
    )


def test_runs_are_closed_though_others_are_damaged_or_at_work(mixed, started, capsys):
    tracker = Tracker.open(mixed / "d-vanished", experiment="e", run_name="v", tracking_uri=OFFLINE)
    tracker._journal.close()
    Tracker.open(mixed / "d-at-work", experiment="e", run_name="w", tracking_uri=OFFLINE)._journal.close()
    started(HOLD, mixed / "d-at-work")
    for name in ("d-vanished", "d-at-work"):
        os.utime(mixed / name / FILE_NAME, (0, 0))
    assert main(["runs", "reap", str(mixed)]) == 2
    told = capsys.readouterr()
    assert told.out.splitlines() == [
        f"{mixed / 'd-vanished'}: closed; `reid runs sync {mixed / 'd-vanished'}` tells MLflow"
    ]
    assert len(told.err.splitlines()) == 1
    assert summary(mixed / "d-vanished").status == "KILLED"


def test_a_run_that_is_being_sent_is_no_failure(tmp_path, started, capsys):
    run, uri = trained(tmp_path / "a"), f"sqlite:///{tmp_path}/mlflow.db"
    started(HOLD_SENDER, run / "sender.lock")
    assert main(["runs", "sync", str(run)]) == 0
    assert capsys.readouterr().out == f"{run} -> {uri}: is being sent by another process\n"


def test_records_that_the_server_refused_are_counted_and_the_exit_code_says_so(tmp_path, capsys):
    run = trained(tmp_path / "a")
    (run / "gone.txt").write_text("x")
    runs.attach(run, {run / "gone.txt": names.Folder.CONFIG}, {})
    (run / "gone.txt").unlink()
    for _ in range(2):
        assert main(["runs", "sync", str(run)]) == 1
        told = capsys.readouterr().out
        assert told.endswith(f"records sent, 1 refused: {run / 'refused.jsonl'} says why\n")


def test_a_run_is_sent_to_the_server_that_it_was_started_for_and_so_are_its_parents(tmp_path, capsys):
    above, server = tmp_path / "runs" / "full", "http://127.0.0.1:9"
    family.begin(above, experiment="e", run_name="full")
    tracker = Tracker.open(above / "seed-0", experiment="e", run_name="s", tracking_uri=server, parent=above)
    tracker.finish(Status.FINISHED, wait_seconds=0)
    assert main(["runs", "sync", str(above)]) == 1
    told = capsys.readouterr()
    assert told.err.count(f"{server} did not take it") == 2
    assert not (tmp_path / "runs" / "mlflow.db").exists()
    assert destination_of(above / "seed-0") == server


@pytest.mark.parametrize(
    ("variable", "words"), [("", ["--uri", "nonsense://x"]), ("offline", []), ("http://127.0.0.1:abc", [])]
)
def test_an_address_that_can_never_be_is_a_mistake(tmp_path, capsys, monkeypatch, variable, words):
    run = trained(tmp_path / "a")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", variable)
    assert main(["runs", "sync", str(run), *words]) == 2
    told = capsys.readouterr().err
    assert "expected http(s)://HOST[:PORT]" in told
    assert "try again" not in told
    assert len(told.splitlines()) == 1


@pytest.mark.parametrize("action", ["ls", "show", "compare"])
@pytest.mark.parametrize("words", [["--json"], ["--format", "json"]])
def test_numbers_that_are_none_are_null_in_json(tmp_path, capsys, action, words):
    trained(tmp_path / "a")

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    assert main(["runs", action, str(tmp_path), *words]) == 0
    (record,) = json.loads(capsys.readouterr().out, parse_constant=refuse)
    metrics = (record["runs"][0] if action == "compare" else record)["metrics"]
    assert metrics == {RANK1: 0.5, names.Metric.GRADIENT_NORM: None, names.Metric.LOSS: None}


def test_two_formats_at_once_are_refused(tmp_path, capsys):
    trained(tmp_path / "a")
    assert main(["runs", "ls", str(tmp_path), "--json", "--format", "latex"]) == 2
    assert "--json and --format latex: name one of them" in capsys.readouterr().err


def test_a_run_named_twice_and_its_copy_are_compared_once(tmp_path, capsys, caplog):
    run = trained(tmp_path / "a")
    shutil.copytree(run, tmp_path / "copy")
    assert main(["runs", "compare", str(tmp_path), str(run), "--json"]) == 0
    (group,) = json.loads(capsys.readouterr().out)
    assert (group["num_seeds"], len(group["runs"])) == (1, 1)
    assert f"{tmp_path / 'copy'}: a copy of {run}, left out" in caplog.messages


def test_a_parent_is_shown_without_an_optimistic_number(tmp_path, capsys):
    above = tmp_path / "full"
    family.begin(above, experiment="e", run_name="full")
    for seed in range(2):
        trained(above / f"seed-{seed}", seed, 0.5 - seed / 10, above)
        assert main(["runs", "gather", str(tmp_path)]) == 0
    capsys.readouterr()
    assert main(["runs", "show", str(above), "--format", "markdown"]) == 0
    before, *others = capsys.readouterr().out.split("**Optimistic")
    assert len(others) == 2  # of the two trials
    assert "**full**" in before


def test_gather_leaves_an_experiment_the_description_of_its_tables(tmp_path, capsys):
    table = experiment.from_dict(
        {"name": "mine", "title": "Mine", "rows": [{"name": "a", "label": "Row A"}]}, "mine"
    )
    trials.claim(table, Config(), tmp_path / "out")
    (trial,) = trials.plan(table, table.rows, Config(), tmp_path / "out", 1)
    trial.write()
    options = {"experiment": "vcm", "run_name": "a-0", "tracking_uri": OFFLINE}
    with Tracker.open(trial.run, **options, parent=trial.config.tracking.parent) as tracker:
        tracker.metrics(1, {RANK1: 0.25})
    assert main(["ablate", "--results-only", "--out", str(tmp_path / "out")]) == 0
    by_ablate = {
        run: summary(run).tags[names.Tag.DESCRIPTION]
        for run in (tmp_path / "out", trial.config.tracking.parent)
    }
    assert "**Mine: Infrared to visible**" in by_ablate[tmp_path / "out"]
    assert "| Row A | 1 | 25.0 |" in by_ablate[tmp_path / "out"]
    with Journal.open(tmp_path / "out") as journal:
        Tracker(journal, None).description("something else")
    assert main(["runs", "gather", str(tmp_path / "out")]) == 0
    assert {run: summary(run).tags[names.Tag.DESCRIPTION] for run in by_ablate} == by_ablate
    assert (summary(trial.run).tags["ablation"], summary(trial.run).tags["row"]) == ("mine", "a")


def test_an_interrupt_by_hand_is_one_line_and_exit_code_130(tmp_path):
    """The command waits for a pipe that nobody writes to, as it would for a slow disk."""
    (tmp_path / "a").mkdir()
    os.mkfifo(tmp_path / "a" / FILE_NAME)
    program = "import signal, sys, threading; from reid.cli import main; print('ready', flush=True); sys.exit(main(sys.argv[1:]))"
    with subprocess.Popen(
        [sys.executable, "-c", program, "runs", "ls", str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "ready\n"
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(4)
        process.send_signal(2)
        told = process.communicate(timeout=60)[1]
    assert (process.returncode, told.splitlines()[-1]) == (130, "reid runs: interrupted")
    assert "Traceback" not in told
