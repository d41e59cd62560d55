"""reid/report/pictures.py: what is drawn is what was given, and the files are real pictures that say what they show."""

import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from reid.evaluation.metrics import Labels, evaluate
from reid.report.pictures import (
    NOBODY,
    RIGHT,
    WRONG,
    Panel,
    cmc_curves,
    distance_histograms,
    retrieval_sheet,
    save,
    separation,
    training_curves,
)
from reid.tracking import names
from reid.types import Direction


def panel(title="Infrared to visible", num_answers=3):
    rng = np.random.default_rng(0)
    identity = np.array([4, 7])
    answers = np.array([[4, 5, 4], [9, 7, NOBODY]])[:, :num_answers]
    return Panel(
        title,
        rng.integers(0, 256, (2, 8, 4, 3), dtype=np.uint8),
        identity,
        rng.integers(0, 256, (*answers.shape, 8, 4, 3), dtype=np.uint8),
        answers,
        np.linspace(0.9, 0.4, answers.size).reshape(answers.shape),
    )


def retrievals(quality):
    rng = np.random.default_rng(0)
    query, gallery = (Labels(rng.integers(0, 10, 50), np.full(50, camera)) for camera in (1, 2))
    similarity = rng.standard_normal((50, 50)) + quality * (query.identity[:, None] == gallery.identity)
    return dict.fromkeys(Direction, evaluate(similarity, query, gallery))


def texts(figure: Figure) -> str:
    found = figure.findobj(mpl.text.Text)
    return "\n".join(text.get_text() for text in found)


FIGURES = {
    "sheet": lambda synthetic: retrieval_sheet([panel()], synthetic=synthetic),
    "cmc": lambda synthetic: cmc_curves({"a run": retrievals(1)}, synthetic=synthetic),
    "distances": lambda synthetic: distance_histograms(
        {"Across": (np.array([0.1, 0.2]), np.array([0.9]))}, synthetic=synthetic
    ),
    "curves": lambda synthetic: training_curves({}, synthetic=synthetic, title="a run"),
}


@pytest.mark.parametrize("name", FIGURES)
def test_every_picture_names_synthetic_data_and_is_written_alike_twice(name, tmp_path):
    assert "SYNTHETIC" in texts(FIGURES[name](True))
    assert "SYNTHETIC" not in texts(FIGURES[name](False))
    for file in ("a.png", "b.png"):
        save(FIGURES[name](True), tmp_path / "pictures" / file)
    first, second = ((tmp_path / "pictures" / file).read_bytes() for file in ("a.png", "b.png"))
    assert first == second
    with Image.open(tmp_path / "pictures" / "a.png") as picture:
        assert np.asarray(picture).std() > 5


def test_a_sheet_marks_right_and_wrong_answers_and_shows_their_pictures():
    given_panel = panel()
    figure = retrieval_sheet([given_panel], synthetic=False)
    axes = figure.axes[0]
    borders = [to_hex(patch.get_edgecolor()) for patch in axes.patches if isinstance(patch, Rectangle)]
    assert borders == ["#000000", RIGHT, WRONG, RIGHT, "#000000", WRONG, RIGHT]
    np.testing.assert_array_equal(axes.images[0].get_array(), given_panel.queries[0])
    np.testing.assert_array_equal(axes.images[6].get_array(), given_panel.answers[1, 1])
    assert "Infrared to visible: 1 of 2 right at rank 1" in texts(figure)
    assert {"person 4", "person 7", "✓ 0.90", "✗ 0.80", "rank 3"} <= set(texts(figure).splitlines())


def test_sheets_of_several_variants_stand_side_by_side():
    figure = retrieval_sheet(
        [panel("Baseline"), panel("full"), panel("third", 2)], synthetic=False, columns=2
    )
    left, right, below = (axes.get_position() for axes in figure.axes[:3])
    assert "third: 1 of 2" in texts(figure)
    assert left.x0 < right.x0
    assert left.y0 > below.y0


def test_cmc_curves_are_those_of_the_retrieval_with_chance_beside_them():
    runs = {"weak": retrievals(0.5), "strong": retrievals(3)}
    figure = cmc_curves(runs, synthetic=False, max_rank=10)
    for axes, direction in zip(figure.axes, Direction, strict=True):
        weak, strong, chance = axes.lines
        np.testing.assert_array_equal(weak.get_ydata(), runs["weak"][direction].cmc[:10])
        np.testing.assert_array_equal(strong.get_ydata(), runs["strong"][direction].cmc[:10])
        np.testing.assert_array_equal(chance.get_ydata(), runs["weak"][direction].chance.cmc[:10])
        assert strong.get_xdata().tolist() == list(range(1, 11))
        assert f"Rank-1 {100 * runs['weak'][direction].rank(1):.1f}" in weak.get_label()


@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=8),
    st.lists(st.integers(0, 5), min_size=1, max_size=8),
)
def test_separation_is_the_fraction_of_pairs_in_order(positives, negatives):
    expected = np.mean([(p < n) + 0.5 * (p == n) for p in positives for n in negatives])
    assert separation(np.array(positives, float), np.array(negatives, float)) == pytest.approx(expected)


def test_distance_histograms_count_every_pair():
    rng = np.random.default_rng(0)
    positives, negatives = rng.normal(0.4, 0.1, 1000), rng.normal(0.9, 0.1, 2500)
    figure = distance_histograms(
        {"Within visible": (positives, negatives), "Across": (negatives, positives)}, synthetic=False
    )
    text = texts(figure)
    assert "same person (1,000 pairs)" in text
    assert "other person (2,500 pairs)" in text
    assert "Within visible: a positive is closer than a negative in 100.0 %" in text
    assert "Across: a positive is closer than a negative in 0.0 %" in text


def test_training_curves_show_losses_scores_rate_and_the_second_stage():
    steps = np.arange(0, 100, 10)
    rank1 = names.rank(Direction.INFRARED_TO_VISIBLE, 1)
    series = dict.fromkeys((names.Metric.LOSS, names.objective("def_tri"), rank1), (steps, steps / 100))
    figure = training_curves(series, synthetic=False, title="a run", stages=[50])
    losses, scores, rate, _ = figure.axes
    assert [line.get_label() for line in losses.lines[:2]] == ["train/loss", "train/def_tri"]
    assert scores.lines[0].get_label() == rank1
    np.testing.assert_array_equal(losses.lines[0].get_ydata(), steps / 100)
    assert losses.lines[2].get_xdata() == [50, 50]
    assert "stage 2" in texts(figure)
    assert "nothing was measured" in [text.get_text() for text in rate.texts]
