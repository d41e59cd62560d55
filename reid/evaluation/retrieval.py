"""Embed query and gallery once, and search in both directions.

    test rows of the manifest -> how much memory that takes -> batches of one modality -> network.embed
      -> vectors (N, D), unit length, float32 on the CPU of every process
    query vectors x gallery vectors -> similarities, a block of rows at a time -> metrics, infrared to visible
    gallery vectors x query vectors -> ...                                     -> metrics, visible to infrared

The batches are the same for every number of processes; each process embeds a contiguous share of them, and their
vectors come back in the order of the rows, each exactly once.
"""

import logging
import platform
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reid import machine
from reid.data.clips import ClipShape, chunk_frames, normalise
from reid.data.loader import TrackletClips, test_clips
from reid.data.manifest import Manifest
from reid.evaluation.footprint import Footprint
from reid.evaluation.metrics import Labels, Retrieval, evaluate
from reid.evaluation.reranking import PAPER, Reranking
from reid.model.network import Network
from reid.runtime import Runtime
from reid.terminal import counted
from reid.types import Direction, Embedding, Modality, Role, ToldElsewhereError

SIMILARITY_ROWS = 256  # queries whose similarities exist at a time

Rows = NDArray[np.int64]
Advance = Callable[[int], None]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Protocol:
    """All that a score depends on beside the weights.

    `all_clips`: a tracklet of n frames has c = ceil(n / T) clips. Clip o, for o = 0 .. c - 1, is made of frame o of each of
    its T chunks, as `test_indices` says; clip 0 is the one that is compared otherwise. The vector of the tracklet is the
    mean of the unit vectors of its clips, brought to unit length.
    `rerank`: answers are ordered by k-reciprocal re-ranking of all queries and gallery items together, before those of the
    query's identity and camera are left out.
    """

    shape: ClipShape
    minimum_frames: int | None = None
    embedding: Embedding = Embedding.AUTO
    drop_same_camera: bool = True
    batch_clips: int = 32
    all_clips: bool = False
    rerank: bool = False

    def describe(self, manifest: Manifest) -> str:
        """One line to stand beside the numbers."""
        shortest = manifest.minimum_frames if self.minimum_frames is None else self.minimum_frames
        clips = f"{self.shape.frames} evenly spaced frames"
        if self.all_clips:
            clips = f"the mean of all clips of {clips}"
        order = "cosine"
        if self.rerank:
            order = f"k-reciprocal re-ranking (k1 {PAPER.k1}, k2 {PAPER.k2}, lambda {PAPER.weight})"
        cameras = "without" if self.drop_same_camera else "with"
        return (
            f"{manifest.name}{' (synthetic)' if manifest.synthetic else ''} {manifest.digest[:12]}: tracklets of at "
            f"least {shortest} frames, {clips} at {self.shape.height}x{self.shape.width}, {self.embedding} embedding, "
            f"{order}, {cameras} gallery items of the query's identity and camera"
        )


@dataclass(frozen=True)
class Embedded:
    """Rows of the manifest (N,) and their vectors (N, D), float32 on the CPU, unit length."""

    rows: Rows
    vectors: Tensor


