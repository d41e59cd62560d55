"""Notices that training stands still, says which process holds the others up and what it was doing, and ends the job.

    tell(activity, step)                  the main thread says what it begins
    FOLDER/00003.json                     a thread writes what was told last, again and again: a sign of life
    nothing told for the patience         the thread compares the files of all processes, names who is to blame, exits

Processes wait for each other, so one that stops holds up all, and those that live find it out. The file of a process that
was stopped grows old; one that waits for something is behind the others, because it told less. Only time in which
this thread ran counts: a job that was suspended as a whole, and goes on, stands not accused.
"""

import faulthandler
import json
import logging
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Self

import psutil

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sign:
    """What a process told last: what it was doing in which step, and how often it had told something."""

    process: int
    pid: int
    host: str
    step: int
    activity: str
    told: int

    def __str__(self) -> str:
        return f"process {self.process} (pid {self.pid} on {self.host}), at step {self.step}, {self.activity}"


class Watchdog:
    """Watches process `rank` of `world` from a thread, within a `with`. Files of all processes lie in `folder`."""

    def __init__(self, folder: Path, rank: int, world: int, timeout_seconds: float) -> None:
        self._folder = folder
        self._rank = rank
        self._world = world
        self._interval = min(5.0, timeout_seconds / 20)
        self._patience = 0.9 * timeout_seconds  # the end comes within the time-out
        self._parent = os.getppid() if "LOCAL_WORLD_SIZE" in os.environ else None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._sign = Sign(rank, os.getpid(), socket.gethostname(), 0, "starting", 0)

    def tell(self, activity: str, step: int) -> None:
        """What the main thread begins now. Every process tells the same, in the same order."""
        last = self._sign
        self._sign = Sign(last.process, last.pid, last.host, step, activity, last.told + 1)

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._write()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        self._path(self._rank).unlink(missing_ok=True)
        with suppress(OSError):  # others are still there
            self._folder.rmdir()

    def _watch(self) -> None:
        told, stood, last = self._sign.told, 0.0, time.monotonic()
        while not self._ended.wait(self._interval):
            now = time.monotonic()
            stood += min(now - last, 2 * self._interval)
            last = now
            if self._sign.told != told:
                told, stood = self._sign.told, 0.0
            self._show_life()
            self._outlive_no_launcher()
            if stood > self._patience:
                self._end(stood)

    def _show_life(self) -> None:
        try:
            self._write()
        except OSError as error:
            log.warning("no sign of life could be written: %s", error)

    def _write(self) -> None:
        path = self._path(self._rank)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(asdict(self._sign)))
        partial.replace(path)

    def _outlive_no_launcher(self) -> None:
        """A launcher that died can end nobody, so its processes ask themselves to stop."""
        if self._parent is not None and os.getppid() != self._parent:
            log.error("the launcher of this process is gone")
            self._parent = None
            os.kill(os.getpid(), signal.SIGTERM)

    def _end(self, stood: float) -> NoReturn:
        """Leave without the main thread, which cannot. The launcher ends the others."""
        try:
            log.error(
                "standing still for %.0f s: %s. This process, %s, ends the job",
                stood,
                self.blame(),
                self._sign,
            )
            faulthandler.dump_traceback(sys.__stderr__ or 2)
            for worker in multiprocessing.active_children():
                worker.kill()
            self._end_silent_siblings()
        finally:
            os._exit(1)

    def _end_silent_siblings(self) -> None:
        """A stopped process hears no SIGTERM, and the launcher would wait for it."""
        for rank in range(self._world):
            sign, age = self._read(rank)
            if sign is not None and sign.host == self._sign.host and self._is_silent(age):
                with suppress(psutil.NoSuchProcess):
                    process = psutil.Process(sign.pid)
                    if process.ppid() == os.getppid():
                        process.kill()

    def blame(self) -> str:
        """Who holds the others up, in words."""
        signs = {rank: self._read(rank) for rank in range(self._world)}
        silent = [
            f"process {rank} left no sign of life"
            if sign is None
            else f"{sign}, gave no sign of life for {age:.0f} s"
            for rank, (sign, age) in signs.items()
            if sign is None or self._is_silent(age)
        ]
        if silent:
            return "; ".join(silent)
        alive = [sign for sign, _ in signs.values() if sign is not None]
        least = min(sign.told for sign in alive)
        behind = [sign for sign in alive if sign.told == least]
        if len(behind) == len(alive) > 1:
            return f"all {len(alive)} processes are at the same place, {behind[0].activity} in step {behind[0].step}"
        return "; ".join(f"{sign}, does not go on" for sign in behind)

    def _read(self, rank: int) -> tuple[Sign | None, float]:
        """The sign of a process, and how much older than the newest of this one, by the clock of the file system."""
        path = self._path(rank)
        try:
            age = self._path(self._rank).stat().st_mtime - path.stat().st_mtime
            return Sign(**json.loads(path.read_text())), age
        except OSError:
            return None, 0.0

    def _is_silent(self, age: float) -> bool:
        return age > max(4 * self._interval, self._patience / 2)

    def _path(self, rank: int) -> Path:
        return self._folder / f"{rank:05d}.json"
