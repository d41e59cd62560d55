"""Pictures of a run, as pure functions of arrays: each returns a figure, and `save` writes it.

    pictures of clips and identities -> retrieval_sheet          who was found, right or wrong
    Retrieval of each direction      -> cmc_curves               how often within the first k
    distances of pairs               -> distance_histograms      how far positives and negatives stand apart
    points of a journal              -> training_curves          how the run went, stage by stage

Pictures are uint8 (H, W, 3), red first. Right and wrong differ in colour and in sign, so that no one has to see red.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from reid.evaluation.metrics import Retrieval
from reid.report.tables import labelled, percent, title_of
from reid.tracking import names
from reid.types import Direction

RIGHT, WRONG, QUIET = "#1a8a3a", "#d1242f", "#8a8f98"
LINES = (
    "#0b62a4",
    "#e07b00",
    "#1a8a3a",
    "#9a4cc2",
    "#d1242f",
    "#5f6b7a",
    "#00a3a3",
    "#b8860b",
)  # told apart by most eyes
DOTS_PER_INCH = 110
NOBODY = -1

Pictures = NDArray[np.uint8]
Numbers = NDArray[np.floating]
Series = Mapping[str, tuple[NDArray[np.int64], Numbers]]


class Panel(NamedTuple):
    """Q queries, each with the first R answers of its ranking.

    Rankings shorter than R are filled with the identity NOBODY. `similarity` are cosines.
    """

    title: str
    queries: Pictures  # (Q, H, W, 3)
    query_identity: NDArray[np.integer]  # (Q,)
    answers: Pictures  # (Q, R, H, W, 3)
    answer_identity: NDArray[np.integer]  # (Q, R)
    similarity: Numbers  # (Q, R)


def save(figure: Figure, path: Path) -> None:
    """Write a PNG; equal figures give equal bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", dpi=DOTS_PER_INCH, metadata={"Software": None})


