"""Runs that the tests of training share: each is trained once, on a configuration of 8 steps."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import psutil
import pytest

from reid import config as configuration
from reid.config import Config
from reid.tracking.journal import Kind, read
from reid.tracking.names import is_repeatable
from reid.training import checkpoint
from reid.training.checkpoint import Snapshot
from reid.training.run import Scored, train

ROOT = Path(__file__).parents[3]


class Runs:
    """Ways to train and to look at what was trained."""

    def __init__(self, folder: Path) -> None:
        self._configurations = folder
        self._launched: list[subprocess.Popen[str]] = []

    def train(
        self, config: Config, folder: Path, *, resume: bool = False, accept_changes: bool = False
    ) -> Scored | None:
        """In this process, without drawing pictures."""
        return train(
            config, folder, lambda _: ([], "described"), resume=resume, accept_changes=accept_changes
        )

    def launch(self, config: Config, folder: Path, *options: str) -> "subprocess.Popen[str]":
        """Two processes on this CPU, as the README starts them."""
        path = self._configurations / f"{folder.name}.yaml"
        path.write_text(configuration.to_yaml(config))
        launcher = [sys.executable, "-m", "accelerate.commands.launch"]
        launcher += ["--config_file", str(ROOT / "launch" / "accelerate" / "cpu.yaml")]
        command = [*launcher, "-m", "reid", "train", "--config", str(path), "--run", str(folder), *options]
        process = subprocess.Popen(
            command,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._launched.append(process)
        return process

    def end(self) -> None:
        """Leave no process behind, whatever a test did."""
        for process in self._launched:
            if process.poll() is None:
                for child in psutil.Process(process.pid).children(recursive=True):
                    child.kill()
                process.kill()

    def snapshot(self, folder: Path, step: int) -> Snapshot:
        return checkpoint.load(checkpoint.place(folder / "checkpoints", step))

    def points(self, folder: Path) -> dict[tuple[int, str], float]:
        """Logged values that a repetition must repeat, by step and name; each may be written once."""
        found: dict[tuple[int, str], float] = {}
        for record in read(folder):
            if record.kind is Kind.METRICS and record.step is not None:
                values = {
                    (record.step, name): value for name, value in record.data.items() if is_repeatable(name)
                }
                assert not values.keys() & found.keys()
                found |= values
        return found


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    runs = Runs(tmp_path_factory.mktemp("configurations"))
    yield runs
    runs.end()


@pytest.fixture(scope="session")
def alone(tiny: Callable[..., Config], runs: Runs, tmp_path_factory: Any) -> Callable[[str], Path]:
    """The folder of an undisturbed run of one process, by recipe."""

    @cache
    def folder_of(recipe: str = "algorithm1") -> Path:
        folder = tmp_path_factory.mktemp("alone") / recipe
        runs.train(tiny(schedule={"recipe": recipe}), folder)
        return folder

    return folder_of


@pytest.fixture(scope="session")
def together(tiny: Callable[..., Config], runs: Runs, tmp_path_factory: Any) -> Callable[[str], Path]:
    """The folder of an undisturbed run of two processes, by recipe."""

    @cache
    def folder_of(recipe: str = "algorithm1") -> Path:
        folder = tmp_path_factory.mktemp("together") / recipe
        process = runs.launch(tiny(schedule={"recipe": recipe}), folder)
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output
        return folder

    return folder_of
