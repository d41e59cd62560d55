"""reid/tracking/sender.py: it tells the truth about every ending, survives its server, and never outstays its run."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient

from reid.tracking import names, target
from reid.tracking.journal import Kind, read
from reid.tracking.runs import summary
from reid.tracking.sender import GRACE_SECONDS, SenderInUseError, Watch, follow, sync
from reid.tracking.tracker import OFFLINE, Tracker

from .conftest import wait_for

TRAINER = """
import sys, time
from pathlib import Path
from reid.tracking.tracker import Tracker

run, ending = Path(sys.argv[1]), sys.argv[2]
with Tracker.open(run, experiment="endings", run_name=ending) as tracker:
    if ending == "hurried":
        tracker.finish("FINISHED", wait_seconds=4)
        sys.exit()
    step = 0
    while not (run / "end").exists():
        tracker.metrics(step, {"train/loss": 1 / (step + 1)})
        step += 1
        time.sleep(0.05)
    if ending == "exception":
        raise RuntimeError("diverged")
    if ending != "normal":
        time.sleep(60)
"""


def start_trainer(run: Path, ending: str, uri: str | None = None) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    if uri is not None:
        environment["MLFLOW_TRACKING_URI"] = uri
    return subprocess.Popen(
        [sys.executable, "-c", TRAINER, str(run), ending], env=environment, stderr=subprocess.DEVNULL
    )


def runs_of(uri: str, experiment: str):
    client = MlflowClient(uri)
    found = client.get_experiment_by_name(experiment)
    return {run.info.run_name: run for run in client.search_runs([found.experiment_id])}


def senders(folder: Path) -> list[psutil.Process]:
    """The senders of runs in a folder that are alive."""
    found = psutil.process_iter(["cmdline"])
    commands = ((process, " ".join(process.info["cmdline"] or [])) for process in found)
    return [
        process
        for process, command in commands
        if "reid.tracking.sender" in command and str(folder) in command
    ]


def steps_in_journal(run: Path) -> list[int | None]:
    return [record.step for record in read(run) if record.kind is Kind.METRICS]


def assert_complete(uri: str, run: Path) -> None:
    """Every point of the journal is on the server, once."""
    run_id = json.loads((run / target.FILE_NAME).read_text())[uri]["run_id"]
    history = MlflowClient(uri).get_metric_history(run_id, names.Metric.LOSS)
    assert [metric.step for metric in history] == steps_in_journal(run)


@pytest.mark.slow
def test_every_ending_is_told_truthfully(runs):
    """Normal end, exception, SIGINT, SIGTERM, SIGKILL, and SIGKILL of all but the sender."""
    signals = {"SIGINT": signal.SIGINT, "SIGTERM": signal.SIGTERM, "SIGKILL": signal.SIGKILL}
    expected = {"normal": "FINISHED", "exception": "FAILED", **dict.fromkeys(signals, "KILLED")}
    trainers = {ending: start_trainer(runs / ending, ending) for ending in expected}
    wait_for(lambda: all((runs / ending / target.FILE_NAME).exists() for ending in expected), 120)
    for ending in expected:
        (runs / ending / "end").touch()
    for ending, number in signals.items():
        trainers[ending].send_signal(number)

    def statuses():
        return {
            name: run.info.status for name, run in runs_of(f"sqlite:///{runs}/mlflow.db", "endings").items()
        }

    wait_for(lambda: "RUNNING" not in statuses().values(), 120)
    assert statuses() == expected
    for ending, trainer in trainers.items():
        trainer.wait(120)
        assert_complete(f"sqlite:///{runs}/mlflow.db", runs / ending)
    wait_for(lambda: senders(runs) == [], 120)


@pytest.mark.slow
def test_a_server_that_comes_late_refuses_crawls_freezes_and_dies_loses_no_point(
    server, grumpy, tmp_path, monkeypatch
):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "4")
    run = tmp_path / "runs" / "a"
    trainer = start_trainer(run, "normal", grumpy.uri)

    def after_requests(count):
        """Wait until the sender has tried again, whatever it met, and the training has gone on meanwhile."""
        requests, steps = grumpy.num_requests, len(steps_in_journal(run))
        wait_for(lambda: grumpy.num_requests >= requests + count, 120)
        wait_for(lambda: len(steps_in_journal(run)) > steps + 10, 120)

    wait_for(lambda: grumpy.num_requests > 0, 120)  # the server is down at the start
    server.start()
    wait_for((run / target.FILE_NAME).exists, 120)
    for grumpy.refusal in (500, 403):
        after_requests(1)
    grumpy.refusal, grumpy.delay_seconds = None, 2.0
    after_requests(2)
    grumpy.delay_seconds = 0.0
    server.signal(signal.SIGSTOP)
    after_requests(1)
    server.signal(signal.SIGCONT)
    server.stop()
    after_requests(1)
    server.start()
    (run / "end").touch()
    assert trainer.wait(120) == 0
    sync(run, grumpy.uri)
    assert_complete(grumpy.uri, run)
    assert runs_of(grumpy.uri, "endings")["normal"].info.status == "FINISHED"


def test_the_end_waits_no_longer_than_it_was_told_for_a_sender_that_hangs(tmp_path):
    run = tmp_path / "runs" / "a"
    trainer = start_trainer(run, "hurried", "http://127.0.0.1:9")
    wait_for(lambda: senders(run), 120)
    (sender,) = senders(run)
    sender.suspend()
    try:
        assert trainer.wait(120) == 0
        assert sender.status() == psutil.STATUS_STOPPED
    finally:
        sender.kill()


def test_secrets_of_the_server_reach_no_file(tmp_path):
    """The address with a password goes to the sender by its environment, and the sender's log strikes it out."""
    run = tmp_path / "run"
    Tracker.open(run, experiment="e", run_name="r", tracking_uri=OFFLINE)._journal.close()
    ended = subprocess.Popen(["true"])
    ended.wait()
    environment = {
        **os.environ,
        "MLFLOW_TRACKING_URI": "http://ann:canary-1@127.0.0.1:9",
        "MLFLOW_TRACKING_PASSWORD": "canary-2",
        "PYTHONPATH": str(Path.cwd()),
    }
    command = [sys.executable, "-m", "reid.tracking.sender", str(run), "--watch", str(ended.pid)]
    with (run / "sender.log").open("wb") as log:
        sender = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    wait_for(lambda: "attempt 1" in (run / "sender.log").read_text(), 60)
    sender.kill()
    sender.wait()
    assert "127.0.0.1" in (run / "sender.log").read_text()
    assert not any(b"canary" in file.read_bytes() for file in run.iterdir())
    assert summary(run).status == "KILLED"


