"""How far a command is: a bar on a terminal, else a plain line every half minute, both on stderr."""

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from rich import progress as bars
from rich.console import Console

LINE_SECONDS = 30.0

log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
Show = Callable[[str, str], AbstractContextManager[Progress]]


@contextmanager
def shown(title: str, unit: str) -> Iterator[Progress]:
    """Something to tell (done, total) to, as often as one likes; the total may be told late."""
    if sys.stderr.isatty():
        with _bar(title, unit) as progress:
            yield progress
    else:
        yield _lines(title, unit)


def silent(done: int, total: int) -> None:
    """Hears progress and shows nothing."""


@contextmanager
def hidden(*_: str) -> Iterator[Progress]:
    """In place of `shown`, where nobody looks."""
    yield silent


@contextmanager
def _bar(title: str, unit: str) -> Iterator[Progress]:
    columns = (
        bars.TextColumn(title),
        bars.BarColumn(),
        bars.MofNCompleteColumn(),
        bars.TextColumn(unit),
        bars.TimeRemainingColumn(),
    )
    with bars.Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _lines(title: str, unit: str) -> Progress:
    started = last = time.monotonic()

    def line(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < LINE_SECONDS:
            return
        last = now
        rate = done / (now - started)
        left = f"{(total - done) / rate / 60:.0f} min left" if rate else "no end in sight"
        log.info("%s: %s of %s %s, %.0f a second, %s", title, f"{done:,}", f"{total:,}", unit, rate, left)

    return line
