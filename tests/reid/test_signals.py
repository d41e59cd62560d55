"""reid/signals.py: a process that is asked to stop leaves at once, asks to be started again, and never for the wrong reason."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from reid import signals

PROGRAM = """
import ctypes, sys, threading
from pathlib import Path
from reid import signals

signals.PATIENCE_SECONDS = 0.3
marker, behaviour = Path(sys.argv[1]), sys.argv[2]
mutex = ctypes.create_string_buffer(128)
noted = []

def wait_inside_a_library():
    for _ in range(2):  # the second never returns, and signals do not interrupt it
        ctypes.CDLL(None).pthread_mutex_lock(mutex)

try:
    with signals.leaving_at_once(marker):
        print("ready", flush=True)
        if behaviour == "library":
            wait_inside_a_library()
        elif behaviour == "noting":
            with signals.noting(noted.append):
                wait_inside_a_library()
        else:
            threading.Event().wait()
except signals.Stopped as stopped:
    print(stopped.name, stopped.asks_again)
    sys.exit(1)
"""
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(started: Start, tmp_path: Path) -> Start:
    """Starts the program, which leaves its marker in a folder that is not there."""
    return lambda behaviour="waiting", **variables: started(
        PROGRAM, tmp_path / "run" / "requeue", behaviour, **variables
    )


def stop(process: "subprocess.Popen[str]", number: int) -> tuple[str, float]:
    """Send a signal to a process that must end with 1. Returns what it says, and after how many seconds it ended."""
    began = time.monotonic()
    process.send_signal(number)
    said, _ = process.communicate(timeout=20)
    assert process.returncode == 1
    return said, time.monotonic() - began


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_request_ends_a_process_and_leaves_a_marker_though_there_was_no_folder(start, tmp_path, number):
    said, _ = stop(start(), number)
    assert said == f"{number.name} True\n"
    assert (tmp_path / "run" / "requeue").read_text() == f"{number.name}\n"


def test_an_interrupt_by_hand_asks_for_nothing(start, tmp_path):
    said, _ = stop(start(), signal.SIGINT)
    assert said == "SIGINT False\n"
    assert not (tmp_path / "run").exists()


def test_a_process_that_waits_inside_a_library_is_ended_with_its_marker(start, tmp_path):
    process = start("library")
    while psutil.Process(process.pid).status() != psutil.STATUS_SLEEPING:
        time.sleep(0.01)
    said, seconds = stop(process, signal.SIGTERM)
    assert said == ""  # it could not raise
    assert seconds >= 0.3
    assert (tmp_path / "run" / "requeue").read_text() == "SIGTERM\n"


def test_a_launcher_that_lost_a_process_ends_the_other_and_nothing_is_asked_for(start, tmp_path):
    launched = {"LOCAL_WORLD_SIZE": "2", "LOCAL_RANK": "0"}
    said, _ = stop(start(**launched), signal.SIGTERM)
    assert said == "SIGTERM False\n"
    assert not (tmp_path / "run").exists()
    stop(start("noting", **launched), signal.SIGTERM)  # it could never agree with the lost one
    assert not (tmp_path / "run").exists()


def test_two_processes_of_a_launch_that_both_live_ask_to_be_started_again(start, tmp_path):
    first, _ = (start(LOCAL_WORLD_SIZE="2", LOCAL_RANK=rank) for rank in ("0", "1"))
    said, _ = stop(first, signal.SIGTERM)
    assert said == "SIGTERM True\n"
    assert (tmp_path / "run" / "requeue").exists()


def test_what_is_noted_neither_raises_nor_outlives_its_block(tmp_path):
    former = signal.getsignal(signal.SIGUSR1)
    noted: list[int] = []
    with signals.leaving_at_once(tmp_path / "requeue"), signals.noting(noted.append):
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGTERM)
    assert noted == [signal.SIGUSR1, signal.SIGTERM]
    assert not (tmp_path / "requeue").exists()
    assert signal.getsignal(signal.SIGUSR1) is former


def test_a_second_request_does_not_disturb_the_leaving(tmp_path):
    swept = []

    def leave() -> None:
        with signals.leaving_at_once(tmp_path / "requeue"):
            try:
                os.kill(os.getpid(), signal.SIGTERM)
            finally:
                os.kill(os.getpid(), signal.SIGUSR1)
                swept.append("in peace")

    with pytest.raises(signals.Stopped, match="SIGTERM"):
        leave()
    assert swept == ["in peace"]
    assert (tmp_path / "requeue").read_text() == "SIGTERM\n"
