"""The pictures of runs, each with the words that belong under it.

    Found of each run, Seen, a journal -> Picture: a name, a function that draws it, a caption

`kept` are the pictures that training leaves with a run; a report shows all of them, for one run or several.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from reid.evaluation.retrieval import Found
from reid.report import album, charts, sheets
from reid.report.album import Runs
from reid.report.projection import usable_perplexity
from reid.report.rendering import Draw, write
from reid.report.sheets import Seen
from reid.tracking.runs import series, stage_ends
from reid.types import Direction


class Picture(NamedTuple):
    """`name` is that of its files. A chart is made of lines and text, and fit for a paper as it is."""

    name: str
    draw: Draw
    caption: str
    is_chart: bool


def kept(found: Found, seen: Seen, run_folder: Path, name: str) -> Iterator[Picture]:
    """What training draws of a run at its end."""
    runs = {name: found}
    for draw in (retrieval, failures, matching, distances, embeddings, attention):
        yield from draw(runs)
    yield batch(seen, synthetic=found.manifest.synthetic)
    yield curves(run_folder, name, synthetic=found.manifest.synthetic)


def saved(pictures: Iterable[Picture], folder: Path) -> list[Path]:
    """Write each as a PNG. Returns the files."""
    return [write(picture.draw, folder / f"{picture.name}.png") for picture in pictures]


def retrieval(runs: Runs) -> Iterator[Picture]:
    """Some queries of each direction and the first answers of each run."""
    rows = "The rows of a query are the runs; all were asked the same. " if len(runs) > 1 else ""
    for direction in Direction:
        panel = album.answered(runs, direction)
        caption = (
            f"{len(panel.clips)} queries drawn at random, and the {album.NUM_ANSWERS} tracklets found first. On the left "
            f"the middle frame of the query, beside it the {panel.clips.shape[1]} frames that were embedded. {rows}Green "
            f"and ✓: the same person; red and ✗: another one. Numbers are {_numbers(runs)}."
        )
        yield _sheet(f"retrieval_{direction}", partial(sheets.retrieval_sheet, panel), caption, runs)


def failures(runs: Runs) -> Iterator[Picture]:
    """The hardest queries of each direction; nothing if every first answer is right."""
    for direction in Direction:
        if panel := album.failed(runs, direction):
            results = {name: found.evaluation.results[direction] for name, found in runs.items()}
            counts = {name: int((result.first_hit > 0).sum()) for name, result in results.items()}
            wrong = ", ".join(f"{count:,}" + f" ({name})" * (len(runs) > 1) for name, count in counts.items())
            total = next(iter(results.values())).num_queries
            mean = ", in the mean over the runs" if len(runs) > 1 else ""
            caption = (
                f"Wrong at rank 1, of {total:,} queries: {wrong}. These are the {len(panel.clips)} whose first right "
                f"answer comes last{mean}, hardest first; it stands in the column on the right, with its rank."
            )
            yield _sheet(f"failures_{direction}", partial(sheets.retrieval_sheet, panel), caption, runs)


def matching(runs: Runs) -> Iterator[Picture]:
    """CMC curves of all runs."""
    curves = {name: found.evaluation.results for name, found in runs.items()}
    caption = (
        "Share of queries with a right answer among the first k. The dashed line is what a gallery in random order would "
        "score."
    )
    yield _chart("cmc", partial(charts.cmc_curves, curves), caption, runs)


def distances(runs: Runs) -> Iterator[Picture]:
    """Histograms of distances; nothing where no person was seen twice."""
    found = {name: pairs for name, of in runs.items() if (pairs := album.distances(of))}
    if found:
        caption = (
            "Cosine distances of clips of one person by different cameras (green) and of different people (red), as "
            "densities; dotted: medians. In order: how often a random pair of the first kind is closer than one of the "
            "second; 50 % is chance."
        )
        yield _chart("distances", partial(charts.distance_histograms, found), caption, runs)


def embeddings(runs: Runs) -> Iterator[Picture]:
    """Clips of each run in the plane."""
    found = {name: album.mapped(of) for name, of in runs.items()}
    maps = {name: points for name, (points, _) in found.items()}
    people = next(iter(found.values()))[1]
    shown = next(iter(maps.values())).identity
    num_clips = len(shown)
    caption = (
        f"{num_clips:,} clips of {len(np.unique(shown))} test people by exact t-SNE (perplexity {usable_perplexity(num_clips):.3g}, begun from the first two "
        f"principal components). Left: {len(people)} people in colours, all others grey. Right: the light. Where the "
        "light no longer matters, dots and triangles lie among each other. Axes, sizes of groups and distances between "
        "them mean nothing."
    )
    yield _chart("embeddings", partial(charts.embedding_maps, maps, people), caption, runs)


def attention(runs: Runs) -> Iterator[Picture]:
    """Where each run looks."""
    shown = album.attended(runs)
    caption = (
        "Frames of a clip, and over them what makes it like the mean of the same person's clips in the other light: "
        "Grad-CAM at the last layer of the defence, its gradient not averaged over cells, since the guided embedding "
        "treats each stripe on its own. The warmer, the more; each clip of each run has its own scale."
    )
    if not all(sheets.is_anywhere(looks) for one in shown for looks in one.attention.values()):
        caption += " Nothing above 0: no cell of that clip makes it more like them."
    yield _sheet("attention", partial(sheets.attention_sheet, shown), caption, runs)


def batch(seen: Seen, *, synthetic: bool) -> Picture:
    """A batch of training."""
    num_people = len(seen.identity) // seen.num_tracklets
    caption = (
        f"The global batch of step {seen.step}: {num_people} people, {seen.num_tracklets} tracklets of each in both "
        f"lights, visible above infrared. The first frame of each clip as the network got it. {seen.augmentation} Made again "
        "from seed and step, of which every batch is a function; it was not recorded."
    )
    return Picture(
        f"batch_{seen.step}", _labelled(partial(sheets.batch_sheet, seen), synthetic), caption, is_chart=False
    )


def curves(run_folder: Path, name: str, *, synthetic: bool) -> Picture:
    """The training curves of a journal."""
    stages = stage_ends(run_folder)
    draw = partial(charts.training_curves, series(run_folder), title=f"Training of {name}", stages=stages)
    boundary = f" Step II of Algorithm 1 begins after step {stages[0]:,}." if stages else ""
    caption = f"What the journal says, against the step, an iteration.{boundary}"
    return Picture("training", _labelled(draw, synthetic), caption, is_chart=True)


def _numbers(runs: Runs) -> str:
    """What orders the answers of a sheet."""
    is_reranked = any(found.evaluation.reranking is not None for found in runs.values())
    return "similarities after re-ranking" if is_reranked else "cosines; 1 is identical"


def _sheet(name: str, draw: Callable[..., Figure], caption: str, runs: Runs) -> Picture:
    return Picture(name, _labelled(draw, _is_synthetic(runs)), caption, is_chart=False)


def _chart(name: str, draw: Callable[..., Figure], caption: str, runs: Runs) -> Picture:
    return Picture(name, _labelled(draw, _is_synthetic(runs)), caption, is_chart=True)


def _labelled(draw: Callable[..., Figure], synthetic: bool) -> Draw:
    return partial(draw, synthetic=synthetic)


def _is_synthetic(runs: Runs) -> bool:
    return any(found.manifest.synthetic for found in runs.values())
