"""The same work on many items, by several processes, with progress that all of them share.

    items -> forked workers, each reporting what it has done into one counter -> results, as they are finished

Workers are forked, and inherit the work instead of receiving it, so a plan of millions of frames is neither copied nor
pickled.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.context import ForkContext, ForkProcess
from typing import Any, TypeVar

REPORT_SECONDS = 0.2


class _Forking(ForkContext):
    """Forks processes that can be ended at once, although they leave SIGTERM to their parent."""

    class Process(ForkProcess):
        terminate = ForkProcess.kill


Report = Callable[[int], None]
Item = TypeVar("Item")
Result = TypeVar("Result")


def check(num_workers: int) -> None:
    """Raise ValueError for a number of workers that is none."""
    if num_workers < 1:
        raise ValueError(f"The number of workers must be 1 or more, found {num_workers}.")


def run(
    work: Callable[[Item, Report], Result], items: Sequence[Item], num_workers: int, report: Report
) -> Generator[Result]:
    """Yield `work(item, advance)` of every item, as they are finished. `report` hears the sum of what the workers passed to `advance`.

    The first failure stops what has not begun, waits for what has, and is raised. RuntimeError if a worker died.
    """
    done = 0

    def advance(amount: int) -> None:
        nonlocal done
        done += amount
        report(done)

    if num_workers == 1 or len(items) < 2:
        for item in items:
            yield work(item, advance)
        return
    context = _Forking()
    counter = context.Value("q", 0)
    num_processes = min(num_workers, len(items))
    with ProcessPoolExecutor(num_processes, context, _enter, (work, counter)) as pool:
        try:
            waiting = {pool.submit(_call, item) for item in items}
            while waiting:
                finished, waiting = wait(waiting, REPORT_SECONDS, FIRST_COMPLETED)
                report(counter.get_obj().value)  # without its lock, which a dead worker may hold
                yield from _results(finished)
        finally:
            pool.shutdown(cancel_futures=True)


def _results(finished: set[Future[Result]]) -> Iterator[Result]:
    for future in finished:
        try:
            yield future.result()
        except BrokenProcessPool as error:
            raise RuntimeError(
                "a worker process died without a word, most often killed for want of memory. Run the same command "
                "again, with fewer workers."
            ) from error


_inherited: tuple[Callable[[Any, Report], Any], Report]


def _enter(work: Callable[[Any, Report], Any], counter: Any) -> None:
    """Runs once in each worker. What is sent to a whole job is the parent's to handle; a worker does not outlive it."""
    global _inherited  # noqa: PLW0603 - the one thing that a worker keeps between its items
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_die_with_parent, daemon=True).start()

    def advance(amount: int) -> None:
        with counter.get_lock():
            counter.value += amount

    _inherited = (work, advance)


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _call(item: Any) -> Any:
    work, advance = _inherited
    return work(item, advance)
