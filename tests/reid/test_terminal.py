"""reid/terminal.py: a footer that neither tears the log nor outlives its work; without a terminal, a line now and then."""

import logging

import pytest

from reid import terminal as live
from reid.terminal import counted, duration

PROGRAM = """
import logging, sys, time
from reid.cli import _Lines
from reid.terminal import Footer, counted

logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[_Lines()])
outer = Footer(lambda: "the outer footer")
with outer:
    outer.redraw()
    logging.info("a line that is logged " + 2 * "and is long enough to need more than one row of the terminal ")
    with counted("embedding", 40, "clips", speaks=True) as advance:
        for _ in range(4):
            time.sleep(0.25)
            advance(10)
            print("a line that is printed")
            print("a line for standard error", file=sys.stderr)
    with counted("silent", 40, "clips", speaks=False) as advance:
        advance(40)
    outer.redraw()
print("the end")
"""


def test_lines_stay_whole_above_a_footer_in_a_footer_and_both_vanish(terminal):
    screen, code = terminal("-c", PROGRAM)
    assert code == 0
    kept = " ".join(screen.text)
    assert kept.startswith("a line that is logged and is long enough")
    assert kept.count("need more than one row of the terminal") == 2
    assert screen.text.count("a line that is printed") == 4
    assert screen.text.count("a line for standard error") == 4
    assert screen.text[-1] == "the end"
    assert "footer" not in kept
    drawn = [line for line in screen.erased if line.startswith("embedding")]
    assert any("20/40 clips" in line and "a second" in line and "left" in line for line in drawn)
    assert any("the outer footer" in line for line in screen.erased)
    assert not any("silent" in line or "a line" in line for line in screen.erased)


def test_without_a_terminal_there_is_a_line_now_and_then(monkeypatch, caplog):
    with caplog.at_level(logging.INFO), counted("embedding", 2000, "clips", speaks=True) as advance:
        advance(500)
        assert caplog.messages == []
        monkeypatch.setattr(live, "LINE_SECONDS", 0.0)
        advance(1000)
    (line,) = caplog.messages
    assert line.startswith("embedding 1,500/2,000 clips, ")
    assert line.endswith(" left")


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.2, "0 s"),
        (99, "99 s"),
        (100, "2 min"),
        (3600, "60 min"),
        (6000, "1 h 40 min"),
        (90_000, "25 h 00 min"),
    ],
)
def test_a_time_is_told_as_one_would_say_it(seconds, said):
    assert duration(seconds) == said
