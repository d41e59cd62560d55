"""Sends one run's journal to MLflow, in a process of its own:  python -m reid.tracking.sender RUN --watch PID

It reads the journal as it grows and sends it in batches, again and again if the server is away. It ends within 30 s of the
trainer, whatever happened to that: a trainer that is gone without a word was killed, and the sender says so. What is not
sent by then stays in the journal, for `reid runs sync`. No torch is imported here.
"""

import argparse
import fcntl
import logging
import os
import random
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path

import psutil

from reid.tracking.journal import FILE_NAME, Kind, Record, Tail, header, make_durable
from reid.tracking.mlflow import Replay, RunDeletedError, RunLostError
from reid.tracking.runs import beat, bury
from reid.tracking.target import AddressError, redacted
from reid.tracking.tracker import TRACKING_URI

LOCK_NAME = "sender.lock"
POLL_SECONDS = 1.0
HEARTBEAT_SECONDS = 60.0
GRACE_SECONDS = 27.0
LONGEST_PAUSE_SECONDS = 10.0
MAX_RECORDS = 200
UNSENT = 3

log = logging.getLogger(__name__)


class SenderInUseError(ValueError):
    """Another process sends this run."""


class Watch:
    """Whether the trainer lives. A process that took over its number, or that only waits to be reaped, does not count."""

    def __init__(self, pid: int) -> None:
        try:
            self._process: psutil.Process | None = psutil.Process(pid)
        except psutil.NoSuchProcess:
            self._process = None

    def is_alive(self) -> bool:
        try:
            process = self._process
            return process is not None and process.is_running() and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False


class Courier:
    """Carries records from the journal to the server. `ended` tells whether the journal's last life is over."""

    def __init__(self, run_folder: Path, tracking_uri: str) -> None:
        self.ended = False
        self.num_sent = 0
        self._run_folder = run_folder
        self._tracking_uri = tracking_uri
        self._replay = Replay(run_folder, tracking_uri)
        above: str | None = header(run_folder).get("parent")
        self._above = run_folder / above if above else None
        self._tail = Tail(run_folder / FILE_NAME)
        self._unsent: deque[tuple[Record, int]] = deque()
        self._next_beat = 0.0

    def read_on(self) -> None:
        """Take what was written since the last call."""
        there = self._replay.offset
        for record in self._tail.poll():
            self.ended = ended_by(record, self.ended)
            if self._tail.offset > there:
                self._unsent.append((record, self._tail.offset))

    def deliver(self) -> None:
        """Send all that was read. Raises what MLflow and its transport raise."""
        try:
            self._deliver()
        except RunLostError as error:
            log.warning("%s; sending all of it again", error)
            self._tail = Tail(self._run_folder / FILE_NAME)
            self._unsent.clear()
            self.read_on()
            self._deliver()

    def beat(self) -> None:
        """Leave a sign of life on the server and beside the journal, when it is time. Raises like `deliver`."""
        if time.monotonic() >= self._next_beat:
            beat(self._run_folder)
            self._replay.beat(time.time())
            self._next_beat = time.monotonic() + HEARTBEAT_SECONDS

    def _deliver(self) -> None:
        if self._unsent:  # after a power loss, no server may know more than the journal
            make_durable(self._run_folder / FILE_NAME)
        while self._unsent:
            batch = list(islice(self._unsent, MAX_RECORDS))
            self._replay.send([record for record, _ in batch], batch[-1][1])
            for _ in batch:
                self._unsent.popleft()
            self.num_sent += len(batch)
        self._nest()

    def _nest(self) -> None:
        """Bring the run above there too, if its folder is in reach, and put this one below it."""
        if self._above is None or self._replay.is_nested or not (self._above / FILE_NAME).exists():
            return
        with suppress(
            SenderInUseError, RunDeletedError
        ):  # another child brings it there; nobody wants it there
            sync(self._above, self._tracking_uri)
        self._replay.nest()


def ended_by(record: Record, ended: bool) -> bool:
    """Whether a run's life is over after a record, if it was so before."""
    return record.kind is Kind.FINISH or (ended and record.kind is not Kind.START)


def sync(run_folder: Path, tracking_uri: str) -> int:
    """Send what a server does not have yet of a run. Returns the number of records sent.

    Raises SenderInUseError while the run is being sent, AddressError, RunDeletedError if it was deleted there, and
    ConnectionError if the server does not take it.
    """
    with _alone(run_folder, wait=False):
        courier = Courier(run_folder, tracking_uri)
        courier.read_on()
        try:
            courier.deliver()
        except (AddressError, RunDeletedError):
            raise
        except Exception as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ConnectionError(
                f"{run_folder}: {redacted(tracking_uri)} did not take it ({reason}). Nothing is lost; try again later"
            ) from error
        return courier.num_sent


def follow(run_folder: Path, tracking_uri: str, watch: Watch) -> None:
    """Send the journal until its run has ended and all of it has arrived, or another life of the run has begun."""
    courier = Courier(run_folder, tracking_uri)
    num_failures, next_attempt = 0, 0.0
    while True:
        trainer_lives = watch.is_alive()
        courier.read_on()
        if not trainer_lives and not courier.ended:
            if not bury(run_folder, "the process died without a word"):
                return
            courier.read_on()
        if courier.ended or time.monotonic() >= next_attempt:
            try:
                courier.deliver()
                num_failures = 0
                if courier.ended:
                    return
                courier.beat()
            except Exception as error:  # noqa: BLE001  # whatever a server or its client does, the sender outlives it
                num_failures += 1
                pause = min(2.0**num_failures, LONGEST_PAUSE_SECONDS) * random.uniform(0.5, 1.0)  # noqa: S311
                next_attempt = time.monotonic() + pause
                log.warning("attempt %d failed: %s: %s", num_failures, type(error).__name__, error)
        time.sleep(POLL_SECONDS)


@contextmanager
def _alone(run_folder: Path, *, wait: bool) -> Iterator[None]:
    with (run_folder / LOCK_NAME).open("w") as lock:
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            raise SenderInUseError(
                f"{run_folder}: this run is being sent already; nothing is left to do"
            ) from error
        yield


def _leave_in_time(run_folder: Path, watch: Watch) -> None:
    """End this process GRACE_SECONDS after the run or the trainer, also from the middle of a request that hangs."""
    tail, ended = Tail(run_folder / FILE_NAME), False
    while watch.is_alive() and not ended:
        for record in tail.poll():
            ended = ended_by(record, ended)
        time.sleep(POLL_SECONDS)
    time.sleep(GRACE_SECONDS)
    log.warning("leaving with records unsent; complete the run with: reid runs sync %s", run_folder)
    os._exit(UNSENT)


class _Redacting(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return redacted(super().format(record))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run_folder", type=Path)
    parser.add_argument("--watch", type=int, required=True, metavar="PID", help="the process that trains")
    arguments = parser.parse_args()
    handler = logging.StreamHandler()
    handler.setFormatter(_Redacting("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    os.nice(10)
    watch = Watch(arguments.watch)
    threading.Thread(target=_leave_in_time, args=[arguments.run_folder, watch], daemon=True).start()
    with _alone(arguments.run_folder, wait=True):
        follow(arguments.run_folder, os.environ[TRACKING_URI], watch)


if __name__ == "__main__":
    main()