def test_a_sender_of_a_run_that_was_sent_whole_leaves_it_as_it_is(runs):
    Tracker.open(runs / "a", experiment="e", run_name="r", tracking_uri=OFFLINE).finish("FINISHED")
    uri = f"sqlite:///{runs}/mlflow.db"
    sync(runs / "a", uri)
    follow(runs / "a", uri, Watch(2**22 + 1))  # a process that does not exist
    assert summary(runs / "a").status == "FINISHED"
    assert runs_of(uri, "e")["r"].info.status == "FINISHED"


def test_a_watch_does_not_believe_in_the_dead():
    process = subprocess.Popen(["sleep", "60"])
    watch = Watch(process.pid)
    assert watch.is_alive()
    process.kill()
    wait_for(lambda: not watch.is_alive(), 10)  # a zombie, as nobody has waited for it
    process.wait()
    assert not watch.is_alive()
    assert not Watch(process.pid).is_alive()


def test_a_run_is_sent_by_one_process_at_a_time(runs):
    with Tracker.open(runs / "a", experiment="e", run_name="r", tracking_uri=OFFLINE) as tracker:
        tracker.metrics(0, {"train/loss": 1.0})
    code = (
        "import fcntl, sys, time; lock = open(sys.argv[1], 'w'); fcntl.lockf(lock, fcntl.LOCK_EX);"
        "print('locked', flush=True); time.sleep(60)"
    )
    lock = str(runs / "a" / "sender.lock")
    with subprocess.Popen([sys.executable, "-c", code, lock], stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"locked\n"
        with pytest.raises(SenderInUseError, match="being sent already"):
            sync(runs / "a", f"sqlite:///{runs}/mlflow.db")
        other.kill()
    assert sync(runs / "a", f"sqlite:///{runs}/mlflow.db") > 0


def test_the_grace_of_the_sender_leaves_room_within_thirty_seconds():
    assert GRACE_SECONDS < 29


def test_a_server_that_is_not_there_is_told_in_a_line_and_costs_nothing(runs):
    with Tracker.open(runs / "a", experiment="e", run_name="a", tracking_uri=OFFLINE) as tracker:
        tracker.metrics(1, {names.Metric.LOSS: 1.0})
    before = list(read(runs / "a"))
    with pytest.raises(
        ConnectionError, match=r"a: http://127\.0\.0\.1:9 did not take it .* Nothing is lost"
    ) as caught:
        sync(runs / "a", "http://127.0.0.1:9")
    assert "\n" not in str(caught.value)
    assert list(read(runs / "a")) == before
    assert sync(runs / "a", f"sqlite:///{runs}/mlflow.db") == len(before)
