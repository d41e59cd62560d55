"""How the benchmarks of the data plane measure: by ratios, each slice of work between two slices of its reference.

Times are CPU seconds of this process and of the children that it has waited for, because other programs disturb those
less; where processes are to share the work, and where time is spent waiting, the clock on the wall counts. It needs a
machine that does nothing else; what it would show there can be told from CPU time on any (`shared_seconds`).
"""

import resource
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

Clock = Callable[[], float]
Slice = Callable[[int], None]  # makes a number of batches
wall_seconds: Clock = time.perf_counter


class Row(NamedTuple):
    """A row of the table: what is measured, what was found, and what it should be."""

    what: str
    measured: str
    target: str = ""


def cpu_seconds() -> float:
    return sum(_usages())


def shared_seconds() -> float:
    """What two worker processes would take on two free cores: half of what they use, and all that this process does alone."""
    alone, shared = _usages()
    return alone + shared / 2


def _usages() -> tuple[float, float]:
    """CPU seconds of this process, and of the children that it has waited for."""
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime, children.ru_utime + children.ru_stime


def seconds(run: Callable[[], object], clock: Clock = cpu_seconds) -> float:
    started = clock()
    run()
    return clock() - started


def per_batch(run: Slice, steps: int, clock: Clock = cpu_seconds) -> float:
    """Seconds of a batch, without what the run takes however short it is."""
    short, long = (seconds(lambda count=count: run(count), clock) for count in (steps // 4, steps))
    return (long - short) / (steps - steps // 4)


def ratio(measured: Callable[[], float], reference: Callable[[], float], rounds: int) -> float:
    """What `measured` takes over what `reference` takes: the median of slices between two of the reference."""
    found = []
    before = reference()
    for _ in range(rounds):
        mine = measured()
        after = reference()
        found.append(2 * mine / (before + after))
        before = after
    return statistics.median(found)
