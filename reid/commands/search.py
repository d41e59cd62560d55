"""reid search: finds a person who was filmed in one light among tracklets of the other."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from reid.arguments import parse
from reid.types import Embedding, Modality

if TYPE_CHECKING:
    from reid.deployment.search import Answer
    from reid.deployment.tracklets import Tracklet
    from reid.deployment.weights import Weights
    from reid.report.sheets import Panel
    from reid.report.tables import Table

PICTURES = (".png", ".jpg", ".pdf", ".svg")


@dataclass(frozen=True)
class SearchArguments:
    """Find a person who was filmed in one light among the tracklets of the other.

    The embeddings of the gallery are computed once, and kept.
    """

    gallery: Annotated[str, tyro.conf.Positional]
    """A packed data set, whose test tracklets can be found; or a folder of tracklets, as rgb/NAME/*.jpg and ir/NAME/*.jpg."""
    query: Annotated[str, tyro.conf.Positional]
    """Who is looked for: the key of a tracklet of the packed data set, rgb/NAME or ir/NAME, or any folder of frames."""
    checkpoint: str
    """A checkpoint; the folder of a run: then its newest valid checkpoint; or models:/ID of MLflow."""
    top: int = 10
    """How many answers are shown."""
    modality: Literal["visible", "infrared"] | None = None
    """Light that a folder of frames was filmed in, if it does not lie in a folder named rgb or ir."""
    index: Path | None = None
    """Folder in which embeddings are kept, if not reid/search in the user's cache."""
    sheet: Path | None = None
    """Draw the query and its answers into this .png, .jpg, .pdf or .svg."""
    embedding: Embedding | None = None
    """What is compared, if not what the run compared."""
    uri: str | None = None
    """MLflow server or store that knows models:/ID, if not MLFLOW_TRACKING_URI."""
    device: Literal["auto", "cpu"] = "auto"
    """`cpu` leaves a GPU alone."""
    json: bool = False
    """Print the answers as JSON."""


def main(arguments: Sequence[str]) -> int:
    chosen = parse(SearchArguments, arguments, "search")
    if chosen.top < 1:
        raise ValueError(f"--top: expected 1 or more, found {chosen.top}")
    if chosen.sheet is not None and chosen.sheet.suffix not in PICTURES:
        raise ValueError(f"--sheet: expected a name that ends in {', '.join(PICTURES)}, found {chosen.sheet}")
    import torch

    from reid.deployment import index, search, tracklets, weights

    loaded = weights.load(weights.found(chosen.checkpoint, chosen.uri), chosen.embedding)
    gallery = tracklets.open_gallery(chosen.gallery, loaded.protocol.shape, loaded.protocol.minimum_frames)
    modality = None if chosen.modality is None else Modality[chosen.modality.upper()]
    query = tracklets.tracklet_of(chosen.query, gallery, modality)
    if chosen.device == "auto" and torch.cuda.is_available():
        loaded.network.cuda()
    known = index.index(gallery, loaded, chosen.index or _cache())
    answers = search.search(query, gallery, known, loaded, chosen.top)
    synthetic = bool(gallery.synthetic or loaded.synthetic)
    if chosen.sheet is not None:
        from reid.report import rendering, sheets

        panel = _panel(query, answers, loaded)
        rendering.write(lambda: sheets.retrieval_sheet(panel, synthetic=synthetic), chosen.sheet)
    if chosen.json:
        told = {
            "query": _record(query),
            "answers": [
                {"rank": answer.rank, **_record(answer.tracklet), "similarity": round(answer.similarity, 6)}
                for answer in answers
            ],
            "gallery": gallery.place,
            "index": str(known.path),
            "checkpoint": str(loaded.path),
            "synthetic": synthetic,
        }
        print(json.dumps(told, indent=2))
        return 0
    from reid.commands import printing

    printing.tables([_table(query, answers, loaded, synthetic=synthetic)], "terminal")
    return 0


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "reid" / "search"


def _record(tracklet: "Tracklet") -> dict[str, Any]:
    return {
        "tracklet": tracklet.key,
        "modality": tracklet.modality.name.lower(),
        "identity": tracklet.identity,
        "camera": tracklet.camera,
    }


def _table(query: "Tracklet", answers: "list[Answer]", loaded: "Weights", *, synthetic: bool) -> "Table":
    from reid.report.tables import Table, labelled

    signs = {True: "right", False: "wrong", None: ""}
    known = (
        [] if query.identity is None and answers[0].tracklet.identity is None else ["person", "camera", ""]
    )
    rows = [
        (
            str(answer.rank),
            answer.tracklet.key,
            f"{answer.similarity:.3f}",
            *(
                [str(answer.tracklet.identity), str(answer.tracklet.camera), signs[answer.is_right(query)]]
                if known
                else []
            ),
        )
        for answer in answers
    ]
    shape = loaded.protocol.shape
    light = query.modality.name.lower()
    who = "" if query.identity is None else f", person {query.identity}, camera {query.camera}"
    notes = (
        f"{query.key}: {light}{who}",
        f"{loaded.path.name} of {loaded.config.model.variant}, {loaded.protocol.embedding} embedding, {shape.frames} frames of "
        f"{shape.height}x{shape.width}",
    )
    title = labelled(f"Who looks like that {light} person", synthetic)
    return Table(title, ("rank", "tracklet", "cosine", *known), tuple(rows), notes)


def _panel(query: "Tracklet", answers: "list[Answer]", loaded: "Weights") -> "Panel":
    import numpy as np

    from reid.report.sheets import UNKNOWN, Panel, Ranking

    def clip_of(tracklet: "Tracklet") -> Any:
        clip = np.empty((*loaded.protocol.shape, 3), dtype=np.uint8)
        tracklet.read(clip)
        return clip

    def identity_of(tracklet: "Tracklet") -> int:
        return UNKNOWN if tracklet.identity is None else tracklet.identity

    middle = loaded.protocol.shape.frames // 2
    ranking = Ranking(
        "",
        np.stack([clip_of(answer.tracklet)[middle] for answer in answers])[None],
        np.array([[identity_of(answer.tracklet) for answer in answers]]),
        np.array([[answer.similarity for answer in answers]]),
        np.array([[answer.rank for answer in answers]]),
    )
    return Panel("Found", clip_of(query)[None], np.array([identity_of(query)]), [ranking])
