"""reid/commands/printing.py: text in a file keeps its lines, and tables stand apart."""

import pytest

from reid.commands import printing
from reid.report.tables import Table

WIDE = Table("Wide", ("", *"abcdef"), (("Baseline+ASAM+ADM+FRM-STIG", *["19.4 (14.0)"] * 6),))


def test_a_row_that_is_wider_than_80_characters_is_one_line_of_a_file(capsys, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    printing.tables([WIDE], "terminal")
    (row,) = (line for line in capsys.readouterr().out.splitlines() if "Baseline" in line)
    assert len(row) > 80
    assert row.count("19.4 (14.0)") == 6


def test_who_names_a_width_gets_it(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    printing.tables([WIDE], "terminal")
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 60


@pytest.mark.parametrize("count", [1, 2])
def test_an_empty_line_stands_between_tables_only(capsys, count):
    printing.tables([Table("One", ("", "a"), (("row", "1"),), ("The end.",))] * count, "terminal")
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == "One"
    assert lines[-1] == "The end."
    assert [lines[i - 1] for i, line in enumerate(lines) if line == "One"][1:] == [""] * (count - 1)
