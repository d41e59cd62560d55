"""reid/report/charts.py: what is drawn is what was given, and it says what it shows."""

import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from reid.evaluation.metrics import Labels, evaluate
from reid.report.charts import (
    Map,
    Swept,
    cmc_curves,
    distance_histograms,
    embedding_maps,
    separation,
    swept_curves,
    training_curves,
)
from reid.report.rendering import LIGHT, LINES, style
from reid.tracking import names
from reid.types import Direction


def retrievals(quality):
    rng = np.random.default_rng(0)
    query, gallery = (Labels(rng.integers(0, 10, 50), np.full(50, camera)) for camera in (1, 2))
    similarity = rng.standard_normal((50, 50)) + quality * (query.identity[:, None] == gallery.identity)
    return dict.fromkeys(Direction, evaluate(similarity, query, gallery))


def a_map():
    points = np.arange(12.0).reshape(6, 2)
    return Map(points, np.array([1, 1, 2, 2, 3, 3]), np.array([True, False] * 3))


def texts(figure: Figure) -> str:
    found = figure.findobj(mpl.text.Text)
    return "\n".join(text.get_text() for text in found)


FIGURES = {
    "cmc": lambda synthetic: cmc_curves({"a run": retrievals(1)}, synthetic=synthetic),
    "distances": lambda synthetic: distance_histograms(
        {"a run": {"Across": (np.array([0.1, 0.2]), np.array([0.9]))}}, synthetic=synthetic
    ),
    "embeddings": lambda synthetic: embedding_maps({"a run": a_map()}, [1], synthetic=synthetic),
    "curves": lambda synthetic: training_curves({}, synthetic=synthetic, title="a run"),
}


@pytest.mark.parametrize("name", FIGURES)
def test_every_chart_names_synthetic_data(name):
    assert "SYNTHETIC" in texts(FIGURES[name](True))
    assert "SYNTHETIC" not in texts(FIGURES[name](False))


def test_cmc_curves_are_those_of_the_retrieval_with_chance_beside_them():
    runs = {"weak": retrievals(0.5), "_strong": retrievals(3)}
    figure = cmc_curves(runs, synthetic=False, max_rank=10)
    for axes, direction in zip(figure.axes, Direction, strict=True):
        weak, strong, chance = axes.lines
        assert axes.get_legend() is None
        np.testing.assert_array_equal(weak.get_ydata(), runs["weak"][direction].cmc[:10])
        np.testing.assert_array_equal(strong.get_ydata(), runs["_strong"][direction].cmc[:10])
        np.testing.assert_array_equal(chance.get_ydata(), runs["weak"][direction].chance.cmc[:10])
        assert strong.get_xdata().tolist() == list(range(1, 11))
    (legend,) = figure.legends
    shown = [text.get_text() for text in legend.get_texts()]
    (ahead, after), (mean, mean_after) = (
        [100 * score(runs["weak"][direction]) for direction in Direction]
        for score in (lambda found: found.rank(1), lambda found: found.map)
    )
    assert shown[0] == f"weak: Rank-1 {ahead:.1f} and {after:.1f}, mAP {mean:.1f} and {mean_after:.1f}"
    assert [text.split(":")[0] for text in shown] == ["weak", "_strong", "by chance"]
    colours = [line.get_color() for line in figure.axes[0].lines]
    assert [line.get_color() for line in legend.get_lines()] == colours


LONG_NAMES = (
    "vcm-2026-11-20-asam_adm_frm_stig_star-0-of-a-sweep",
    "vcm-2026-11-20-asam_adm_fr_e_ti-0-of-another",
)


@pytest.mark.parametrize("kind", ["cmc", "distances", "embeddings", "training"])
def test_long_names_of_runs_keep_to_their_places(kind):
    pairs = {"Across": (np.array([0.1, 0.2]), np.array([0.9]))}
    drawn = {
        "cmc": lambda: cmc_curves(dict.fromkeys(LONG_NAMES, retrievals(1)), synthetic=True),
        "distances": lambda: distance_histograms(dict.fromkeys(LONG_NAMES, pairs), synthetic=True),
        "embeddings": lambda: embedding_maps(dict.fromkeys(LONG_NAMES, a_map()), [1], synthetic=True),
        "training": lambda: training_curves({}, synthetic=True, title=f"Training of {'/'.join(LONG_NAMES)}"),
    }[kind]
    with style(LIGHT):
        figure = drawn()
        figure.draw_without_rendering()
    boxes = [
        text.get_window_extent()
        for text in figure.findobj(mpl.text.Text)
        if text.get_visible() and "vcm-2026" in text.get_text()
    ]
    assert boxes
    for i, box in enumerate(boxes):
        assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1
        assert figure.bbox.y0 <= box.y0 < box.y1 <= figure.bbox.y1
        assert not any(box.overlaps(other) for other in boxes[i + 1 :])


