"""Who in a gallery looks most like a person in the other light.

query -> vector (D,) -> cosines with the vectors of the other modality -> the first answers, the most alike first
"""

from typing import NamedTuple

import numpy as np
from torch import Tensor

from reid.deployment.index import Index, embed
from reid.deployment.tracklets import Gallery, Tracklet
from reid.deployment.weights import Weights


class Answer(NamedTuple):
    """A tracklet that was found. `rank` counts from 1, `similarity` is a cosine."""

    rank: int
    tracklet: Tracklet
    similarity: float

    def is_right(self, query: Tracklet) -> bool | None:
        """Whether it shows the same person as the query; None where that is not known."""
        known = None not in {self.tracklet.identity, query.identity}
        return self.tracklet.identity == query.identity if known else None


def search(query: Tracklet, gallery: Gallery, index: Index, weights: Weights, top: int) -> list[Answer]:
    """The `top` first answers of the other modality; equal cosines keep the order of the gallery.

    Raises ValueError if there is nobody in the other modality.
    """
    (vector,) = embed([query], weights)
    others = [i for i, tracklet in enumerate(gallery.tracklets) if tracklet.modality is not query.modality]
    if not others:
        raise ValueError(
            f"{gallery.place}: all of its tracklets are {query.modality.name.lower()}, as {query.key} is; a person is looked "
            "for in the other light"
        )
    return [
        Answer(rank, gallery.tracklets[others[i]], similarity)
        for rank, (i, similarity) in enumerate(_first(index.vectors[others] @ vector, top), 1)
    ]


def _first(cosines: Tensor, top: int) -> list[tuple[int, float]]:
    """Positions and values of the greatest, the greatest first."""
    values = cosines.numpy()
    return [(int(i), float(values[i])) for i in np.argsort(-values, kind="stable")[:top]]
