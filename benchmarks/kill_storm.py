"""Kill a run again and again, and hold what becomes of it against the run that nobody disturbed, bit by bit.

    OMP_NUM_THREADS=1 python -m benchmarks.kill_storm --kills 200

A run of two processes on a tiny data set is begun. When one of the `Moment`s comes, one process of it, or both, get
SIGKILL, and the run is continued by --resume. When it reaches its end nevertheless, its weights, buffers, momentum, the state
of its processes and its curves must be those of the undisturbed run; the next run begins, until all kills are spent. A
process whose peer was killed must end by itself within 30 s, and leave nobody behind.

Processes are forked from one that has imported everything, because a life begins 200 times.
"""

import argparse
import json
import logging
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from multiprocessing import get_context
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import psutil
import torch

from reid import config as configuration
from reid import signals
from reid.config import Config
from reid.tracking.journal import FILE_NAME, Kind, read
from reid.tracking.names import Metric, is_repeatable
from reid.training import checkpoint
from reid.training.run import train

WORLD = 2
SURVIVAL_SECONDS = 30.0
HEIGHT, WIDTH = 32, 16
EPOCH, EPOCHS = 4, 2  # iterations, epochs of each stage
TINY = {
    "data": {
        "height": HEIGHT,
        "width": WIDTH,
        "num_identities": 4,
        "num_tracklets": 1,
        "clip_frames": 2,
        "num_workers": 1,
    },
    "model": {"backbone": "thin", "weights": "none", "num_parts": 2},
    "optimizer": {"warmup_epochs": 0.5},
    "schedule": {"stage1_epochs": EPOCHS, "stage2_epochs": EPOCHS, "epoch_iterations": EPOCH},
    "evaluation": {"every_epochs": 1, "batch_clips": 2},
    "engine": {
        "precision": "fp32",
        "device": "cpu",
        "log_every_steps": 2,
        "checkpoint_every_steps": 3,
        "keep_checkpoints": 2,
    },
    "tracking": {"uri": "offline"},
}

context = get_context("forkserver")
context.set_forkserver_preload(["reid.training.run"])


class Life:
    """A start of `world` processes that train in `folder`, each in a session of its own, speaking into one file."""

    def __init__(self, config: Config, folder: Path, *, world: int = WORLD, resume: bool = False) -> None:
        self.folder = folder
        self.spoken = folder.with_suffix(f".{time.monotonic_ns()}.log")
        port = _free_port()
        self.processes: list[ForkServerProcess] = []
        for rank in range(world):
            arguments = (config.model_dump(mode="json"), folder, rank, world, port, resume, self.spoken)
            process = context.Process(target=_live, args=arguments)
            process.start()
            self.processes.append(process)

    @property
    def is_over(self) -> bool:
        """Whether all its processes have ended."""
        return not any(process.is_alive() for process in self.processes)

    def end(self, seconds: float) -> list[int | None]:
        """Wait for the end of all processes and return their exit codes; None for one that still lives."""
        until = time.monotonic() + seconds
        for process in self.processes:
            process.join(max(0.0, until - time.monotonic()))
        return [process.exitcode for process in self.processes]

    def left_behind(self) -> list[int]:
        """Processes that its processes started and that still live, a moment after."""
        sessions = {process.pid for process in self.processes}
        for _ in range(50):
            left = [pid for pid in psutil.pids() if _session(pid) in sessions - {pid}]
            if not left:
                return []
            time.sleep(0.1)
        return left


def _warm_up() -> None:
    """Let the process that all others are forked from import what they need."""
    process = context.Process(target=os.getpid)
    process.start()
    process.join()


