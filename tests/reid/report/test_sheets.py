"""reid/report/sheets.py: photographs stand where they belong, and are marked right or wrong as they are."""

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from reid.report.rendering import RIGHT, WRONG
from reid.report.sheets import (
    NOBODY,
    UNKNOWN,
    Attended,
    Panel,
    Ranking,
    Seen,
    attention_sheet,
    batch_sheet,
    overlaid,
    retrieval_sheet,
)

BLACK = "#000000"


def photographs(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*shape, 8, 4, 3), dtype=np.uint8)


def ranking(label: str = "a run", rank: tuple[int, ...] = (1, 2, 3)) -> Ranking:
    identity = np.array([[4, 5, 4], [9, 7, NOBODY]])
    similarity = np.linspace(0.9, 0.4, 6).reshape(2, 3)
    return Ranking(label, photographs(2, 3), identity, similarity, np.tile(rank, (2, 1)))


def panel(*rankings: Ranking, ends_right: bool = False) -> Panel:
    rankings = rankings or (ranking(),)
    return Panel("Infrared to visible", photographs(2, 3), np.array([4, 7]), rankings, ends_right)


def seen() -> Seen:
    pairs = np.arange(4)
    pictures = photographs(4), photographs(4)[::-1]
    return Seen(7, *pictures, pairs // 2 + 20, pairs + 1, pairs + 5, num_tracklets=2, augmentation="")


def attended(num: int = 2) -> list[Attended]:
    looks = np.zeros((3, 4, 2))
    looks[1, 0, 0] = 5.0
    return [
        Attended(f"clip {i}", photographs(3), {"baseline": looks, "full": looks[::-1]}) for i in range(num)
    ]


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(mpl.text.Text)]


def frames(figure: Figure) -> list[str]:
    patches = figure.axes[0].patches
    return [to_hex(patch.get_edgecolor()) for patch in patches if isinstance(patch, Rectangle)]


FIGURES = {
    "retrieval": lambda synthetic: retrieval_sheet(panel(), synthetic=synthetic),
    "attention": lambda synthetic: attention_sheet(attended(), synthetic=synthetic),
    "batch": lambda synthetic: batch_sheet(seen(), synthetic=synthetic),
}


@pytest.mark.parametrize("name", FIGURES)
def test_every_sheet_names_synthetic_data_and_fills_its_figure(name):
    assert any("SYNTHETIC" in text for text in texts(FIGURES[name](True)))
    figure = FIGURES[name](False)
    assert not any("SYNTHETIC" in text for text in texts(figure))
    axes = figure.axes[0]
    left, right = axes.get_xlim()
    bottom, top = axes.get_ylim()
    width, height = figure.get_size_inches()
    assert (right - left) / (bottom - top) == pytest.approx(width / height)  # no photograph is stretched
    for image in axes.images:
        x0, x1, y1, y0 = image.get_extent()
        assert left <= x0 < x1 <= right
        assert top <= y0 < y1 <= bottom
        assert (y1 - y0) / (x1 - x0) == pytest.approx(2)


def test_a_sheet_marks_right_and_wrong_answers_and_shows_their_photographs():
    given = panel()
    figure = retrieval_sheet(given, synthetic=False)
    assert frames(figure) == [BLACK, RIGHT, WRONG, RIGHT, BLACK, WRONG, RIGHT]
    images = [image.get_array() for image in figure.axes[0].images]
    np.testing.assert_array_equal(
        images[0], given.clips[0, 1]
    )  # the frame in the middle, then the whole clip
    for t in range(3):
        np.testing.assert_array_equal(images[1 + t], given.clips[0, t])
    np.testing.assert_array_equal(images[4], given.rankings[0].answers[0, 0])
    np.testing.assert_array_equal(images[-1], given.rankings[0].answers[1, 1])
    assert {"person 4", "person 7", "✓ 0.90", "✗ 0.80", "✓ 0.70", "rank 3"} <= set(texts(figure))


def test_several_runs_answer_the_same_query_in_rows_below_each_other():
    figure = retrieval_sheet(panel(ranking("baseline"), ranking("full")), synthetic=False)
    assert frames(figure)[:7] == [BLACK, RIGHT, WRONG, RIGHT, RIGHT, WRONG, RIGHT]
    assert texts(figure).count("baseline") == texts(figure).count("full") == 2
    answers = [image.get_extent() for image in figure.axes[0].images[4:10]]
    assert [answer[0] for answer in answers[:3]] == [answer[0] for answer in answers[3:]]
    assert answers[3][3] > answers[0][2]


