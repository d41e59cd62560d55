"""reid/report/experiment.py: rows and curves with the numbers of a hand, and the paper's only where they can be compared."""

import json

import numpy as np
import pytest

from preprocess import vcm
from reid.report.experiment import VCM, Curve, Results, Row
from reid.tracking import names
from reid.tracking.runs import Summary
from reid.types import Direction

I2V, V2I = Direction.INFRARED_TO_VISIBLE, Direction.VISIBLE_TO_INFRARED
PAPER = {I2V: (58.05, 72.45, 78.49, 83.90, 43.23), V2I: (61.01, 74.98, 80.41, 83.92, 45.59)}


@pytest.fixture
def trial(tmp_path):
    """Makes the summary of a trial."""

    def made(name, rank1, *, synthetic=True, dataset="hitsz-vcm", status="FINISHED"):
        return Summary(
            tmp_path / name,
            name=name,
            status=status,
            params={"dataset": dataset},
            tags={"synthetic": str(synthetic)},
            metrics={
                key: rank1 / scale
                for direction, scale in ((I2V, 1), (V2I, 2))
                for key in (names.first_rank(direction), names.mean_average_precision(direction))
            },
        )

    return made


def test_the_paper_stands_below_our_row_only_where_the_data_is_the_papers(trial):
    def tables(**kind):
        row = Row("Baseline", [trial("a-0", 0.5, **kind), trial("a-1", 0.6, **kind)], PAPER)
        return Results("table1", "Table 1", [row], missing=["full"]).tables()

    for shown, numbers in zip(tables(synthetic=False), PAPER.values(), strict=True):
        assert shown.rows[1][2:7] == tuple(f"{number:.2f}" for number in numbers)
        assert shown.faint == {1}
        assert any("arXiv 2307.03903" in note for note in shown.notes)
    for kind in ({"synthetic": True}, {"synthetic": False, "dataset": "buptcampus"}):
        first, second = tables(**kind)
        assert len(first.rows) == len(second.rows) == 1
        assert not any("arXiv" in note for note in first.notes)
        assert first.title.endswith("SYNTHETIC data") == kind["synthetic"]
        assert first.rows[0][:3] == ("Baseline", "2", "55.0 (7.1)")
        assert second.rows[0][2] == "27.5 (3.5)"
        assert "Not begun: full." in first.notes
    assert vcm.DATASET == VCM


def test_a_trial_that_did_not_finish_is_named_and_not_counted(trial):
    row = Row("Baseline", [trial("a-0", 0.5), trial("a-1", 0.9, status="KILLED")], {})
    table, _ = Results("table1", "Table 1", [row]).tables()
    assert table.rows[0][1:3] == ("1", "50.0")
    assert table.notes[-1] == "Not finished, and left out: a-1."


def test_a_curve_has_a_point_for_every_value_that_was_trained(trial):
    trials = {9.0: [trial("c-0", 0.2)], 0.1: [trial("a-0", 0.4), trial("a-1", 0.6)], 1.0: []}
    results = Results("figure8", "Figure 8", [], [Curve("λ1", trials, 1.0), Curve("λ2", {1.0: []}, None)])
    (picture,) = results.pictures()
    figure = picture.draw()
    assert "SYNTHETIC" not in figure.get_suptitle()  # no row says what the data is
    upper, lower = figure.axes
    for axes, scale in ((upper, 1), (lower, 2)):
        rank1 = axes.get_lines()[0]
        np.testing.assert_allclose(rank1.get_xdata(), [0.1, 9])
        np.testing.assert_allclose(rank1.get_ydata(), np.array([0.5, 0.2]) / scale)
        band = axes.collections[0].get_paths()[0].get_extents()
        half = np.std([0.4, 0.6], ddof=1) / scale
        assert band.y0 <= 0.5 / scale - half + 1e-9
        assert band.y1 == pytest.approx(0.5 / scale + half)
        (chosen,) = [line for line in axes.get_lines() if line.get_linestyle() == "--"]
        assert list(chosen.get_xdata()) == [1.0, 1.0]


def test_results_are_files_for_people_and_for_papers(trial, tmp_path):
    trials = [trial("lambda1-1-0", 0.5)]
    results = Results(
        "figure8", "Figure 8", [Row("lambda1 = 1", trials, {})], [Curve("λ1", {1.0: trials}, 1.0)]
    )
    files = results.write(tmp_path)
    assert [file.name for file in files] == ["figure8.md", "figure8.tex", "figure8.png", "figure8.pdf"]
    assert "| lambda1 = 1 | 1 | 50.0 |" in files[0].read_text()
    assert files[1].read_text().count(r"\toprule") == 2
    assert [file.read_bytes()[:4] for file in files[2:]] == [b"\x89PNG", b"%PDF"]
    (picture,) = results.pictures()
    assert "SYNTHETIC" in picture.draw().get_suptitle()


def test_records_hold_fractions_and_the_numbers_of_the_paper_as_printed(trial):
    row = Row("Baseline", [trial("a-0", 0.5, synthetic=False)], PAPER)
    (record,) = json.loads(json.dumps(Results("table1", "Table 1", [row]).as_records()))
    assert record["mean"][names.first_rank(I2V)] == 0.5
    assert record["paper"][I2V][0] == 58.05
    (record,) = Results("table1", "Table 1", [row._replace(trials=[trial("a-0", 0.5)])]).as_records()
    assert "paper" not in record
