"""reid/commands/experiment.py: `reid ablate` and `reid sweep` from the first trial to the table, stopped on the way."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from reid import config as configuration
from reid.cli import main
from reid.tracking import names
from reid.tracking.journal import header
from reid.tracking.runs import summary
from reid.types import Direction

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def short(tiny, tmp_path_factory) -> Path:
    """A configuration of two steps."""
    path = tmp_path_factory.mktemp("experiment") / "short.yaml"
    path.write_text(configuration.to_yaml(tiny(schedule={"epoch_iterations": 1})))
    return path


@pytest.mark.slow
def test_an_ablation_that_was_stopped_goes_on_where_it_was_and_ends_in_a_table(short, tmp_path, capsys):
    folder = tmp_path / "ablation"
    options = ["--config", str(short), "--out", str(folder), "--variants", "baseline", "--seeds", "1"]
    options += ["--schedule.epoch-iterations", "20"]
    process = subprocess.Popen(
        [sys.executable, "-m", "reid", "ablate", *options],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    run = folder / "baseline-0"
    while not [*run.glob("checkpoints/step-*")]:
        time.sleep(0.02)
        assert process.poll() is None
    process.send_signal(signal.SIGUSR1)
    told = process.communicate(timeout=120)[1]
    assert process.returncode == 1
    assert "baseline-0  stopped after" in told
    assert told.splitlines()[-1] == "reid ablate: stopped by SIGUSR1; the same command continues"
    assert (run / "requeue").exists()

    assert main(["ablate", *options, "--schedule.epoch-iterations", "21"]) == 2
    assert "schedule.epoch_iterations: 20 when it began, 21 now" in capsys.readouterr().err
    assert main(["ablate", *options, "--part", "2/2"]) == 0  # a share without a trial, and without results
    assert not (folder / "table1.md").exists()
    assert main(["ablate", *options]) == 0
    assert "baseline-0  finished in" in capsys.readouterr().err
    assert "continuing at step" in (folder / "logs" / "baseline-0.log").read_text()
    assert main(["ablate", *options, "--format", "json"]) == 0
    told = capsys.readouterr()
    assert "baseline-0  finished before  Rank-1 I-V" in told.err

    (row,) = json.loads(told.out)
    key = names.first_rank(Direction.VISIBLE_TO_INFRARED)
    assert row["mean"][key] == summary(run).metrics[key]
    assert "Baseline & 1 & " in (folder / "table1.tex").read_text()
    above = folder / "rows" / "baseline"
    assert header(run)["parent_uid"] == header(above)["uid"]
    assert header(above)["parent_uid"] == header(folder)["uid"]
    assert summary(above).metrics[key] == summary(run).metrics[key]
    assert summary(folder).tags[names.Tag.CHILDREN] == "1 of 1 finished"
    assert "Table 1" in summary(folder).tags[names.Tag.DESCRIPTION]

    assert main(["report", str(folder), "--device", "cpu"]) == 0
    page = (folder / "report" / "report.html").read_text()
    assert page.index('id="experiment"') < page.index("Table 1: Infrared to visible on SYNTHETIC data")
    assert ">Results of single trials</h2>" in page
    made = {path.relative_to(folder / "report").as_posix() for path in (folder / "report").rglob("*.*")}
    pictures = {"pictures/retrieval_infrared_to_visible.png", "pictures/attention.png"}
    assert {"paper/table1.md", "paper/table1.tex"} | pictures <= made


def test_a_trial_that_fails_is_told_with_its_last_words(short, tmp_path, capsys):
    folder = tmp_path / "sweep"
    options = ["--config", str(short), "--out", str(folder), "--variants", "lambda2-4", "--seeds", "1"]
    program = "import sys; print('first', *sys.argv[1:4]); sys.exit('last words')"
    launcher = shlex.join([sys.executable, "-c", program])
    assert main(["sweep", *options, "--launcher", launcher]) == 1
    told = capsys.readouterr().err.splitlines()
    assert told[1].startswith("  lambda2-4-0  FAILED after ")
    assert told[1].endswith(f"(exit code 1); the end of {folder / 'logs' / 'lambda2-4-0.log'}:")
    assert sorted(told[2:4]) == ["    first -m reid train", "    last words"]
    assert told[4] == "reid sweep: 1 of 1 trials failed: lambda2-4-0"


def test_a_trial_is_named_for_a_batch_script(short, tmp_path, capsys):
    folder = tmp_path / "sweep"
    rows = tmp_path / "mine.yaml"
    rows.write_text(
        "{name: mine, title: Mine, rows: [{name: a}, {name: b, changes: {objective.margin: 0.7}}]}"
    )
    options = ["--config", str(short), "--rows", str(rows), "--out", str(folder), "--seeds", "2"]
    assert main(["ablate", *options, "--trial", "3"]) == 0
    assert capsys.readouterr().out == "b-1\n"
    written = configuration.from_yaml(folder / "configs" / "b-1.yaml")
    assert (written.objective.margin, written.seed) == (0.7, 1)
    assert main(["report", str(folder)]) == 2
    assert "no trial has begun yet" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--variants", "best"], "has no row best"),
        (["--trial", "24"], "expected 0 to 23, found 24"),
        (["--part", "3/2"], "expected I/N with I from 1 to N"),
        (["--part", "1/2", "--results-only"], "give one of them"),
        (["--seeds", "0"], "--seeds: expected at least 1"),
        (["--results-only"], "there is no experiment here"),
        (["--data.root", "/nowhere"], "is not a packed data set"),
        (["--rows", "/nowhere.yaml"], "such as launch/experiments/ablation.yaml"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_message_and_leaves_nothing(short, tmp_path, capsys, words, message):
    assert main(["ablate", "--config", str(short), "--out", str(tmp_path / "out"), *words]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