@pytest.mark.parametrize("rank", [37, 3, 2])
def test_the_first_right_answer_of_a_failure_stands_apart_with_its_rank(rank):
    given = ranking(rank=(1, 2, rank))
    figure = retrieval_sheet(panel(given, ends_right=True), synthetic=False)
    assert "first right" in texts(figure)
    assert f"✓ rank {rank}" in texts(figure)
    assert "rank 3" not in texts(figure)
    second, third = (figure.axes[0].images[i].get_extent() for i in (5, 6))
    assert third[0] - second[1] > 0.5


def test_the_names_of_runs_in_rows_keep_to_their_rows():
    names = ("vcm-2026-11-20-asam_adm_frm_stig_star-0", "vcm-2026-11-20-asam_adm_fr_e_ti-0-of-a-sweep")
    for figure in (
        retrieval_sheet(panel(*map(ranking, names)), synthetic=False),
        attention_sheet(
            [one._replace(attention=dict.fromkeys(names, np.ones((3, 4, 2)))) for one in attended()],
            synthetic=False,
        ),
    ):
        figure.draw_without_rendering()
        shown = [text for text in figure.findobj(mpl.text.Text) if text.get_text().startswith("vcm")]
        boxes = [text.get_window_extent() for text in shown]
        assert len(boxes) == 4
        assert not any(box.overlaps(other) for i, box in enumerate(boxes) for other in boxes[i + 1 :])


def test_where_a_run_looks_nowhere_the_sheet_says_so():
    one, other = attended(2)
    nowhere = other._replace(attention={**other.attention, "full": np.zeros((3, 4, 2))})
    figure = attention_sheet([one, nowhere], synthetic=False)
    assert texts(figure).count("nothing above 0") == 1
    assert "nothing above 0" not in texts(attention_sheet([one], synthetic=False))


def test_attention_is_warm_where_it_is_greatest_and_the_clip_is_grey_below():
    (one,) = attended(1)
    shown = overlaid(one.clip, one.attention["baseline"])
    assert shown.shape == one.clip.shape
    tint = shown.astype(int) - one.clip.mean(axis=-1, keepdims=True) / 2
    redness = tint[..., 0] - tint[..., 2]
    assert np.unravel_index(redness[1].argmax(), (8, 4))[0] < 3
    assert redness[1].max() > 0 > redness[2].max()
    nowhere = overlaid(one.clip, np.zeros((3, 4, 2)))
    np.testing.assert_array_equal(nowhere[0], shown[0])


def test_who_is_unknown_is_neither_right_nor_wrong():
    given = ranking()._replace(identity=np.array([[UNKNOWN, 4, 5], [7, UNKNOWN, NOBODY]]))
    figure = retrieval_sheet(panel(given)._replace(identity=np.array([4, UNKNOWN])), synthetic=False)
    shown = texts(figure)
    assert [text for text in shown if text.endswith(("0.90", "0.80", "0.70", "0.60", "0.50"))] == [
        "0.90",
        "✓ 0.80",
        "✗ 0.70",
        "0.60",
        "0.50",
    ]
    assert {"person 4", "somebody"} <= set(shown)


def test_an_attention_sheet_has_the_clip_and_a_row_a_run():
    figure = attention_sheet(attended(), synthetic=False)
    images = [image.get_array() for image in figure.axes[0].images]
    assert len(images) == 2 * 3 * 3
    np.testing.assert_array_equal(images[0], attended()[0].clip[0])
    np.testing.assert_array_equal(
        images[4], overlaid(attended()[0].clip, attended()[0].attention["baseline"])[1]
    )
    assert texts(figure).count("full") == 2
    assert "clip 1" in texts(figure)


def test_a_batch_shows_each_person_with_visible_above_infrared():
    given = seen()
    figure = batch_sheet(given, synthetic=False)
    images = figure.axes[0].images
    for pair in range(4):
        visible, infrared = images[2 * pair], images[2 * pair + 1]
        np.testing.assert_array_equal(visible.get_array(), given.visible[pair])
        np.testing.assert_array_equal(infrared.get_array(), given.infrared[pair])
        assert visible.get_extent()[:2] == infrared.get_extent()[:2]
        assert visible.get_extent()[2] < infrared.get_extent()[3]
    assert texts(figure).count("person 20") == texts(figure).count("person 21") == 1
    assert {"camera 1", "camera 8", "The batch of step 7"} <= set(texts(figure))
