"""Charts of runs, as pure functions of numbers: each returns a figure.

    Retrieval of each direction -> cmc_curves            how often within the first k
    distances of pairs          -> distance_histograms   how far positives and negatives stand apart
    points in the plane         -> embedding_maps        who lies beside whom, and which light beside which
    points of a journal         -> training_curves       how the run went, stage by stage
    scores by a number          -> swept_curves          what a key of the configuration does to retrieval

Scores are fractions, and percent where they are shown.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from reid.evaluation.metrics import Retrieval
from reid.report.rendering import LINES, QUIET, RIGHT, WRONG
from reid.report.tables import labelled, percent, shortened, title_of
from reid.tracking import names
from reid.types import Direction

Numbers = NDArray[np.floating]
Series = Mapping[str, tuple[NDArray[np.int64], Numbers]]
Pairs = Mapping[str, tuple[Numbers, Numbers]]

VISIBLE, INFRARED = LINES[1], LINES[0]
LONG, SHORT = 60, 26  # characters of a name: in a line of its own, and along the side of a panel


class Map(NamedTuple):
    """N clips in the plane, and who is seen in which light."""

    points: Numbers  # (N, 2)
    identity: NDArray[np.integer]  # (N,)
    is_visible: NDArray[np.bool_]  # (N,)


class Swept(NamedTuple):
    """A number of the configuration and V values of it, ascending; scores by their name: mean and deviation, NaN if unknown."""

    label: str
    values: Numbers  # (V,)
    scores: Mapping[str, tuple[Numbers, Numbers]]  # (V,), (V,)
    chosen: float | None
    """The value of the paper."""


def cmc_curves(
    runs: Mapping[str, Mapping[Direction, Retrieval]], *, synthetic: bool, max_rank: int = 20
) -> Figure:
    """Rank-k against k, a panel a direction and a line a run; random guessing is dashed.

    The legend below names each run once, with Rank-1 and mAP in the order of the panels.
    """
    figure = Figure(figsize=(9.5, 3.9 + 0.2 * len(runs)), layout="constrained")
    figure.suptitle(labelled("Cumulative matching", synthetic))
    lines = [Line2D([], [], color=color, marker="o", ms=3) for color in _colors(len(runs))]
    labels = [
        _legend_line(shortened(name, LONG), [(each.rank(1), each.map) for each in results.values()])
        for name, results in runs.items()
    ]
    for axes, direction in zip(figure.subplots(1, 2, sharey=True), Direction, strict=True):
        ranks = np.arange(1, max_rank + 1)
        for line, results in zip(lines, runs.values(), strict=True):
            curve = results[direction].cmc[:max_rank]
            axes.plot(ranks[: len(curve)], curve, color=line.get_color(), marker="o", ms=3)
        chance = next(iter(runs.values()))[direction].chance.cmc[:max_rank]
        axes.plot(ranks[: len(chance)], chance, color=QUIET, ls="--")
        axes.set(title=title_of(direction), xlabel="rank k", xlim=(0.5, max_rank + 0.5), ylim=(0, 1.02))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    figure.axes[0].set_ylabel("queries with a match within rank k")
    guesses = [each.chance for each in next(iter(runs.values())).values()]
    lines.append(Line2D([], [], color=QUIET, ls="--"))
    labels.append(_legend_line("by chance", [(float(guess.cmc[0]), guess.map) for guess in guesses]))
    title = "Rank-1 and mAP, left and right"
    figure.legend(lines, labels, loc="outside lower center", title=title, title_fontsize=8)
    return figure


def _legend_line(name: str, scores: Sequence[tuple[float, float]]) -> str:
    """A name, and Rank-1 and mAP of each direction."""
    rank1, mean = (" and ".join(map(percent, each)) for each in zip(*scores, strict=True))
    return f"{name}: Rank-1 {rank1}, mAP {mean}"


def distance_histograms(runs: Mapping[str, Pairs], *, synthetic: bool) -> Figure:
    """Cosine distances of positive and of negative pairs: a row a run, a panel an entry (within a modality, or across).

    The title of a panel says how often a random positive pair is closer than a random negative one; 50 % is chance.
    """
    titles = list(dict.fromkeys(title for pairs in runs.values() for title in pairs))
    figure = Figure(figsize=(9.5, 2.2 * len(runs) + 0.9), layout="constrained")
    figure.suptitle(labelled("Distances between clips", synthetic))
    grid = figure.subplots(len(runs), len(titles), sharex=True, squeeze=False)
    everything = [distances for pairs in runs.values() for both in pairs.values() for distances in both]
    lowest, highest = min(d.min() for d in everything), max(d.max() for d in everything)
    bins = np.linspace(lowest, highest + 1e-6, 61).tolist()
    for row, (name, pairs) in zip(grid, runs.items(), strict=True):
        for axes, title in zip(row, titles, strict=True):
            if title in pairs:
                _draw_distances(axes, title, *pairs[title], bins)
            else:
                axes.axis("off")
        row[0].set_ylabel(shortened(name, SHORT) if len(runs) > 1 else "density of pairs")
    handles, labels = next(axes for axes in np.ravel(grid) if axes.get_title()).get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2)
    for axes in grid[-1]:
        axes.set_xlabel("cosine distance, 1 - cosine")
    return figure


def _draw_distances(
    axes: Axes, title: str, positives: Numbers, negatives: Numbers, bins: list[float]
) -> None:
    for distances, color, label in ((positives, RIGHT, "same person"), (negatives, WRONG, "other person")):
        axes.hist(distances, bins, density=True, color=color, alpha=0.35, label=label)
        axes.hist(distances, bins, density=True, color=color, histtype="step", lw=1.2)
        axes.axvline(float(np.median(distances)), color=color, lw=1, ls=":")
    closer = f"{percent(separation(positives, negatives))} % in order"
    axes.set_title(f"{title}: {closer}\n{len(positives):,} and {len(negatives):,} pairs", fontsize=9)
    axes.set_yticks([])
    axes.xaxis.set_major_locator(MaxNLocator(4))


def separation(positives: Numbers, negatives: Numbers) -> float:
    """Fraction of (positive, negative) pairs of distances in which the positive is smaller; ties count half."""
    ordered = np.sort(negatives)
    smaller = np.searchsorted(ordered, positives, side="left")
    not_larger = np.searchsorted(ordered, positives, side="right")
    return float(1 - np.mean((smaller + not_larger) / 2) / len(negatives))


def embedding_maps(maps: Mapping[str, Map], people: Sequence[int], *, synthetic: bool) -> Figure:
    """A row a run: on the left `people` in colours of their own among all others, on the right the two lights."""
    figure = Figure(figsize=(9.5, 4.4 * len(maps) + 0.9), layout="constrained")
    figure.suptitle(labelled("Embeddings in the plane", synthetic))
    for (left, right), (name, found) in zip(
        figure.subplots(len(maps), 2, squeeze=False), maps.items(), strict=True
    ):
        for axes in (left, right):
            axes.set(aspect="equal", adjustable="datalim")
            axes.axis("off")
        others = ~np.isin(found.identity, people)
        _scatter(left, found, others, QUIET, faint=True)
        for color, person in zip(_colors(len(people)), people, strict=True):
            _scatter(left, found, found.identity == person, color)
        _scatter(right, found, found.is_visible, VISIBLE)
        _scatter(right, found, ~found.is_visible, INFRARED)
        prefix = f"{shortened(name, SHORT)}: " if len(maps) > 1 else ""
        left.set_title(f"{prefix}by person")
        right.set_title(f"{prefix}by light")
    shown = [Line2D([], [], color=color, marker="s", ls="") for color in _colors(len(people))]
    lights = [
        Line2D([], [], color=color, marker=marker, ls="")
        for color, marker in ((VISIBLE, "o"), (INFRARED, "^"))
    ]
    labels = [*(f"person {person}" for person in people), "visible (dots)", "infrared (triangles)"]
    figure.legend([*shown, *lights], labels, loc="outside lower center", ncols=5)
    return figure


def _scatter(axes: Axes, found: Map, chosen: NDArray[np.bool_], color: str, *, faint: bool = False) -> None:
    for marker, light in (("o", found.is_visible), ("^", ~found.is_visible)):
        points = found.points[chosen & light]
        size, alpha = (9, 0.3) if faint else (22, 0.85)
        axes.scatter(points[:, 0], points[:, 1], s=size, marker=marker, color=color, alpha=alpha, lw=0)


def training_curves(series: Series, *, synthetic: bool, title: str, stages: Sequence[int] = ()) -> Figure:
    """Losses, scores, learning rate and speed of a journal against the step. `stages` are the last steps of all stages but
    the last one.
    """
    scores = [
        score(direction)
        for direction in Direction
        for score in (names.first_rank, names.mean_average_precision)
    ]
    terms = [names.objective(term) for term in names.TERMS]
    figure = Figure(figsize=(9.5, 6.6), layout="constrained")
    figure.suptitle(labelled(shortened(title, LONG), synthetic))
    losses, found, rate, speed = np.ravel(figure.subplots(2, 2, sharex=True))
    _draw_series(losses, series, [names.Metric.LOSS, *terms], "loss", stages)
    _draw_series(found, series, scores, "retrieval on the test split", stages)
    _draw_series(rate, series, [names.Metric.LEARNING_RATE], "learning rate", stages)
    _draw_series(speed, series, [names.Metric.CLIPS_PER_SECOND], "clips a second", stages)
    found.yaxis.set_major_formatter(PercentFormatter(1.0))
    for axes in (found, rate, speed):
        axes.set_ylim(0, 1.05 * axes.get_ylim()[1])
    for axes in (rate, speed):
        axes.set_xlabel("step")
    return figure


def swept_curves(swept: Sequence[Swept], *, title: str, synthetic: bool) -> Figure:
    """Rank-1 and mAP against each number: a column a number, a row a direction; bands are deviations over seeds."""
    figure = Figure(figsize=(1 + 3.1 * len(swept), 5.6), layout="constrained")
    figure.suptitle(labelled(title, synthetic))
    grid = figure.subplots(2, len(swept), sharex="col", sharey="row", squeeze=False)
    for row, direction in zip(grid, Direction, strict=True):
        for axes, found in zip(row, swept, strict=True):
            _draw_swept(axes, found, direction)
        row[0].set_ylabel(title_of(direction))
        row[0].yaxis.set_major_formatter(PercentFormatter(1.0))
    for axes, found in zip(grid[-1], swept, strict=True):
        axes.set_xlabel(found.label)
    known = {
        label: line for axes in grid[0] for line, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(list(known.values()), list(known), loc="outside lower center", ncols=3)
    return figure


def _draw_swept(axes: Axes, found: Swept, direction: Direction) -> None:
    for color, label, score in (
        (LINES[0], "Rank-1", names.first_rank(direction)),
        (LINES[1], "mAP", names.mean_average_precision(direction)),
    ):
        mean, deviation = found.scores[score]
        axes.plot(found.values, mean, color=color, marker="o", ms=3, label=label)
        axes.fill_between(found.values, mean - deviation, mean + deviation, color=color, alpha=0.2, lw=0)
    if found.chosen is not None:
        axes.axvline(found.chosen, color=QUIET, lw=1, ls="--", label="the paper's choice")
    axes.set_xscale("log" if found.values.min() > 0 else "linear")
    axes.set_xticks(found.values, [f"{value:g}" for value in found.values])
    axes.minorticks_off()


def _draw_series(axes: Axes, series: Series, keys: Sequence[str], label: str, stages: Sequence[int]) -> None:
    drawn = [key for key in keys if key in series]
    for color, key in zip(_colors(len(drawn)), drawn, strict=True):
        steps, values = series[key]
        marker = "o" if len(steps) <= 30 else ""
        axes.plot(steps, values, color=color, label=key, lw=2 if key == keys[0] else 1.2, marker=marker, ms=3)
    for number, step in enumerate(stages, start=2):
        axes.axvline(step, color=QUIET, lw=1, ls="--")
        above = axes.get_xaxis_transform()
        axes.text(step, 1.01, f"stage {number}", color=QUIET, ha="center", va="bottom", transform=above)
    axes.set_title(label, loc="left", pad=16 if stages else None)
    if len(drawn) > 1:
        axes.legend(loc="upper left", bbox_to_anchor=(0, -0.06), ncols=2 if len(drawn) <= 4 else 3)
    elif not drawn:
        axes.text(
            0.5, 0.5, "nothing was measured", color=QUIET, ha="center", va="center", transform=axes.transAxes
        )


def _colors(count: int) -> list[str]:
    return [LINES[i % len(LINES)] for i in range(count)]
