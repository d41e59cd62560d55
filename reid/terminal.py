"""What a person at a terminal sees: something live below the log. Without a terminal, a plain line every half minute.

    render() -> Footer                     redrawn at the foot of the terminal; what is logged scrolls by above it
    advance(count) <- counted(title, ...)  a bar in a footer of its own, or lines

Nothing here has a thread: a footer is redrawn when its owner says so, and a fork in the middle of training finds no lock
held by anybody.
"""

import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

LINE_SECONDS = 30.0
REDRAW_SECONDS = 0.2
BAR_CHARACTERS = 30

log = logging.getLogger(__name__)


@cache
def console() -> "Console":
    """Standard error, as everything live sees it: one console, so that one footer can stand above another."""
    from rich.console import Console  # noqa: PLC0415  # help shall be there at once, and needs none

    return Console(stderr=True, highlight=False)


def speaks() -> bool:
    """Whether this process may print: the first of a launch, whose number the launcher leaves in the environment."""
    return os.environ.get("RANK", "0") == "0"


def is_watched() -> bool:
    """Whether standard error is a terminal that can move its cursor."""
    return console().is_interactive


class Footer:
    """What `render` makes, kept at the foot of the terminal; nothing where nobody watches. Vanishes at the end."""

    def __init__(self, render: "Callable[[], RenderableType]") -> None:
        self._render = render
        self._live: Live | None = None
        self._drawn = 0.0

    def __enter__(self) -> Self:
        if is_watched():
            from rich.live import Live  # noqa: PLC0415

            self._live = Live(
                console=console(),
                get_renderable=self._render,
                auto_refresh=False,
                transient=True,
                redirect_stdout=sys.stdout.isatty(),
            )
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def redraw(self) -> None:
        """Show what has changed. May be called as often as one likes."""
        now = time.monotonic()
        if self._live is not None and now - self._drawn >= REDRAW_SECONDS:
            self._drawn = now
            self._live.refresh()


def bar(done: int, total: int, before: str, after: str) -> "RenderableType":
    """A line: words, a bar, words."""
    from rich.progress_bar import ProgressBar  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    line = Table.grid(padding=(0, 2))
    line.add_row(before, ProgressBar(total=max(total, 1), completed=done, width=BAR_CHARACTERS), after)
    return line


def duration(seconds: float) -> str:
    """A time as one would say it: 42 s, 7 min, 3 h 05 min."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"


@contextmanager
def counted(title: str, total: int, unit: str, *, speaks: bool) -> Iterator[Callable[[int], None]]:
    """Something to tell how many more are done, as often as one likes. It shows nothing unless this process `speaks`."""
    done, began = 0, time.monotonic()
    told = began

    def words() -> tuple[str, str]:
        rate = done / max(time.monotonic() - began, 1e-9)
        left = f"{duration((total - done) / rate)} left" if done else ""
        speed = f"{rate:,.0f} a second" if rate >= 10 else f"{rate:.2g} a second"
        return f"{title} {done:,}/{total:,} {unit}", ", ".join(filter(None, [speed, left]))

    def advance(count: int) -> None:
        nonlocal done, told
        done += count
        footer.redraw()
        if speaks and not is_watched() and time.monotonic() - told >= LINE_SECONDS:
            told = time.monotonic()
            log.info("%s", ", ".join(words()))

    footer = Footer(lambda: bar(done, total, *words()))
    if not speaks:
        yield advance
        return
    with footer:
        yield advance
