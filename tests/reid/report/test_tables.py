"""reid/report/tables.py: the same numbers in every dress, the label of synthetic data, and nothing that breaks out."""

import json

import numpy as np
import pytest
from rich.console import Console

from reid.evaluation.metrics import Labels, evaluate
from reid.report.tables import Table, as_numbers, percent, results
from reid.types import Direction


@pytest.fixture
def both():
    """Two identities, three queries, of which the last has no match; a perfect ranking and a reversed one."""
    query, gallery = (
        Labels(np.array([1, 2, 9]), np.array([1, 1, 1])),
        Labels(np.array([1, 2]), np.array([2, 2])),
    )
    perfect = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    return {
        Direction.INFRARED_TO_VISIBLE: evaluate(perfect, query, gallery),
        Direction.VISIBLE_TO_INFRARED: evaluate(-perfect, query, gallery),
    }


def printed(table: Table) -> str:
    console = Console(width=80, record=True, file=None, force_terminal=False)
    with console.capture() as capture:
        console.print(table.terminal())
    return capture.get()


def test_the_table_shows_both_directions_and_chance_in_percent(both):
    text = printed(results(both, protocol="six frames", synthetic=False))
    assert [line.split()[3:] for line in text.splitlines() if "nfrared" in line and "." in line] == [
        ["100.0", "100.0", "100.0", "100.0", "100.0", "100.0"],
        ["0.0", "100.0", "100.0", "100.0", "50.0", "50.0"],
    ]
    assert text.count("by chance") == 2
    assert text.split("Mean")[1].split()[:6] == ["50.0", "100.0", "100.0", "100.0", "75.0", "75.0"]
    assert "50.0" in text.split("by chance")[1].split()[0]
    assert "Protocol: six frames." in text
    assert "2 and 2 queries; 2 without a match" in text


@pytest.mark.parametrize("synthetic", [True, False])
def test_synthetic_data_is_called_so_wherever_it_is_shown(both, synthetic):
    table = results(both, protocol="p", synthetic=synthetic)
    for text in (printed(table), table.markdown(), table.latex()):
        assert ("SYNTHETIC" in text) == synthetic
    assert as_numbers(both, protocol="p", synthetic=synthetic)["synthetic"] is synthetic


def test_numbers_for_json_are_fractions_and_plain(both):
    numbers = json.loads(json.dumps(as_numbers(both, protocol="p", synthetic=True), allow_nan=False))
    backward = numbers["directions"]["visible_to_infrared"]
    assert (backward["rank1"], backward["rank5"], backward["map"], backward["minp"]) == (0.0, 1.0, 0.5, 0.5)
    assert backward["chance"]["rank1"] == 0.5
    assert numbers["mean"]["map"] == 0.75
    assert (backward["num_queries"], backward["num_skipped"], backward["num_removed_pairs"]) == (2, 1, 0)


def test_markdown_is_a_table_of_equal_columns(both):
    lines = [
        line
        for line in results(both, protocol="p", synthetic=False).markdown().splitlines()
        if line.startswith("|")
    ]
    assert {line.count("|") for line in lines} == {8}
    assert len(lines) == 7


def test_text_cannot_break_out_of_its_cell():
    table = Table("a_b|c", ("x",), (("<b>|`[red]`",), ("50 % & {x}\\",)), ("note\nof *two* lines",))
    assert r"\<b\>\|\`\[red\]\`" in table.markdown()
    assert r"50 \% \& \{x\}\textbackslash{}" in table.latex()
    assert "% note\n% of *two* lines" in table.latex()
    assert "[red]" in printed(table)


@pytest.mark.parametrize(
    ("fraction", "text"), [(0.6531, "65.3"), (1.0, "100.0"), (0.00049, "0.0"), (float("nan"), "nan")]
)
def test_percent(fraction, text):
    assert percent(fraction) == text


def test_a_title_that_is_wider_than_its_table_stays_on_one_line():
    title = "Who looks like that infrared person on SYNTHETIC data"
    assert printed(Table(title, ("rank", "cosine"), (("1", "0.5"),))).splitlines()[0].rstrip() == title
