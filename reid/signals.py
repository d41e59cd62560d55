"""Requests to stop: SIGTERM, SIGUSR1 and SIGINT, from the first line of a command to its last.

    leaving_at_once(marker)   a request leaves the marker and raises Stopped, wherever the process is   starting, drawing
    noting(note)              a request is noted, for all processes to agree upon                       training

The marker asks whoever started the job to start it again. An interrupt by hand leaves none. Nor does a request of the
launcher to the processes that are left when one has died, though it is the same signal that it would pass on.
"""

import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import psutil

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
MARKER = "requeue"  # in the folder of a run
PATIENCE_SECONDS = 5.0  # a launcher kills after 30

log = logging.getLogger(__name__)


class Stopped(BaseException):
    """A request to stop is obeyed. No `except Exception` on the way keeps it.

    `name` is that of the signal. `asks_again`: the job wishes to be started again.
    """

    def __init__(self, name: str, *, asks_again: bool) -> None:
        super().__init__(name)
        self.name = name
        self.asks_again = asks_again


@contextmanager
def noting(note: Callable[[int], None]) -> Iterator[None]:
    """Within, `note` is called with the number of each stop signal that this process gets."""
    former = {number: signal.signal(number, lambda number, _: note(number)) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


@contextmanager
def leaving_at_once(marker: Path | None) -> Iterator[None]:
    """Within, the first stop signal leaves `marker` and raises Stopped; a process that cannot heed it is ended.

    Inside of `noting`, it is ended only where its launcher has lost another process: then nobody can agree any more.
    """
    told: list[int] = []
    left = threading.Event()

    def leave(number: int, _: FrameType | None) -> None:
        if not told:
            told.append(number)
            raise Stopped(signal.Signals(number).name, asks_again=_ask_again(marker, number))

    def insist(number: int) -> None:
        if signal.getsignal(number) is leave or _has_lost_a_sibling():
            if left.wait(PATIENCE_SECONDS):
                return
            log.error("%s, but this process is held up: it is ended", signal.Signals(number).name)
            try:
                if signal.getsignal(number) is leave:
                    _ask_again(marker, number)
            finally:
                os._exit(1)

    former = {number: signal.signal(number, leave) for number in STOP_SIGNALS}
    try:
        with _overhearing(insist):
            try:
                yield
            finally:
                left.set()
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _ask_again(marker: Path | None, number: int) -> bool:
    """Leave the marker of a signal, unless it came by hand or because another process of this launch has died."""
    if marker is None or number == signal.SIGINT or _has_lost_a_sibling():
        return False
    marker.parent.mkdir(parents=True, exist_ok=True)
    marker.write_text(f"{signal.Signals(number).name}\n")
    return True


@contextmanager
def _overhearing(answer: Callable[[int], None]) -> Iterator[None]:
    """`answer` is called with each stop signal in a thread, even while the main thread waits inside a library."""
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)

    def listen() -> None:
        while number := ours.recv(1):
            if number[0] in STOP_SIGNALS:
                answer(number[0])

    former = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    listener = threading.Thread(target=listen, name="signals", daemon=True)
    listener.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(former)
        theirs.close()
        listener.join()
        ours.close()


def _has_lost_a_sibling() -> bool:
    """Whether fewer processes of this machine live than the launcher started here."""
    started = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return started > 1 and sum(map(_is_at_work, psutil.Process(os.getppid()).children())) < started


def _is_at_work(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE and "LOCAL_RANK" in process.environ()
    except psutil.NoSuchProcess:
        return False
