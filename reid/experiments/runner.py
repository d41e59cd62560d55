"""Trains the trials of an experiment on this machine, each as a process of its own, some at a time.

    Trial -> finished: nothing | LAUNCHER -m reid train --config ... --run ... --resume -> Outcome

A trial that fails is told, and the others go on. A request to stop reaches every trial; each publishes its last step.
"""

import os
import signal
import subprocess
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from reid.experiments.trials import Trial

POLL_SECONDS = 0.1
SHUTDOWN_SECONDS = 300  # that a launcher gives its processes to publish a checkpoint
TOLD_LINES = 12


class Outcome(NamedTuple):
    """How a trial ended: its exit code, None where it had finished before; `told` is the end of what a failed one said."""

    trial: Trial
    code: int | None
    seconds: float = 0.0
    told: str = ""


class _Job:
    """A trial at work."""

    def __init__(self, trial: Trial, launcher: Sequence[str], environment: dict[str, str]) -> None:
        trial.write()
        trial.log.parent.mkdir(exist_ok=True)
        self.trial, self._began = trial, time.monotonic()
        words = ["-m", "reid", "train", "--config", str(trial.file), "--run", str(trial.run), "--resume"]
        with trial.log.open("ab") as log:
            self._offset = log.tell()
            self.process = subprocess.Popen(  # noqa: S603 - what the user would call himself
                [*launcher, *words],
                env=os.environ | environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,  # Ctrl-C reaches it through us, once
            )

    def tell(self, number: int) -> None:
        """Pass a request to stop on. A launcher dies of SIGUSR1, so that trials are told by SIGTERM."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGINT if number == signal.SIGINT else signal.SIGTERM)

    def outcome(self, code: int) -> Outcome:
        with self.trial.log.open("rb") as log:
            log.seek(self._offset)
            lines = log.read().decode(errors="replace").splitlines()
        told = "\n".join(lines[-TOLD_LINES:]) if code else ""
        return Outcome(self.trial, code, time.monotonic() - self._began, told)


def perform(
    trials: Sequence[Trial], *, launcher: Sequence[str], num_jobs: int, asked: Sequence[int]
) -> Iterator[Outcome]:
    """Train what is not finished, `num_jobs` at a time, and yield each outcome as it comes.

    `launcher` are the words before `-m reid train`. `asked` are the numbers of the signals that have come so far: they are
    passed on, and nothing is begun any more.
    """
    waiting, num_told = deque(trials), 0
    places: dict[int, _Job | None] = dict.fromkeys(range(num_jobs))
    try:
        while (waiting and not asked) or any(places.values()):
            for place, job in places.items():
                code = None if job is None else job.process.poll()
                if job is not None and code is not None:
                    places[place] = None
                    yield job.outcome(code)
                while waiting and not asked and places[place] is None:
                    trial = waiting.popleft()
                    if trial.is_finished():
                        yield Outcome(trial, None)
                    else:
                        places[place] = _Job(trial, launcher, share(place, num_jobs))
            for number in asked[num_told:]:
                for job in filter(None, places.values()):
                    job.tell(number)
            num_told = len(asked)
            time.sleep(POLL_SECONDS)
    finally:
        for job in filter(None, places.values()):
            job.tell(signal.SIGTERM)
            job.process.wait()


def share(place: int, num_jobs: int) -> dict[str, str]:
    """What of this machine a trial may use beside others: GPUs in turn, threads in equal parts, unless the user says so."""
    found = {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(SHUTDOWN_SECONDS)}
    if num_jobs > 1:
        found["OMP_NUM_THREADS"] = str(max(1, len(os.sched_getaffinity(0)) // num_jobs))
    found = {name: value for name, value in found.items() if name not in os.environ}
    if num_jobs > 1 and (gpus := _gpus()):
        found["CUDA_VISIBLE_DEVICES"] = ",".join(gpus[place::num_jobs] or [gpus[place % len(gpus)]])
    return found


def _gpus() -> list[str]:
    """What CUDA_VISIBLE_DEVICES may name here."""
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [gpu for gpu in visible.split(",") if gpu and not gpu.startswith("-")]
    return [str(number) for number in range(len([*Path("/dev").glob("nvidia[0-9]*")]))]
