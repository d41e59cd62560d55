"""Batches of clips as tensors, in order.

    step | piece of the rows -> _Source.fill   frames are read, decoded and augmented into given memory, by any worker
                             -> Quarantine     whether the damage that was met is bearable, in the main process
                             -> _Source.wrap   tensors that look at that memory
                             -> Stream         items in order, and the seconds spent waiting for them

An item depends on its index alone, so the number of workers changes nothing but the speed, and a run that continues
at step n asks for step n: nothing is skipped, replayed or saved.
"""

import time
from typing import Generic, NamedTuple, Protocol, Self, TypeVar

import numpy as np
import torch
from torch import Tensor

from reid.data.augmentation import Augmentation
from reid.data.batches import BatchPlan, clip_generator
from reid.data.clips import (
    ClipReader,
    ClipShape,
    Integers,
    PairedClips,
    Pixels,
    as_tensor,
)
from reid.data.manifest import Manifest
from reid.data.quarantine import Quarantine
from reid.data.shards import DamagedFrameError
from reid.data.workers import Crew

Item = TypeVar("Item")
Made_co = TypeVar("Made_co", covariant=True)
Damage = list[DamagedFrameError]  # that was read around


class TrackletClips(NamedTuple):
    """Clips of the tracklets `rows[positions]`: int64 (b,) and uint8 (b, T, 3, H, W)."""

    positions: Tensor
    clips: Tensor


def training_batches(
    manifest: Manifest,
    plan: BatchPlan,
    *,
    first: int,
    last: int,
    shape: ClipShape,
    augmentation: Augmentation | None,
    num_workers: int,
    rank: int = 0,
    world: int = 1,
    quarantine: Quarantine | None = None,
) -> "Stream[PairedClips]":
    """The share of process `rank` of `world` in the batches of the steps first, first + 1, ... last - 1.

    Damage stops the stream, unless `quarantine` admits it.
    """
    source = _TrainingSource(plan, ClipReader(manifest, shape, augmentation), shape, rank, world)
    return Stream(source, range(first, last), num_workers, quarantine)


def test_clips(
    manifest: Manifest,
    rows: Integers,
    *,
    shape: ClipShape,
    batch_size: int,
    num_workers: int,
    place: int = 0,  # noqa: PT028 - no test
) -> "Stream[TrackletClips]":
    """One clip of each of the tracklets `rows` of the manifest, each exactly once, in order, not augmented.

    It is made of frame `place` of every chunk, as `test_indices` says.
    """
    source = _TestSource(rows, ClipReader(manifest, shape), shape, batch_size, place)
    return Stream(source, range(-(-len(rows) // batch_size)), num_workers)


class Stream(Generic[Item]):
    """An iterator over the items of a source, in order. Workers start when it is made, and end by `close`.

    `wait_seconds` is the time its user has spent waiting for items so far. Without workers, an item is made when it is
    asked for. An item may be kept: its memory is used again only after it is dropped.

    Raises DamagedShardError for damage, and RuntimeError if a worker died.
    """

    def __init__(
        self,
        source: "_Source[Item]",
        indices: range,
        num_workers: int,
        quarantine: Quarantine | None = None,
    ) -> None:
        self.wait_seconds = 0.0
        self._source = source
        self._quarantine = Quarantine(0) if quarantine is None else quarantine
        self._indices = iter(indices)
        self._crew = Crew(source.fill, source.shape, indices, num_workers) if num_workers else None

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Item:
        index = next(self._indices)
        started = time.perf_counter()
        pixels, damage = next(self._crew) if self._crew else self._fill(index)
        self.wait_seconds += time.perf_counter() - started
        self._quarantine.admit(damage)
        return self._source.wrap(index, pixels)

    def _fill(self, index: int) -> tuple[Pixels, Damage]:
        pixels = np.empty(self._source.shape, dtype=np.uint8)
        return pixels, self._source.fill(index, pixels)

    def close(self) -> None:
        """End the iteration and the workers. Items that were handed out stay valid."""
        self._indices = iter(())
        self._source.close()
        if self._crew:
            self._crew.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Source(Protocol[Made_co]):
    """What a stream is made of: `fill` writes the pixels of an item, `wrap` makes the item of them."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def fill(self, index: int, pixels: Pixels) -> Damage: ...

    def wrap(self, index: int, pixels: Pixels) -> Made_co: ...

    def close(self) -> None: ...


class _TrainingSource:
    """Item n is the batch of step n. Pixels (2, B, T, H, W, 3): visible, then infrared."""

    def __init__(self, plan: BatchPlan, reader: ClipReader, shape: ClipShape, rank: int, world: int) -> None:
        self.shape = (2, plan.pairs_per_process(world), *shape, 3)
        self._plan = plan
        self._reader = reader
        self._share = (rank, world)

    def fill(self, index: int, pixels: Pixels) -> Damage:
        batch = self._plan.batch(index, *self._share)
        positions = [
            modality * self._plan.num_pairs + batch.first + pair
            for modality in range(2)
            for pair in range(batch.identity.size)
        ]
        return self._reader.read_for_training(
            np.concatenate([batch.visible, batch.infrared]),
            [clip_generator(self._plan.seed, index, position) for position in positions],
            pixels.reshape(-1, *pixels.shape[2:]),
        )

    def close(self) -> None:
        self._reader.close()

    def wrap(self, index: int, pixels: Pixels) -> PairedClips:
        visible, infrared = as_tensor(pixels)
        return PairedClips(
            visible, infrared, torch.from_numpy(self._plan.batch(index, *self._share).identity)
        )


class _TestSource:
    """Item n is the n-th piece of the rows. Pixels (b, T, H, W, 3); the last piece may need fewer."""

    def __init__(
        self, rows: Integers, reader: ClipReader, shape: ClipShape, batch_size: int, place: int
    ) -> None:
        self.shape = (batch_size, *shape, 3)
        self._place = place
        self._rows = rows
        self._reader = reader

    def _piece(self, index: int) -> slice:
        return slice(index * self.shape[0], min((index + 1) * self.shape[0], len(self._rows)))

    def fill(self, index: int, pixels: Pixels) -> Damage:
        rows = self._rows[self._piece(index)]
        self._reader.read_for_test(rows, pixels[: len(rows)], self._place)
        return []

    def close(self) -> None:
        self._reader.close()

    def wrap(self, index: int, pixels: Pixels) -> TrackletClips:
        piece = self._piece(index)
        return TrackletClips(
            torch.arange(piece.start, piece.stop), as_tensor(pixels)[: piece.stop - piece.start]
        )
