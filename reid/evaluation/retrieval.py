"""Embed query and gallery once, and search in both directions.

    test rows of the manifest -> batches of one modality -> network.embed -> vectors (N, D), unit length
    query vectors x gallery vectors -> similarities, row by row -> metrics, infrared to visible
    gallery vectors x query vectors -> ...                      -> metrics, visible to infrared

The batches are the same for every number of processes; each process embeds a contiguous share of them, and their
vectors come back in the order of the rows, each exactly once.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reid.data.clips import ClipShape, normalise
from reid.data.loader import test_clips
from reid.data.manifest import Manifest
from reid.evaluation.metrics import Labels, Retrieval, evaluate
from reid.model.network import Network
from reid.runtime import Runtime
from reid.types import Direction, Embedding, Modality, Role

SIMILARITY_ROWS = 256  # queries whose similarities exist at a time

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Protocol:
    """All that a score depends on beside the weights."""

    shape: ClipShape
    minimum_frames: int | None = None
    embedding: Embedding = Embedding.AUTO
    drop_same_camera: bool = True
    batch_clips: int = 32

    def describe(self, manifest: Manifest) -> str:
        """One line to stand beside the numbers."""
        shortest = manifest.minimum_frames if self.minimum_frames is None else self.minimum_frames
        cameras = "without" if self.drop_same_camera else "with"
        return (
            f"{manifest.name}{' (synthetic)' if manifest.synthetic else ''} {manifest.digest[:12]}: tracklets of at "
            f"least {shortest} frames, {self.shape.frames} evenly spaced frames at {self.shape.height}x"
            f"{self.shape.width}, {self.embedding} embedding, cosine, {cameras} gallery items of the query's identity "
            "and camera"
        )


@dataclass(frozen=True)
class Embedded:
    """Rows of the manifest (N,) and their vectors (N, D), float32 on the CPU, unit length."""

    rows: NDArray[np.int64]
    vectors: Tensor


@dataclass(frozen=True)
class Evaluation:
    """The scores of one set of weights in both directions, and what they were computed from."""

    results: dict[Direction, Retrieval]
    query: Embedded
    gallery: Embedded

    def sides(self, direction: Direction) -> tuple[Embedded, Embedded]:
        """Who asks and who answers."""
        sides = (self.query, self.gallery)
        return sides if direction is Direction.INFRARED_TO_VISIBLE else sides[::-1]


@dataclass(frozen=True)
class Evaluator:
    """Scores a network on the test rows of a data set. Every process calls the same methods, and all get the same.

    `on_round` is called again and again while the work lasts, equally often by all processes, and may raise.
    """

    network: Network
    manifest: Manifest
    protocol: Protocol
    runtime: Runtime
    num_workers: int = 0
    on_round: Callable[[], None] = lambda: None

    def evaluate(self) -> Evaluation:
        """Both directions. Raises ValueError if there is no query or no gallery."""
        query, gallery = (self._side(role) for role in (Role.QUERY, Role.GALLERY))
        evaluation = Evaluation({}, query, gallery)
        for direction in Direction:
            self.on_round()
            scores = self._score(*evaluation.sides(direction)) if self.runtime.leads else None
            shared = self.runtime.agree(scores)
            assert shared is not None
            evaluation.results[direction] = shared
        return evaluation

    def embed(self, rows: NDArray[np.int64]) -> Tensor:
        """Vectors of the tracklets `rows`, float32 (N, D) on the CPU, in their order."""
        order = np.argsort(self.manifest.modality[rows], kind="stable")  # a batch goes through one stem
        was_training = self.network.training
        self.network.eval()
        try:
            vectors = [
                self._embed_one(modality, rows[order][self.manifest.modality[rows[order]] == modality])
                for modality in Modality
                if (self.manifest.modality[rows] == modality).any()
            ]
        finally:
            self.network.train(was_training)
        return torch.cat(vectors)[torch.from_numpy(np.argsort(order))]

    def _side(self, role: Role) -> Embedded:
        rows = self.manifest.rows(role, minimum_frames=self.protocol.minimum_frames)
        if not len(rows):
            raise ValueError(
                f"{self.manifest.place}: no {role} tracklet of the required length; pack a test split, or lower "
                "data.minimum_frames"
            )
        return Embedded(rows, self.embed(rows))

    def _embed_one(self, modality: Modality, rows: NDArray[np.int64]) -> Tensor:
        """Rows (N,) of one modality -> their vectors (N, D): a share of the batches here, the rest elsewhere."""
        size = self.protocol.batch_clips
        num_batches = -(-len(rows) // size)
        batches = self.runtime.share(num_batches)
        mine = rows[batches.start * size : batches.stop * size]
        stream = test_clips(
            self.manifest, mine, shape=self.protocol.shape, batch_size=size, num_workers=self.num_workers
        )
        vectors = []
        with stream, torch.inference_mode(), self.runtime.autocast():
            for _ in range(-(-num_batches // self.runtime.world)):  # who has a batch less goes round as often
                self.on_round()
                for _, clips in islice(stream, 1):
                    pixels = normalise(clips.to(self.runtime.device)).to(self.runtime.dtype)
                    found = self.network.embed(pixels, modality, self.protocol.embedding)
                    vectors.append(found.float().cpu())
        return self.runtime.concatenate(torch.cat(vectors) if vectors else None)

    def _score(self, query: Embedded, gallery: Embedded) -> Retrieval:
        labels = (
            Labels(
                self.manifest.identity[side.rows].astype(np.int64),
                self.manifest.camera[side.rows].astype(np.int64),
            )
            for side in (query, gallery)
        )
        return evaluate(
            similarities(query.vectors, gallery.vectors),
            *labels,
            remove_same_camera=self.protocol.drop_same_camera,
        )


def similarities(query: Tensor, gallery: Tensor) -> Iterator[NDArray[np.float32]]:
    """Cosines of unit vectors (Q, D) and (G, D), a row (G,) a query; the whole matrix never exists."""
    for block in query.split(SIMILARITY_ROWS):
        yield from (block @ gallery.T).numpy()
