"""Workers that turn planned batches into tensors, in order.

    step | piece of the rows -> _TrainingSource | _TestSource   what to decode, by whichever worker
                             -> Stream                          items in order, and the seconds spent waiting for them

An item depends on its index alone, so the number of workers changes nothing but the speed, and a run that continues
at step n asks for step n: nothing is skipped, replayed or saved.
"""

import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Generic, NamedTuple, Protocol, Self, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from reid.data.batches import BatchPlan, clip_generator
from reid.data.clips import (
    Augmentation,
    ClipReader,
    ClipShape,
    PairedClips,
    Pixels,
    as_tensor,
    test_indices,
    training_indices,
)
from reid.data.manifest import Manifest
from reid.types import Modality

Item = TypeVar("Item", covariant=True)


class TrackletClips(NamedTuple):
    """Clips of the tracklets `rows[positions]`: positions int64 (b,), clips uint8 (b, T, 3, H, W)."""

    positions: Tensor
    clips: Tensor


def training_batches(
    manifest: Manifest,
    plan: BatchPlan,
    *,
    first: int,
    last: int,
    shape: ClipShape = ClipShape(),
    augmentation: Augmentation | None = Augmentation(),
    rank: int = 0,
    world: int = 1,
    num_workers: int = 0,
) -> "Stream[PairedClips]":
    """The share of process `rank` of `world` in the batches of the steps first, first + 1, ... last - 1.

    The first batches are decoded while this returns. Close the stream, or use it in a `with` block, to end its workers.
    """
    source = _TrainingSource(manifest, plan, shape, augmentation, rank, world)
    return Stream(source, range(first, last), num_workers)


def test_clips(
    manifest: Manifest,
    rows: np.ndarray,
    *,
    shape: ClipShape = ClipShape(),
    batch_size: int = 32,
    num_workers: int = 0,
) -> "Stream[TrackletClips]":
    """One clip of each of the given tracklets, each exactly once and in order, without augmentation."""
    source = _TestSource(manifest, np.asarray(rows, dtype=np.int64), shape, batch_size)
    return Stream(source, range(source.num_batches), num_workers)


class _Source(Protocol[Item]):
    """Makes item `index` in two halves: workers `fill` memory with pixels, the main process does `wrap` them."""

    def fill(self, index: int) -> Pixels: ...

    def wrap(self, index: int, pixels: Pixels) -> Item: ...


class _TrainingSource:
    def __init__(
        self,
        manifest: Manifest,
        plan: BatchPlan,
        shape: ClipShape,
        augmentation: Augmentation | None,
        rank: int,
        world: int,
    ) -> None:
        self._plan = plan
        self._share = (rank, world)
        self._augmentation = augmentation
        self._reader = ClipReader(manifest, shape)
        self._num_frames = manifest.num_frames

    def fill(self, index: int) -> Pixels:
        raise NotImplementedError

    def wrap(self, index: int, pixels: Pixels) -> PairedClips:
        identity = torch.from_numpy(self._plan.batch(index, *self._share).identity)
        visible, infrared = as_tensor(pixels)
        return PairedClips(visible, infrared, identity)


class Stream(Generic[Item]):
    """An iterator over items 'in order'. `wait_seconds` is the time its user has spent waiting for them."""

    wait_seconds: float

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Item:
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the workers."""
