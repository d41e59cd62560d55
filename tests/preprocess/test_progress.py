"""Progress: a bar on a terminal, a plain line without one."""

import logging
import os
import pty
import subprocess
import sys

from preprocess import progress
from preprocess.progress import shown


def test_without_a_terminal_a_plain_line_comes_every_half_minute(monkeypatch, caplog):
    now = iter([0.0, 10.0, 31.0, 40.0, 62.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    caplog.set_level(logging.INFO)
    with shown("packing", "frames") as tell:
        for done in (1_000, 3_100, 4_000, 6_200):
            tell(done, 12_200)
    assert caplog.messages == [
        "packing: 3,100 of 12,200 frames, 100 a second, 2 min left",
        "packing: 6,200 of 12,200 frames, 100 a second, 1 min left",
    ]


def test_nothing_done_yet_promises_nothing(monkeypatch, caplog):
    now = iter([0.0, 31.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    caplog.set_level(logging.INFO)
    with shown("packing", "frames") as tell:
        tell(0, 10)
    assert caplog.messages == ["packing: 0 of 10 frames, 0 a second, no end in sight"]


def test_on_a_terminal_a_bar_shows_what_is_done_of_all():
    script = (
        "from preprocess.progress import shown\n"
        "with shown('packing', 'frames') as tell:\n    tell(190, 190)\n"
    )
    ours, theirs = pty.openpty()
    ran = subprocess.run([sys.executable, "-c", script], stderr=theirs, stdout=subprocess.PIPE, check=True)
    os.close(theirs)
    drawn = os.read(ours, 100_000).decode()
    os.close(ours)
    assert "packing" in drawn
    assert "190/190" in drawn
    assert ran.stdout == b""