def retrieval_sheet(panels: Sequence[Panel], *, synthetic: bool, columns: int = 1) -> Figure:
    """Queries and what was found for them. Panels, one a direction or a variant, fill `columns` from left to right."""
    rows = -(-len(panels) // columns)
    sizes = [_sheet_size(panel) for panel in panels]
    width, height = max(w for w, _ in sizes), max(h for _, h in sizes)
    with _style():
        figure = Figure(figsize=(0.72 * width * columns, 0.72 * height * rows + 0.5), layout="constrained")
        figure.suptitle(labelled("What was found first", synthetic))
        grid = np.ravel(figure.subplots(rows, columns, squeeze=False))
        for axes, panel in zip(grid, panels, strict=False):
            _draw_panel(axes, panel)
        for axes in grid[len(panels) :]:
            axes.axis("off")
    return figure


def cmc_curves(
    runs: Mapping[str, Mapping[Direction, Retrieval]], *, synthetic: bool, max_rank: int = 20
) -> Figure:
    """Rank-k against k, a panel a direction and a line a run; random guessing is dashed."""
    with _style():
        figure = Figure(figsize=(9.5, 4.4 + 0.2 * len(runs)), layout="constrained")
        figure.suptitle(labelled("Cumulative matching", synthetic))
        for axes, direction in zip(figure.subplots(1, 2, sharey=True), Direction, strict=True):
            ranks = np.arange(1, max_rank + 1)
            for color, (name, results) in zip(_colors(len(runs)), runs.items(), strict=True):
                result = results[direction]
                label = f"{name}: Rank-1 {percent(result.rank(1))}, mAP {percent(result.map)}"
                axes.plot(
                    ranks[: len(result.cmc)],
                    result.cmc[:max_rank],
                    color=color,
                    marker="o",
                    ms=3,
                    label=label,
                )
            chance = result.chance.cmc[:max_rank]
            label = f"by chance: Rank-1 {percent(float(chance[0]))}, mAP {percent(result.chance.map)}"
            axes.plot(ranks[: len(chance)], chance, color=QUIET, ls="--", label=label)
            axes.set(title=title_of(direction), xlabel="rank k", xlim=(0.5, max_rank + 0.5), ylim=(0, 1.02))
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.yaxis.set_major_formatter(PercentFormatter(1.0))
            axes.legend(loc="upper left", bbox_to_anchor=(0, -0.14))
        figure.axes[0].set_ylabel("queries with a match within rank k")
    return figure


def distance_histograms(pairs: Mapping[str, tuple[Numbers, Numbers]], *, synthetic: bool) -> Figure:
    """Cosine distances of positive and of negative pairs, a panel each entry (within a modality, or across).

    The title of a panel says how often a random positive pair is closer than a random negative one; 50 % is chance.
    """
    with _style():
        figure = Figure(figsize=(8, 1.9 * len(pairs) + 0.9), layout="constrained")
        figure.suptitle(labelled("Distances between clips", synthetic))
        every = np.concatenate([distances for both in pairs.values() for distances in both])
        bins = np.linspace(every.min(), every.max() + 1e-6, 61)
        panels = np.ravel(figure.subplots(len(pairs), 1, sharex=True, squeeze=False))
        for axes, (title, (positives, negatives)) in zip(panels, pairs.items(), strict=True):
            for distances, color, label in (
                (positives, RIGHT, "same person"),
                (negatives, WRONG, "other person"),
            ):
                axes.hist(
                    distances,
                    bins,
                    density=True,
                    color=color,
                    alpha=0.35,
                    label=f"{label} ({len(distances):,} pairs)",
                )
                axes.hist(distances, bins, density=True, color=color, histtype="step", lw=1.2)
                axes.axvline(float(np.median(distances)), color=color, lw=1, ls=":")
            axes.set_title(
                f"{title}: a positive is closer than a negative in {percent(separation(positives, negatives))} %"
            )
            axes.set(ylabel="density", yticks=[])
            axes.legend(loc="upper right")
        panels[-1].set_xlabel("cosine distance, 1 - cosine (dotted: median)")
    return figure


def separation(positives: Numbers, negatives: Numbers) -> float:
    """Fraction of (positive, negative) pairs of distances in which the positive is smaller; ties count half."""
    ordered = np.sort(negatives)
    smaller = np.searchsorted(ordered, positives, side="left")
    not_larger = np.searchsorted(ordered, positives, side="right")
    return float(1 - np.mean((smaller + not_larger) / 2) / len(negatives))


def training_curves(series: Series, *, synthetic: bool, title: str, stages: Sequence[int] = ()) -> Figure:
    """Losses, scores, learning rate and speed of a journal against the step; `stages` are steps where a stage begins."""
    scores = [score(direction) for direction in Direction for score in (_rank1, names.mean_average_precision)]
    terms = [names.objective(term) for term in names.TERMS]
    with _style():
        figure = Figure(figsize=(11, 7), layout="constrained")
        figure.suptitle(labelled(title, synthetic))
        losses, found, rate, speed = np.ravel(figure.subplots(2, 2, sharex=True))
        _draw_series(losses, series, [names.Metric.LOSS, *terms], "loss", stages)
        _draw_series(found, series, scores, "retrieval on the test split", stages)
        _draw_series(rate, series, [names.Metric.LEARNING_RATE], "learning rate", stages)
        _draw_series(speed, series, [names.Metric.CLIPS_PER_SECOND], "clips a second", stages)
        found.yaxis.set_major_formatter(PercentFormatter(1.0))
        for axes in (found, rate, speed):
            axes.set_ylim(0, None)
        for axes in (rate, speed):
            axes.set_xlabel("step")
    return figure


def _rank1(direction: Direction) -> str:
    return names.rank(direction, 1)


def _draw_series(axes: Axes, series: Series, keys: Sequence[str], label: str, stages: Sequence[int]) -> None:
    drawn = [key for key in keys if key in series]
    for color, key in zip(_colors(len(drawn)), drawn, strict=True):
        steps, values = series[key]
        marker = "o" if len(steps) <= 30 else ""
        axes.plot(steps, values, color=color, label=key, lw=2 if key == keys[0] else 1.2, marker=marker, ms=3)
    for number, step in enumerate(stages, start=2):
        axes.axvline(step, color=QUIET, lw=1, ls="--")
        axes.text(step, 0.98, f" stage {number}", color=QUIET, va="top", transform=axes.get_xaxis_transform())
    axes.set_title(label)
    if drawn:
        axes.legend(loc="best")
    else:
        axes.text(
            0.5, 0.5, "nothing was measured", color=QUIET, ha="center", va="center", transform=axes.transAxes
        )


GAP, CAPTION, HEADING, AFTER_QUERY = 0.16, 0.42, 0.5, 0.35  # in widths of one picture


def _sheet_size(panel: Panel) -> tuple[float, float]:
    """Width and height of a panel in widths of one picture."""
    num_queries, height, width = panel.queries.shape[:3]
    return (1 + panel.answers.shape[1]) * (1 + GAP) + AFTER_QUERY, num_queries * (
        height / width + CAPTION
    ) + HEADING


def _draw_panel(axes: Axes, panel: Panel) -> None:
    tall = panel.queries.shape[1] / panel.queries.shape[2]
    num_answers = panel.answers.shape[1]
    left = [0.0, *(1 + GAP + AFTER_QUERY + r * (1 + GAP) for r in range(num_answers))]
    for column, name in enumerate(["query", *(f"rank {r + 1}" for r in range(num_answers))]):
        axes.text(left[column] + 0.5, -0.12, name, ha="center", va="bottom", color=QUIET)
    for q, person in enumerate(panel.query_identity):
        top = q * (tall + CAPTION)
        _draw_picture(axes, panel.queries[q], left[0], top, f"person {person}", "black")
        for r, found in enumerate(panel.answer_identity[q]):
            if found != NOBODY:
                sign, color = ("✓", RIGHT) if found == person else ("✗", WRONG)
                caption = f"{sign} {panel.similarity[q, r]:.2f}"
                _draw_picture(axes, panel.answers[q, r], left[r + 1], top, caption, color)
    width, height = _sheet_size(panel)
    axes.set(xlim=(-GAP, width), ylim=(height - HEADING, -HEADING), aspect="equal")
    num_right = int(np.sum(panel.answer_identity[:, 0] == panel.query_identity))
    axes.set_title(f"{panel.title}: {num_right} of {len(panel.queries)} right at rank 1", pad=4)
    axes.axis("off")


def _draw_picture(axes: Axes, picture: Pictures, left: float, top: float, caption: str, color: str) -> None:
    tall = picture.shape[0] / picture.shape[1]
    axes.imshow(picture, extent=(left, left + 1, top + tall, top), interpolation="antialiased")
    axes.add_patch(Rectangle((left, top), 1, tall, fill=False, ec=color, lw=2.4, joinstyle="miter"))
    axes.text(left + 0.5, top + tall + 0.06, caption, ha="center", va="top", color=color, fontsize=8)


def _colors(count: int) -> list[str]:
    return [LINES[i % len(LINES)] for i in range(count)]


def _style() -> AbstractContextManager[Any]:
    return mpl.rc_context(
        {
            "font.size": 9,
            "figure.titlesize": 12,
            "figure.titleweight": "bold",
            "axes.titlesize": 10,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "axes.axisbelow": True,
            "grid.color": "#e6e8eb",
            "legend.frameon": False,
            "legend.fontsize": 8,
        }
    )