def _live(
    config: dict[str, object], folder: Path, rank: int, world: int, port: int, resume: bool, spoken: Path
) -> None:
    os.setsid()
    descriptor = os.open(spoken, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    if world > 1:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    logging.basicConfig(
        level=logging.INFO if rank == 0 else logging.ERROR,
        format="%(asctime)s.%(msecs)03d %(message)s",
        force=True,
    )
    torch.set_num_threads(1)
    try:
        with signals.leaving_at_once(folder / signals.MARKER):
            scored = train(
                configuration.from_dict(config, "the storm"), folder, lambda _: ([], ""), resume=resume
            )
    except signals.Stopped:
        sys.exit(1)
    sys.exit(scored is None)


class Moment(StrEnum):
    """When a life is ended."""

    ANY = "at any moment"
    SAVING = "while saving"
    EVALUATING = "while evaluating"
    STAGE = "while changing stage"


@dataclass
class Storm:
    """What happened so far."""

    config: Config
    folder: Path
    chance: random.Random
    kills: Counter[tuple[str, str]] = field(default_factory=Counter)
    lives: int = 0
    ends: int = 0
    longest_survival: float = 0.0
    life_seconds: float = 0.0
    complaints: list[str] = field(default_factory=list)

    def rage(self, num_kills: int) -> None:
        """Spend all kills, and compare every run that comes to its end, the last one included."""
        undisturbed = self.folder / "undisturbed"
        _warm_up()
        began = time.monotonic()
        self._require_good_end(Life(self.config, undisturbed))
        self.life_seconds = time.monotonic() - began
        moments = [moment for _ in range(num_kills) for moment in Moment][:num_kills]
        self.chance.shuffle(moments)
        while True:
            run = self.folder / f"run-{self.ends:03d}"
            while not self._lived_to_the_end(run, moments):
                pass
            self.ends += 1
            self.complaints += [f"{run.name}: {what}" for what in differences(run, undisturbed)]
            if not moments:
                return

    def _lived_to_the_end(self, run: Path, moments: list[Moment]) -> bool:
        """One life of a run. The next kill is spent if its moment comes."""
        self.lives += 1
        life = Life(self.config, run, resume=True)
        if not moments or not self._await(moments[-1], life):
            self._require_good_end(life)
            return True
        victims = self.chance.choice([life.processes, [self.chance.choice(life.processes)]])
        for victim in victims:
            assert victim.pid is not None
            os.kill(victim.pid, signal.SIGKILL)
        for process in set(life.processes) - set(victims):
            _ask_to_stop(process)  # as a launcher does that has lost a process
        began = time.monotonic()
        codes = life.end(SURVIVAL_SECONDS)
        if set(codes) == {0}:  # the victims were dead already: the run had come to its end
            self._require_nobody_left(life)
            return True
        moment = moments.pop()
        self.kills[moment, "all" if len(victims) > 1 else "one"] += 1
        self.longest_survival = max(self.longest_survival, time.monotonic() - began)
        if None in codes or 0 in codes:
            self.complaints.append(f"{run.name}: killed {moment}, and the exit codes are {codes}")
        self._require_nobody_left(life)
        return False

    def _await(self, moment: Moment, life: Life) -> bool:
        """Wait for the moment in a life; False if the life ends before."""
        has_come, delay = {
            Moment.ANY: (lambda: True, self.life_seconds),
            Moment.SAVING: (_is_saving(life.folder), 0.02),
            Moment.EVALUATING: (_says(life.spoken, "evaluation: "), 0.3),
            Moment.STAGE: (_writes(life.folder / FILE_NAME, f'"step":{EPOCH * EPOCHS},'), 0.5),
        }[moment]
        while not has_come():
            if life.is_over:
                return False
            time.sleep(0.001)
        time.sleep(self.chance.uniform(0, delay))
        return not life.is_over

    def _require_good_end(self, life: Life) -> None:
        codes = life.end(120)
        if set(codes) != {0}:
            raise RuntimeError(f"{life.folder}: exit codes {codes}\n{life.spoken.read_text()}")
        self._require_nobody_left(life)

    def _require_nobody_left(self, life: Life) -> None:
        if left := life.left_behind():
            self.complaints.append(f"{life.folder.name}: left behind: {left}")
        life.spoken.unlink(missing_ok=True)


def differences(run: Path, undisturbed: Path) -> list[str]:
    """All in which a run ended otherwise."""
    found, expected = (
        checkpoint.load(checkpoint.published(folder / "checkpoints")[-1]) for folder in (run, undisturbed)
    )
    other = [f"it ended at step {found.step}"] if found.step != expected.step else []
    for what, ours, theirs in (
        ("the weights", found.weights, expected.weights),
        ("the momentum", found.momentum, expected.momentum),
    ):
        unequal = [name for name in ours | theirs if not _equal(ours.get(name), theirs.get(name))]
        other += [f"{what} {name}" for name in unequal]
    unnamed = {"run": None}  # each run has a name of its own
    if found.state | unnamed != expected.state | unnamed:
        other.append("the state")
    points, curves = points_of(run), points_of(undisturbed)
    return other + [
        f"the curve {point}" for point in points | curves if points.get(point) != curves.get(point)
    ]


def points_of(run: Path) -> dict[tuple[str, int], float]:
    """The points of a run that another one must repeat, and how often it did not repeat itself, where it did not."""
    return {
        (name, record.step): value
        for record in read(run)
        if record.kind is Kind.METRICS and record.step is not None
        for name, value in record.data.items()
        if is_repeatable(name) or (name == Metric.RESUME_MISMATCH and value)
    }


def _equal(one: object, other: object) -> bool:
    return isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor) and one.equal(other)


