"""The pictures of a scored run: picks what `pictures` needs from the vectors, the shards and the journal.

Evaluation + Manifest -> panels, pairs of distances ->  RUN/pictures/*.png  <- points of the journal
"""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from reid.data.clips import decode
from reid.data.manifest import Manifest
from reid.data.shards import ShardReader
from reid.evaluation.metrics import Labels, first_answers
from reid.evaluation.retrieval import Embedded, Evaluation, Protocol
from reid.report import pictures
from reid.report.pictures import NOBODY, Numbers, Panel, Pictures
from reid.report.tables import title_of
from reid.tracking.runs import series, stage_ends
from reid.types import Direction

NUM_QUERIES, NUM_ANSWERS = 5, 10
MAX_CLIPS = 800  # of one modality, for the distances between all pairs

Rows = NDArray[np.int64]


def write(
    folder: Path, evaluation: Evaluation, manifest: Manifest, protocol: Protocol, name: str
) -> list[Path]:
    """Draw retrieval sheets, matching curves and distances into `folder`. Returns the files."""
    synthetic = manifest.synthetic
    panels = [panel(evaluation, manifest, protocol, direction) for direction in Direction]
    figures = {
        "retrieval.png": pictures.retrieval_sheet(panels, synthetic=synthetic),
        "cmc.png": pictures.cmc_curves({name: evaluation.results}, synthetic=synthetic),
    }
    if pairs := distances(evaluation, manifest):
        figures["distances.png"] = pictures.distance_histograms(pairs, synthetic=synthetic)
    return _saved(folder, figures)


def write_curves(folder: Path, run_folder: Path, *, synthetic: bool) -> list[Path]:
    """Draw the training curves of a run's journal into `folder`. Returns the files."""
    title = f"Training of {run_folder.resolve().name}"
    stages = stage_ends(run_folder)
    figure = pictures.training_curves(series(run_folder), synthetic=synthetic, title=title, stages=stages)
    return _saved(folder, {"training.png": figure})


def panel(evaluation: Evaluation, manifest: Manifest, protocol: Protocol, direction: Direction) -> Panel:
    """Some queries of a direction, drawn at random and always the same, with the first answers to each."""
    query, gallery = evaluation.sides(direction)
    counted = np.flatnonzero(evaluation.results[direction].first_hit >= 0)
    chosen = np.sort(np.random.default_rng(0).choice(counted, min(NUM_QUERIES, len(counted)), replace=False))
    similarity = (query.vectors[chosen] @ gallery.vectors.T).numpy()
    labels = Labels(manifest.identity[gallery.rows], manifest.camera[gallery.rows])
    answers = np.full((len(chosen), NUM_ANSWERS), NOBODY)
    for i, row in enumerate(query.rows[chosen]):
        who = int(manifest.identity[row]), int(manifest.camera[row])
        found = first_answers(
            similarity[i], *who, labels, NUM_ANSWERS, remove_same_camera=protocol.drop_same_camera
        )
        answers[i, : len(found)] = found
    is_there = answers != NOBODY
    size = protocol.shape.height, protocol.shape.width
    shown = np.zeros((*answers.shape, *size, 3), dtype=np.uint8)
    shown[is_there] = middle_frames(manifest, gallery.rows[answers[is_there]], *size)
    return Panel(
        title_of(direction),
        middle_frames(manifest, query.rows[chosen], *size),
        manifest.identity[query.rows[chosen]],
        shown,
        np.where(is_there, labels.identity[answers], NOBODY),
        np.where(is_there, np.take_along_axis(similarity, answers, axis=1), np.nan),
    )


def middle_frames(manifest: Manifest, rows: Rows, height: int, width: int) -> Pictures:
    """The frame in the middle of each tracklet, (N, H, W, 3)."""
    found = np.zeros((len(rows), height, width, 3), dtype=np.uint8)
    reader = ShardReader(manifest)
    for picture, row in zip(found, rows, strict=True):
        (jpeg,) = reader.read(int(row), np.array([manifest.num_frames[row] // 2]))
        decode(jpeg, picture)
    reader.close()
    return found


def distances(evaluation: Evaluation, manifest: Manifest) -> dict[str, tuple[Numbers, Numbers]]:
    """Cosine distances of positive and negative pairs, within each modality and across.

    Pairs of one person in one camera are left out, as they would be easy; so is a panel without any pair. At most
    `MAX_CLIPS` a modality, evenly spaced.
    """
    infrared, visible = _thinned(evaluation.query), _thinned(evaluation.gallery)
    pairs = {
        "Within visible": (visible, visible),
        "Within infrared": (infrared, infrared),
        "Across modalities": (infrared, visible),
    }
    return {
        title: found
        for title, sides in pairs.items()
        if len((found := _pair_distances(*sides, manifest))[0]) and len(found[1])
    }


def _pair_distances(one: Embedded, other: Embedded, manifest: Manifest) -> tuple[Numbers, Numbers]:
    distance = 1 - (one.vectors @ other.vectors.T).numpy()
    same_person = manifest.identity[one.rows][:, None] == manifest.identity[other.rows]
    same_camera = manifest.camera[one.rows][:, None] == manifest.camera[other.rows]
    once = np.triu(np.ones_like(same_person), 1) if one is other else np.ones_like(same_person)
    return distance[same_person & ~same_camera & once], distance[~same_person & once]


def _thinned(side: Embedded) -> Embedded:
    step = -(-len(side.rows) // MAX_CLIPS)
    return Embedded(side.rows[::step], side.vectors[::step])


def _saved(folder: Path, figures: dict[str, Figure]) -> list[Path]:
    for name, figure in figures.items():
        pictures.save(figure, folder / name)
    return [folder / name for name in figures]
