"""Processes that fill shared memory, in order.

    index -> Crew -> order (index, slot) for a worker -> fill(index, pixels of the slot) -> note -> pixels and note

Pixels never travel: the slots are mapped before the workers are forked, and only a note crosses a pipe. The mapping
is anonymous, so /dev/shm does not bound it, it takes no file descriptor, and it vanishes with the processes. Items go
round the workers in turn, so their answers are waited for in order. A pipe ends when the process behind it does: a
worker that dies, or a main process that does, is noticed at once.
"""

import math
import mmap
import signal
import traceback
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from itertools import cycle, islice
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.context import ForkProcess
from multiprocessing.util import Finalize
from typing import Any, Generic, NamedTuple, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Note = TypeVar("Note")
Fill = Callable[[int, Pixels], Note]

ITEMS_AHEAD = 2  # asked of each worker before they are needed
SPARE_SLOTS = 3  # one item just made, the one before it still in use, and one to fill next
FAREWELL_SECONDS = 5.0
NOT_FOR_WORKERS = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGUSR1,
)  # sent to a whole job, meant for its main process


class Crew(Generic[Note]):
    """An iterator over what `fill` makes of each index, by forked workers: uint8 pixels of `shape`, and what it returns.

    `fill` may be anything, because fork hands it over as it is; what it returns is pickled, and should be small. The workers start at once. They end by `close`, with
    this object, and with this process, however it ends.

    Raises what `fill` raised, or RuntimeError if a worker died.
    """

    def __init__(self, fill: Fill[Note], shape: tuple[int, ...], indices: range, num_workers: int) -> None:
        num_workers = min(num_workers, len(indices))
        self._slots = _Slots(num_workers * ITEMS_AHEAD + SPARE_SLOTS, shape)
        workers: list[_Worker] = []
        # At exit, finalizers with a priority run before the processes that are left are waited for.
        self._dismissal = Finalize(self, _dismiss, args=(workers,), exitpriority=0)
        for _ in range(num_workers):
            workers.append(_hire(fill, self._slots.pixels, workers))
        self._orders = zip(indices, cycle(workers), strict=False)
        self._ordered: deque[_Order] = deque()
        self._order(num_workers * ITEMS_AHEAD)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> tuple[Pixels, Note]:
        if not self._ordered or not self._dismissal.still_active():
            raise StopIteration
        order = self._ordered.popleft()
        note: Note = order.worker.finish(order.item)
        self._order(1)
        return self._slots.lend(order.slot), note

    def close(self) -> None:
        """End the workers and the iteration. Pixels that were handed out stay valid."""
        self._dismissal()

    def _order(self, count: int) -> None:
        for index, worker in islice(self._orders, count):
            slot = self._slots.take()
            with suppress(ConnectionError):  # it has died, which is told to whoever waits for its answer
                worker.connection.send((index, slot))
            self._ordered.append(_Order(index, slot, worker))


class _Worker(NamedTuple):
    process: ForkProcess
    connection: Connection

    def finish(self, item: int) -> Any:
        """Wait until the worker has filled the slot of an item, and return its note."""
        try:
            note, error = self.connection.recv()
        except (EOFError, ConnectionError):
            self.process.join(FAREWELL_SECONDS)
            raise RuntimeError(
                f"The worker process {self.process.pid} {_ending(self.process.exitcode or 0)} while it made item {item}."
            ) from None
        if error is not None:
            raise error
        return note


def _ending(exit_code: int) -> str:
    if exit_code == -signal.SIGKILL:
        return "was killed by SIGKILL (if nobody did it, memory ran out: use fewer workers or ask for more memory)"
    if exit_code < 0:
        return f"was killed by {signal.Signals(-exit_code).name}"
    return f"ended with exit code {exit_code}"


class _Order(NamedTuple):
    item: int
    slot: int
    worker: _Worker


class _Slots:
    """Memory for some items, shared with the processes forked later. This process alone knows which slots are free."""

    def __init__(self, count: int, shape: tuple[int, ...]) -> None:
        memory = mmap.mmap(-1, count * math.prod(shape))
        self.pixels: Pixels = np.frombuffer(memory, dtype=np.uint8).reshape(count, *shape)
        self._free = list(range(count))

    def take(self) -> int:
        """A free slot, to be filled."""
        return self._free.pop()

    def lend(self, slot: int) -> Pixels:
        """The pixels of a filled slot, which is free again once nobody refers to them.

        One slot always stays free: whoever keeps many items gets copies, and never makes the workers wait.
        """
        pixels: Pixels = self.pixels[slot]
        if self._free:
            weakref.finalize(pixels, self._free.append, slot)
            return pixels
        self._free.append(slot)
        copy: Pixels = pixels.copy()
        return copy


def _hire(fill: Fill[Note], slots: Pixels, colleagues: list[_Worker]) -> _Worker:
    context = get_context("fork")
    ours, theirs = context.Pipe()
    not_theirs = [ours, *(colleague.connection for colleague in colleagues)]
    process = context.Process(target=_work, args=(fill, slots, theirs, not_theirs), daemon=True)
    # The worker is born with this mask, so there is no moment in which a signal ends it.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, NOT_FOR_WORKERS)
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    theirs.close()
    return _Worker(process, ours)


def _work(fill: Fill[Note], slots: Pixels, orders: Connection, not_ours: list[Connection]) -> None:
    """What a worker does, until it is told to stop or the main process is gone."""
    for connection in not_ours:
        connection.close()  # else the pipe would outlive the main process
    torch.set_num_threads(1)
    try:
        while (order := orders.recv()) is not None:
            orders.send(_attempt(fill, order[0], slots[order[1]]))
    except (EOFError, ConnectionError):
        return


def _attempt(fill: Fill[Note], index: int, pixels: Pixels) -> tuple[Note | None, Exception | None]:
    try:
        return fill(index, pixels), None
    except Exception as error:  # noqa: BLE001 - the main process raises it
        error.add_note(f"In a worker process, making item {index}:\n{traceback.format_exc()}")
        return None, error


def _dismiss(workers: list[_Worker]) -> None:
    """Let the workers finish what they are at and go; one that cannot is killed."""
    for worker in workers:
        with suppress(ConnectionError):  # it has died before
            worker.connection.send(None)
        worker.connection.close()
    for worker in workers:
        worker.process.join(FAREWELL_SECONDS)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()
        worker.process.close()
