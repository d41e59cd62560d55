"""reid/watchdog.py: who holds a job up is named, with what it was doing, and whoever goes on is left alone."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from reid.watchdog import Sign, Watchdog

ROOT = Path(__file__).parents[2]
TIMEOUT = 2.0
PROGRAM = """
import logging, signal, sys, time
from pathlib import Path
from reid.watchdog import Watchdog

folder, rank, timeout, number = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
logging.basicConfig()
with Watchdog(folder, rank, 2, timeout) as watchdog:
    print("ready", flush=True)
    for step in range(number):
        watchdog.tell("updating", step)
        time.sleep(0.05)
    watchdog.tell("saving", number)
    time.sleep(0 if number > 10 else 60)
"""
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(started: Start, tmp_path: Path) -> Start:
    return lambda rank, number, **variables: started(PROGRAM, tmp_path, rank, TIMEOUT, number, **variables)


def test_a_process_that_is_stopped_is_named_with_its_step_and_what_it_was_doing(start):
    first, second = start(0, 5), start(1, 3)
    time.sleep(0.5)
    second.send_signal(signal.SIGSTOP)
    said = first.communicate(timeout=20)[1]
    assert first.returncode == 1
    assert f"process 1 (pid {second.pid} on " in said
    assert "at step 3, saving, gave no sign of life for" in said
    assert 'File "<string>"' in said  # where the one that tells stood
    assert second.wait(timeout=5) == -signal.SIGKILL  # it would not have heard the launcher


def test_among_those_that_live_the_one_behind_is_named(start):
    first, second = start(0, 5), start(1, 3)
    said = [process.communicate(timeout=20)[1] for process in (first, second)]
    assert (first.returncode, second.returncode) == (1, 1)
    assert f"process 1 (pid {second.pid} on " in said[0]
    assert "at step 3, saving, does not go on" in said[0]


def test_whoever_goes_on_is_left_alone_though_it_was_suspended(start, tmp_path):
    first, second = start(0, 80), start(1, 80)  # twice the time-out
    for number in (signal.SIGSTOP, signal.SIGCONT):
        time.sleep(0.5)
        first.send_signal(number)
        second.send_signal(number)
        time.sleep(1.2 * TIMEOUT if number == signal.SIGSTOP else 0)
    said = [process.communicate(timeout=20)[1] for process in (first, second)]
    assert (first.returncode, second.returncode, said) == (0, 0, ["", ""])
    assert not tmp_path.exists()


def test_a_process_whose_launcher_is_gone_asks_itself_to_stop(tmp_path):
    program = f"""
import signal, sys, time
from pathlib import Path
from reid.watchdog import Watchdog

signal.signal(signal.SIGTERM, lambda *_: Path({str(tmp_path / "asked")!r}).touch())
with Watchdog(Path({str(tmp_path / "signs")!r}), 0, 1, 2.0) as watchdog:
    for step in range(40):
        watchdog.tell("updating", step)
        time.sleep(0.05)
"""
    launcher = f"{sys.executable} -c '{program.replace(chr(39), chr(34))}' & sleep 0.5"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "LOCAL_WORLD_SIZE": "1"}
    subprocess.run(["sh", "-c", launcher], env=environment, check=True)
    for _ in range(200):
        if (tmp_path / "asked").exists():
            return
        time.sleep(0.05)
    pytest.fail("it went on as an orphan")


def sign(process: int, step: int, activity: str, told: int) -> Sign:
    return Sign(process, 100 + process, "node", step, activity, told)


def blame(folder: Path, *signs: Sign) -> str:
    for one in signs:
        (folder / f"{one.process:05d}.json").write_text(json.dumps(asdict(one)))
    return Watchdog(folder, 0, 3, 600).blame()


def test_blame_falls_on_who_is_behind_on_all_alike_and_on_who_left_nothing(tmp_path):
    behind = blame(tmp_path, *(sign(rank, 7, "updating", 20 - rank) for rank in range(3)))
    assert behind == "process 2 (pid 102 on node), at step 7, updating, does not go on"
    assert blame(tmp_path, *(sign(rank, 7, "updating", 20) for rank in range(3))) == (
        "all 3 processes are at the same place, updating in step 7"
    )
    os.utime(tmp_path / "00001.json", (time.time() - 500,) * 2)
    assert "process 1 (pid 101 on node), at step 7, updating, gave no sign of life for 500 s" in blame(
        tmp_path
    )
    (tmp_path / "00002.json").unlink()
    assert "process 2 left no sign of life" in blame(tmp_path)