def _is_saving(run: Path) -> Callable[[], bool]:
    folder = run / "checkpoints"
    return lambda: (
        folder.exists() and any(path.name.startswith(checkpoint.PARTIAL) for path in folder.iterdir())
    )


def _says(spoken: Path, text: str) -> Callable[[], bool]:
    return lambda: spoken.exists() and text in spoken.read_text()


def _writes(journal: Path, text: str) -> Callable[[], bool]:
    before = len(journal.read_text()) if journal.exists() else 0
    return lambda: journal.exists() and text in journal.read_text()[before:]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _ask_to_stop(process: ForkServerProcess) -> None:
    assert process.pid is not None
    with suppress(ProcessLookupError):
        os.kill(process.pid, signal.SIGTERM)


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None


def packed(folder: Path) -> Path:
    """A tiny packed data set below `folder`."""
    size = ["--num-identities", "12", "--num-train-identities", "8", "--tracklets-per-modality", "4"]
    size += ["--height", str(HEIGHT), "--width", str(WIDTH)]
    commands = [
        ["synthesize", str(folder / "raw"), *size, "--num-workers", "1"],
        ["pack", str(folder / "raw"), str(folder / "packed"), "--num-workers", "1"],
    ]
    for command in commands:
        subprocess.run([sys.executable, "-m", "preprocess", *command], check=True, stdout=subprocess.DEVNULL)
    return folder / "packed"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = configuration.from_dict(
            TINY | {"data": {**TINY["data"], "root": packed(folder)}}, "the storm"
        )
        storm = Storm(config, folder, random.Random(chosen.seed))
        began = time.monotonic()
        storm.rage(chosen.kills)
        seconds = time.monotonic() - began
    if chosen.json:
        print(json.dumps({"kills": storm.kills.total(), "ends": storm.ends, "complaints": storm.complaints}))
    else:
        print_summary(storm, seconds)
    return 1 if storm.complaints else 0


def print_summary(storm: Storm, seconds: float) -> None:
    print("| | one process | both |\n| :-- | --: | --: |")
    for moment in Moment:
        print(f"| killed {moment} | {storm.kills[moment, 'one']} | {storm.kills[moment, 'all']} |")
    print(
        f"\n{storm.kills.total()} kills in {storm.lives} lives and {seconds:.0f} s; {storm.ends} runs came to their end "
        f"(undisturbed, one takes {storm.life_seconds:.1f} s). After a kill, the last process ended within "
        f"{storm.longest_survival:.1f} s. {len(storm.complaints)} complaints."
    )
    for complaint in storm.complaints:
        print(f"* {complaint}")


if __name__ == "__main__":
    sys.exit(main())