@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=8),
    st.lists(st.integers(0, 5), min_size=1, max_size=8),
)
def test_separation_is_the_fraction_of_pairs_in_order(positives, negatives):
    expected = np.mean([(p < n) + 0.5 * (p == n) for p in positives for n in negatives])
    assert separation(np.array(positives, float), np.array(negatives, float)) == pytest.approx(expected)


def test_distance_histograms_count_every_pair_of_every_run():
    rng = np.random.default_rng(0)
    positives, negatives = rng.normal(0.4, 0.1, 1000), rng.normal(0.9, 0.1, 2500)
    figure = distance_histograms(
        {
            "good": {"Within visible": (positives, negatives), "Across": (positives, negatives)},
            "bad": {"Across": (negatives, positives)},
        },
        synthetic=False,
    )
    text = texts(figure)
    assert "Within visible: 100.0 % in order\n1,000 and 2,500 pairs" in text
    assert "Across: 0.0 % in order\n2,500 and 1,000 pairs" in text
    assert [axes.get_ylabel() for axes in figure.axes] == ["good", "", "bad", ""]
    assert [axes.axison for axes in figure.axes] == [True, True, False, True]
    assert len({axes.get_xlim() for axes in figure.axes}) == 1


def test_a_map_shows_every_clip_in_both_panels_and_some_people_in_colours():
    found = a_map()
    figure = embedding_maps({"one": found, "two": found}, [1, 3], synthetic=False)
    left, right = figure.axes[:2]
    for axes in (left, right):
        drawn = np.concatenate([dots.get_offsets() for dots in axes.collections])
        np.testing.assert_array_equal(drawn[drawn[:, 0].argsort()], found.points)
    colours = {
        to_hex(dots.get_facecolor()[0]): dots.get_offsets().tolist()
        for dots in left.collections
        if len(dots.get_offsets())
    }
    assert colours[LINES[0]] == [found.points[1].tolist()]  # the infrared clip of person 1, drawn last
    assert colours[LINES[1]] == [found.points[5].tolist()]
    assert [axes.get_title() for axes in figure.axes] == [
        "one: by person",
        "one: by light",
        "two: by person",
        "two: by light",
    ]
    assert "person 3" in texts(figure)


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


@pytest.mark.parametrize("boundary", [100, 500, 990])
def test_neither_a_legend_nor_the_name_of_a_stage_covers_anything(boundary):
    steps = np.arange(0, 1001, 10)
    keys = [names.Metric.LOSS, *map(names.objective, names.TERMS), names.Metric.LEARNING_RATE]
    keys += [score(d) for d in Direction for score in (names.first_rank, names.mean_average_precision)]
    series = dict.fromkeys(keys, (steps, steps / 1000))
    with style(LIGHT):
        figure = training_curves(series, synthetic=False, title="a run", stages=[boundary])
        figure.draw_without_rendering()
    for axes in figure.axes:
        (stage,) = [text for text in axes.texts if text.get_text() == "stage 2"]
        title = next(text for text in (axes._left_title, axes.title) if text.get_text())
        inside = axes.patch.get_window_extent()
        assert not stage.get_window_extent().overlaps(title.get_window_extent())
        assert not stage.get_window_extent().overlaps(inside)
        if legend := axes.get_legend():
            assert not legend.get_window_extent().overlaps(inside)
            assert figure.bbox.x0 <= legend.get_window_extent().x0
            assert legend.get_window_extent().x1 <= figure.bbox.x1


def test_the_ticks_of_scores_say_what_they_stand_for():
    series = {names.rank(Direction.INFRARED_TO_VISIBLE, 1): (np.array([1, 2]), np.array([0.012, 0.16]))}
    figure = training_curves(series, synthetic=False, title="a run")
    figure.draw_without_rendering()
    (axes,) = (axes for axes in figure.axes if axes.get_title(loc="left").startswith("retrieval"))
    told = [float(tick.get_text().rstrip("%")) for tick in axes.get_yticklabels()]
    np.testing.assert_allclose(told, 100 * axes.get_yticks())


def test_the_choice_of_the_paper_is_in_the_legend_whichever_curve_has_one():
    scores = {
        score(direction): (np.array([0.1, 0.2]), np.zeros(2))
        for direction in Direction
        for score in (names.first_rank, names.mean_average_precision)
    }
    curves = [
        Swept(label, np.array([1.0, 2.0]), scores, chosen) for label, chosen in (("a", None), ("b", 1.0))
    ]
    (legend,) = swept_curves(curves, title="Two", synthetic=False).legends
    assert [text.get_text() for text in legend.get_texts()] == ["Rank-1", "mAP", "the paper's choice"]