@dataclass(frozen=True)
class Evaluation:
    """The scores of one set of weights in both directions, and what they were computed from.

    `reranking` is None where the protocol asks for none, and on all processes but the one that scores.
    """

    results: dict[Direction, Retrieval]
    query: Embedded
    gallery: Embedded
    reranking: Reranking | None = None

    def sides(self, direction: Direction) -> tuple[Embedded, Embedded]:
        """Who asks and who answers."""
        sides = (self.query, self.gallery)
        return sides if direction is Direction.INFRARED_TO_VISIBLE else sides[::-1]

    def similarities(self, direction: Direction, chosen: Rows | None = None) -> Iterator[NDArray[np.float32]]:
        """How alike each query, or each of the queries at positions `chosen`, and the answering side are: rows (G,)."""
        if self.reranking is not None:
            swapped = direction is Direction.VISIBLE_TO_INFRARED
            return self.reranking.similarities(swapped=swapped, rows=chosen)
        asking, answering = (side.vectors for side in self.sides(direction))
        return similarities(asking if chosen is None else asking[torch.from_numpy(chosen)], answering)


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
        """Both directions. Raises ValueError if there is no query or no gallery, or if they do not fit into memory."""
        rows = [self._rows(role) for role in (Role.QUERY, Role.GALLERY)]
        self._require_memory(rows)
        num_clips = sum(int(self._num_clips(side).sum()) for side in rows)
        with counted("embedding", num_clips, "clips", speaks=self.runtime.leads) as advance:
            query, gallery = (Embedded(side, self.embed(side, advance)) for side in rows)
        reranking = None
        if self.protocol.rerank and self.runtime.leads:
            reranking = Reranking(query.vectors, gallery.vectors)
        evaluation = Evaluation({}, query, gallery, reranking)
        for direction in Direction:
            self.on_round()
            evaluation.results[direction] = self.runtime.decide(partial(self._score, evaluation, direction))
        return evaluation

    def embed(self, rows: Rows, advance: Advance = lambda _: None) -> Tensor:
        """Vectors of the tracklets `rows`, float32 (N, D) on the CPU, in their order. `advance` hears of clips."""
        was_training = self.network.training
        self.network.eval()
        try:
            vectors = self._embed_all(rows, advance)
        finally:
            self.network.train(was_training)
        if self.protocol.all_clips:
            vectors /= vectors.norm(dim=1, keepdim=True).clamp_(min=torch.finfo(vectors.dtype).tiny)
        return vectors

    def _embed_all(self, rows: Rows, advance: Advance) -> Tensor:
        """The sums of the vectors of the clips of each row, place by place: the same order for any number of processes."""
        vectors = torch.zeros(len(rows), self.network.embedding_width(self.protocol.embedding))
        num_clips = self._num_clips(rows)
        for modality in Modality:  # a batch goes through one stem
            for place in range(int(num_clips.max(initial=0))):
                chosen = np.flatnonzero((self.manifest.modality[rows] == modality) & (num_clips > place))
                if len(chosen):
                    found = self._embed_one(modality, rows[chosen], place, advance)
                    vectors.index_add_(0, torch.from_numpy(chosen), found)
        return vectors

    def _num_clips(self, rows: Rows) -> Rows:
        """How many clips of each row are embedded. (N,)"""
        if not self.protocol.all_clips:
            return np.ones(len(rows), dtype=np.int64)
        frames = self.manifest.num_frames[rows].tolist()
        return np.array([chunk_frames(count, self.protocol.shape.frames) for count in frames], dtype=np.int64)

    def _rows(self, role: Role) -> Rows:
        rows = self.manifest.rows(role, minimum_frames=self.protocol.minimum_frames)
        if not len(rows):
            raise ValueError(
                f"{self.manifest.place}: no {role} tracklet of the required length; pack a test split, or lower "
                "data.minimum_frames"
            )
        return rows

    def _require_memory(self, sides: list[Rows]) -> None:
        """Say what the evaluation needs. Raises ValueError, on every process, where a machine cannot give it."""
        needed = Footprint.of(
            num_query=len(sides[0]),
            num_gallery=len(sides[1]),
            width=self.network.embedding_width(self.protocol.embedding),
            is_alone=self.runtime.world == 1,
            rerank=self.protocol.rerank,
        )
        if self.runtime.leads:
            log.info("evaluation: %s", needed)
        hosts = self.runtime.collect((platform.node(), machine.memory().available))
        for host, count in Counter(host for host, _ in hosts).items():
            available = min(free for name, free in hosts if name == host)
            if count * needed.total > available:
                message = needed.refusal(host, count, available)
                raise ValueError(message) if self.runtime.leads else ToldElsewhereError(message)

    def batches(self, rows: Rows) -> Iterator[tuple[Modality, TrackletClips]]:
        """The share of this process in the clips of `rows`: batches of one modality, and their positions in `rows`."""
        for modality in Modality:
            chosen = np.flatnonzero(self.manifest.modality[rows] == modality)
            if len(chosen):
                for positions, clips in self._share(rows[chosen]):
                    yield modality, TrackletClips(torch.from_numpy(chosen)[positions], clips)

    def embed_clips(self, clips: Tensor, modality: Modality, *, self_attacked: bool = False) -> Tensor:
        """Pixels (b, T, 3, H, W) of one modality -> unit vectors (b, D), float32 on the CPU; `self_attacked`: as ASAM's
        attack branch would have them. The network must be in evaluation.
        """
        embed = self.network.embed_self_attacked if self_attacked else self.network.embed
        with torch.inference_mode(), self.runtime.autocast():
            pixels = normalise(clips.to(self.runtime.device)).to(self.runtime.dtype)
            return embed(pixels, modality, self.protocol.embedding).float().cpu()

    def labels(self, rows: Rows) -> Labels:
        """Who is seen in `rows`, and by which camera."""
        identity, camera = self.manifest.identity[rows], self.manifest.camera[rows]
        return Labels(identity.astype(np.int64), camera.astype(np.int64))

    def _embed_one(self, modality: Modality, rows: Rows, place: int, advance: Advance) -> Tensor:
        """Rows (N,) of one modality -> their vectors (N, D): a share of the batches here, the rest elsewhere."""
        mine = self._batches_of(rows)
        width = self.network.embedding_width(self.protocol.embedding)
        vectors = torch.empty(len(rows[mine]), width)
        for positions, clips in self._share(rows, place):
            vectors[positions - mine.start] = self.embed_clips(clips, modality)
            advance(len(clips) * self.runtime.world)
        return self.runtime.concatenate(vectors if len(vectors) else None)

    def _share(self, rows: Rows, place: int = 0) -> Iterator[TrackletClips]:
        """The clips of those of `rows` (N,) that fall to this process, and their positions in `rows`."""
        size, mine = self.protocol.batch_clips, self._batches_of(rows)
        stream = test_clips(
            self.manifest,
            rows[mine],
            shape=self.protocol.shape,
            batch_size=size,
            num_workers=self.num_workers,
            place=place,
        )
        with stream:
            for _ in range(
                -(-self._num_batches(rows) // self.runtime.world)
            ):  # who has a batch less goes round as often
                self.on_round()
                for positions, clips in islice(stream, 1):
                    yield TrackletClips(mine.start + positions, clips)

    def _batches_of(self, rows: Rows) -> slice:
        """Which of `rows` (N,) fall to this process: whole batches of them."""
        size = self.protocol.batch_clips
        batches = self.runtime.share(self._num_batches(rows))
        return slice(batches.start * size, min(batches.stop * size, len(rows)))

    def _num_batches(self, rows: Rows) -> int:
        """Of all processes together."""
        return -(-len(rows) // self.protocol.batch_clips)

    def _score(self, evaluation: Evaluation, direction: Direction) -> Retrieval:
        labels = (self.labels(side.rows) for side in evaluation.sides(direction))
        return evaluate(
            evaluation.similarities(direction), *labels, remove_same_camera=self.protocol.drop_same_camera
        )


@dataclass(frozen=True)
class Found:
    """What some weights make of a data set, with all that is needed to ask them again."""

    evaluator: Evaluator
    evaluation: Evaluation

    @property
    def manifest(self) -> Manifest:
        return self.evaluator.manifest

    @property
    def protocol(self) -> Protocol:
        return self.evaluator.protocol


def similarities(query: Tensor, gallery: Tensor) -> Iterator[NDArray[np.float32]]:
    """Cosines of unit vectors (Q, D) and (G, D), a row (G,) a query; the whole matrix never exists."""
    for block in query.split(SIMILARITY_ROWS):
        yield from (block @ gallery.T).numpy()
