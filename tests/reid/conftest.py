"""What the tests of `reid` share: a tiny packed data set, a configuration that takes seconds, joined processes, and a terminal."""

import os
import pty
import re
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from reid import config as configuration
from reid.config import Config

HEIGHT, WIDTH = 32, 16
TINY: dict[str, dict[str, Any]] = {
    "data": {"height": HEIGHT, "width": WIDTH, "num_identities": 4, "clip_frames": 3, "num_workers": 0},
    "model": {"backbone": "thin", "weights": "none", "num_parts": 2},
    "optimizer": {"warmup_epochs": 0.5},
    "schedule": {"stage1_epochs": 1, "stage2_epochs": 1, "epoch_iterations": 4},
    "evaluation": {"every_epochs": 1, "batch_clips": 8},
    "engine": {
        "precision": "fp64",
        "device": "cpu",
        "log_every_steps": 2,
        "checkpoint_every_steps": 1,
        "keep_checkpoints": 20,
    },
    "tracking": {"uri": "offline"},
}


@pytest.fixture(scope="session")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of a packed synthetic set: 8 identities to train on, 4 to test on."""
    from preprocess.options import Options
    from preprocess.pack import pack
    from preprocess.synthetic import SyntheticConfig, synthesize

    folder = tmp_path_factory.mktemp("tiny")
    size = SyntheticConfig(
        num_identities=12, num_train_identities=8, tracklets_per_modality=4, height=HEIGHT, width=WIDTH
    )
    synthesize(size, folder / "raw", 1)
    pack(folder / "raw", folder / "packed", Options())
    return folder / "packed"


@pytest.fixture(scope="session")
def tiny(packed: Path) -> Callable[..., Config]:
    """Makes a configuration that trains for 8 steps, 4 in each stage; arguments are sections and change it."""
    base = configuration.from_dict(TINY | {"data": TINY["data"] | {"root": packed}}, "the tests")

    def changed(**sections: dict[str, Any]) -> Config:
        return configuration.changed(base, sections)

    return changed


class Joined:
    """Processes joined by gloo. A call runs a function in all of them and returns what each returned."""

    def __init__(self, processes: list[ProcessPoolExecutor]) -> None:
        self._processes = processes

    def __call__(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        futures = [process.submit(function, *arguments) for process in self._processes]
        return [future.result(timeout=120) for future in futures]


def _join(rank: int, world: int, rendezvous: Path) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "1",
    }  # accelerate asks for them; nobody connects
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=world)


@contextmanager
def _joined(world: int, folder: Path) -> Iterator[Joined]:
    processes = [
        ProcessPoolExecutor(
            1, get_context("spawn"), initializer=_join, initargs=(rank, world, folder / "rendezvous")
        )
        for rank in range(world)
    ]
    yield Joined(processes)
    for process in processes:
        process.shutdown()


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Joined]:
    """Two processes."""
    with _joined(2, tmp_path_factory.mktemp("pair")) as processes:
        yield processes


@pytest.fixture
def trio(tmp_path: Path) -> Iterator[Joined]:
    """Three processes."""
    with _joined(3, tmp_path) as processes:
        yield processes


@pytest.fixture(scope="session")
def quartet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Joined]:
    """Four processes."""
    with _joined(4, tmp_path_factory.mktemp("quartet")) as processes:
        yield processes


class Screen:
    """What a terminal shows after some output, and every line that was erased from it on the way."""

    def __init__(self, output: str) -> None:
        self.lines, self.erased = [""], list[str]()
        row = column = 0
        for escape, text in re.findall(r"(\x1b\[[?\d;]*[A-Za-z])|([^\x1b])", output, re.DOTALL):
            line = self.lines[row]
            if text == "\n":
                row += 1
                self.lines += [""] * (row == len(self.lines))
            elif text == "\r":
                column = 0
            elif text:
                self.lines[row] = line[:column].ljust(column) + text + line[column + 1 :]
                column += 1
            elif escape == "\x1b[2K":
                self.erased += [line] * bool(line)
                self.lines[row] = ""
            elif escape == "\x1b[1A":
                row -= 1
            else:
                assert escape.endswith(("m", "l", "h")), escape  # colours, and whether the cursor is shown

    @property
    def text(self) -> list[str]:
        """The lines that show something, without trailing blanks."""
        return [line.rstrip() for line in self.lines if line.strip()]


@pytest.fixture
def terminal() -> Callable[..., tuple[Screen, int]]:
    """Runs a Python program with arguments at a terminal of its own: what that shows at the end, and the exit code."""

    def run(*arguments: str, columns: int = 140) -> tuple[Screen, int]:
        ours, theirs = pty.openpty()
        termios.tcsetwinsize(theirs, (40, columns))
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=Path(__file__).parents[2],
            env={**os.environ, "TERM": "xterm", "COLUMNS": str(columns), "OMP_NUM_THREADS": "1"},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        output = b""
        with suppress(OSError):  # the terminal is gone when nobody holds its other end
            while piece := os.read(ours, 1 << 16):
                output += piece
        os.close(ours)
        return Screen(output.decode()), process.wait()

    return run


@pytest.fixture
def started() -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Starts a Python program, given as text, with arguments and environment variables, and waits until it says `ready`."""
    begun: list[subprocess.Popen[str]] = []

    def start(program: str, *arguments: object, **variables: str) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, "-c", program, *map(str, arguments)],
            env=os.environ | variables | {"PYTHONPATH": str(Path(__file__).parents[2])},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        begun.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    yield start
    for process in begun:
        process.kill()
        process.communicate()


@pytest.fixture
def signalled_after() -> Callable[..., AbstractContextManager[None]]:
    """Within `signalled_after(run, step, number)`, this process is sent a signal once the checkpoint of `step` exists."""

    @contextmanager
    def sending(run: Path, step: int, number: int) -> Iterator[None]:
        ended = threading.Event()

        def watch() -> None:
            while not (run / "checkpoints" / f"step-{step:08d}").exists():
                if ended.wait(0.005):
                    return
            os.kill(os.getpid(), number)

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            yield
        finally:
            ended.set()
            watcher.join()

    return sending
