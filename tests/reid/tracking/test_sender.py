"""reid/tracking/sender.py: it tells the truth about every ending, survives its server, and never outstays its run."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from reid.tracking import names, target
from reid.tracking.journal import read
from reid.tracking.runs import summary
from reid.tracking.sender import GRACE_SECONDS, SenderInUseError, Watch, follow, sync
from reid.tracking.tracker import OFFLINE, Tracker

from .lab import IN_TIME, assert_complete, runs_of, start_trainer, wait_for


def senders(folder: Path) -> list[psutil.Process]:
    """The senders of runs in a folder that are alive."""
    found = psutil.process_iter(["cmdline"])
    commands = ((process, " ".join(process.info["cmdline"] or [])) for process in found)
    return [
        process
        for process, command in commands
        if "reid.tracking.sender" in command and str(folder) in command
    ]


@pytest.mark.slow
def test_every_ending_is_told_truthfully(server, tmp_path):
    """Normal end, exception, SIGINT, SIGTERM, SIGKILL, and SIGKILL of every process but the sender."""
    server.start()
    runs = tmp_path / "runs"
    signals = {"SIGINT": signal.SIGINT, "SIGTERM": signal.SIGTERM, "SIGKILL": signal.SIGKILL}
    expected = {"normal": "FINISHED", "exception": "FAILED", **dict.fromkeys([*signals, "all"], "KILLED")}
    trainers = {ending: start_trainer(runs / ending, ending, server.uri) for ending in expected}
    wait_for(lambda: all((runs / ending / target.FILE_NAME).exists() for ending in expected), 120)
    ended = time.monotonic()
    for ending in expected:
        (runs / ending / "end").touch()
    for ending, number in signals.items():
        trainers[ending].send_signal(number)
    os.killpg(trainers["all"].pid, signal.SIGKILL)

    def statuses():
        return {name: run.info.status for name, run in runs_of(server.uri, "endings").items()}

    wait_for(lambda: "RUNNING" not in statuses().values(), IN_TIME)
    assert time.monotonic() - ended < IN_TIME
    assert statuses() == expected
    for ending, trainer in trainers.items():
        trainer.wait(120)
        assert_complete(server.uri, runs / ending)
    wait_for(lambda: senders(runs) == [], 120)


def test_the_end_waits_no_longer_than_it_was_told_for_a_sender_that_hangs(tmp_path):
    run = tmp_path / "runs" / "a"
    trainer = start_trainer(run, "hurried", "http://127.0.0.1:9")
    wait_for(lambda: senders(run), 120)
    (sender,) = senders(run)
    sender.suspend()
    try:
        assert trainer.wait(IN_TIME) == 0  # it was told 4 s
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


def test_the_journal_lies_on_the_disk_before_anybody_is_told_of_it(tmp_path, monkeypatch):
    """Asked of a server that takes nothing: what was synced by then would have been synced before it was sent."""
    with Tracker.open(tmp_path / "a", experiment="e", run_name="r", tracking_uri=OFFLINE) as tracker:
        tracker.metrics(0, {"train/loss": 1.0})
    synced = []
    monkeypatch.setattr(os, "fsync", lambda number: synced.append(os.fstat(number).st_ino))
    with pytest.raises(ConnectionError):
        sync(tmp_path / "a", "http://127.0.0.1:9")
    assert (tmp_path / "a" / "journal.jsonl").stat().st_ino in synced


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
