"""reid/experiments/runner.py: trials as processes. What stands before `-m reid train` is here a program of a few lines."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from reid.config import Config
from reid.experiments import experiment as experiments
from reid.experiments import runner, trials

TABLE = experiments.from_yaml(Path(__file__).parents[3] / "launch" / "experiments" / "ablation.yaml")


@pytest.fixture
def trained(tmp_path):
    """Trains rows of Table 1 by a program, which is given the folder of its run as `run`."""

    def train(program: str, *rows: str, num_jobs: int = 1, asked: tuple[int, ...] | list[int] = ()):
        head = "import os, signal, sys, time\nfrom pathlib import Path\nrun = Path(sys.argv[sys.argv.index('--run') + 1])\n"
        (tmp_path / "launcher.py").write_text(head + program)
        trials.claim(TABLE, Config(), tmp_path / "out")
        planned = trials.plan(TABLE, TABLE.chosen(rows), Config(), tmp_path / "out", 1)
        launcher = (sys.executable, str(tmp_path / "launcher.py"))
        return runner.perform(planned, launcher=launcher, num_jobs=num_jobs, asked=asked)

    return train


def test_a_trial_is_a_run_that_a_user_could_start(trained, tmp_path):
    (outcome,) = trained("print(sys.argv[1:])", "full")
    run, file = tmp_path / "out" / "full-0", tmp_path / "out" / "configs" / "full-0.yaml"
    assert outcome.code == 0
    expected = ["-m", "reid", "train", "--config", str(file), "--run", str(run), "--resume"]
    assert outcome.trial.log.read_text() == f"{expected}\n"


def test_one_that_fails_is_told_with_its_last_words_and_the_others_go_on(trained):
    program = "if run.name == 'asam-0':\n    print('words')\n    sys.exit('a mistake')"
    outcomes = {
        outcome.trial.name: outcome for outcome in trained(program, "baseline", "asam", "adm", num_jobs=2)
    }
    assert {name: outcome.code for name, outcome in outcomes.items()} == {
        "baseline-0": 0,
        "asam-0": 1,
        "adm-0": 0,
    }
    assert set(outcomes["asam-0"].told.splitlines()) == {"words", "a mistake"}
    assert outcomes["adm-0"].told == ""


def test_so_many_as_asked_for_are_trained_at_a_time(trained, tmp_path):
    program = """
run.mkdir()
while len([*run.parent.glob('*-0')]) < 2:
    time.sleep(0.01)
assert not (run.parent / 'full-0').exists() or run.name == 'full-0'
time.sleep(0.5)
"""
    codes = [outcome.code for outcome in trained(program, "baseline", "asam", num_jobs=2)]
    assert codes == [0, 0]


@pytest.mark.parametrize(
    ("sent", "received"), [(signal.SIGUSR1, "15"), (signal.SIGTERM, "15"), (signal.SIGINT, "2")]
)
def test_a_request_to_stop_reaches_what_is_trained_and_begins_nothing_more(trained, tmp_path, sent, received):
    program = """
def stop(number, _):
    (run / 'stopped').write_text(str(number))
    sys.exit(1)
signal.signal(signal.SIGTERM, stop)
signal.signal(signal.SIGINT, stop)
run.mkdir()
(run / 'begun').touch()
time.sleep(60)
"""
    asked: list[int] = []
    run = tmp_path / "out" / "baseline-0"

    def ask():
        while not (run / "begun").exists():
            time.sleep(0.01)
        asked.append(sent)

    asking = threading.Thread(target=ask)
    asking.start()
    outcomes = [*trained(program, "baseline", "full", asked=asked)]
    asking.join()
    assert [(outcome.trial.name, outcome.code) for outcome in outcomes] == [("baseline-0", 1)]
    assert (run / "stopped").read_text() == received


def test_nothing_goes_on_when_nobody_listens_any_more(trained, tmp_path):
    program = """run.mkdir()
(run / 'draft').write_text(str(os.getpid()))
(run / 'draft').rename(run / 'pid')
if run.name == 'asam-0':
    while not (run.parent / 'baseline-0' / 'pid').exists(): time.sleep(0.01)
else:
    time.sleep(60)
"""
    outcomes = trained(program, "baseline", "asam", num_jobs=2)
    assert next(outcomes).trial.name == "asam-0"
    outcomes.close()
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "out" / "baseline-0" / "pid").read_text()), 0)


@pytest.mark.parametrize(
    ("visible", "num_jobs", "shares"),
    [
        ("0,1,2,3", 2, ["0,2", "1,3"]),
        ("5,7", 3, ["5", "7", "5"]),
        ("GPU-a", 1, [None]),
        ("", 2, [None, None]),
    ],
)
def test_trials_share_the_gpus(monkeypatch, visible, num_jobs, shares):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    found = [runner.share(place, num_jobs) for place in range(num_jobs)]
    assert [share.get("CUDA_VISIBLE_DEVICES") for share in found] == shares
    threads = max(1, len(os.sched_getaffinity(0)) // num_jobs)
    assert found[0].get("OMP_NUM_THREADS") == (None if num_jobs == 1 else str(threads))
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert "OMP_NUM_THREADS" not in runner.share(0, num_jobs)
