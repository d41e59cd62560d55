"""Workers that turn planned batches into tensors, in order.

    step | piece of the rows -> _Source.fill   in a worker: frames are read, decoded and augmented into a slot of memory
    slot                     -> _Source.wrap   in the main process: tensors that look at the slot
                             -> Stream         items in order, and the seconds spent waiting for them

An item depends on its index alone, so the number of workers changes nothing but the speed, and a run that continues
at step n asks for step n: nothing is skipped, replayed or saved.

Pixels never travel: a stream maps its slots before it forks its workers, and only the number of a slot comes back. The
mapping is anonymous, so it is not bounded by /dev/shm, needs no file descriptor, and vanishes with the processes.
"""

import math
import mmap
import signal
import time
import weakref
from collections.abc import Generator, Iterator
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
    Integers,
    PairedClips,
    Pixels,
    as_tensor,
)
from reid.data.manifest import Manifest
from reid.data.shards import DamagedShardError

ITEMS_AHEAD = 2  # a worker prepares this many items before they are asked for
SPARE_SLOTS = 3  # one item just handed out, its predecessor still in use, and one to fill

Item = TypeVar("Item")
Made_co = TypeVar("Made_co", covariant=True)


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
) -> "Stream[PairedClips]":
    """The share of process `rank` of `world` in the batches of the steps first, first + 1, ... last - 1."""
    reader = ClipReader(manifest, shape, augmentation)
    return Stream(_TrainingSource(plan, reader, shape, rank, world), range(first, last), num_workers)


def test_clips(
    manifest: Manifest,
    rows: Integers,
    *,
    shape: ClipShape,
    batch_size: int,
    num_workers: int,
) -> "Stream[TrackletClips]":
    """One clip of each of the tracklets `rows` of the manifest, each exactly once, in order, not augmented."""
    source = _TestSource(rows, ClipReader(manifest, shape), shape, batch_size)
    return Stream(source, range(-(-len(rows) // batch_size)), num_workers)


class Stream(Generic[Item]):
    """An iterator over the items of a source, in order. Workers start when it is made.

    `wait_seconds` is the time its user has spent waiting for items so far. Without workers, an item is made when it is
    asked for. An item may be kept: its memory is used again only after it is dropped.

    Raises what a worker raised, or RuntimeError if a worker died.
    """

    def __init__(self, source: "_Source[Item]", indices: range, num_workers: int) -> None:
        self.wait_seconds = 0.0
        self._source = source
        self._indices = iter(indices)
        self._pixels = (
            _by_workers(source, indices, num_workers) if num_workers else _by_ourselves(source, indices)
        )

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Item:
        started = time.perf_counter()
        pixels = next(self._pixels)
        self.wait_seconds += time.perf_counter() - started
        return self._source.wrap(next(self._indices), pixels)

    def close(self) -> None:
        """End the workers and the iteration. Items that were handed out stay valid."""
        self._pixels.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Source(Protocol[Made_co]):
    """What a stream is made of: `fill` writes the pixels of an item, `wrap` makes the item of them."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def fill(self, index: int, pixels: Pixels) -> None: ...

    def wrap(self, index: int, pixels: Pixels) -> Made_co: ...

    def close(self) -> None: ...


class _TrainingSource:
    """Item n is the batch of step n. Pixels (2, B, T, H, W, 3): visible, then infrared."""

    def __init__(self, plan: BatchPlan, reader: ClipReader, shape: ClipShape, rank: int, world: int) -> None:
        self.shape = (2, plan.pairs_per_process(world), *shape, 3)
        self._plan = plan
        self._reader = reader
        self._share = (rank, world)

    def fill(self, index: int, pixels: Pixels) -> None:
        batch = self._plan.batch(index, *self._share)
        positions = [
            modality * self._plan.num_pairs + batch.first + pair
            for modality in range(2)
            for pair in range(batch.identity.size)
        ]
        self._reader.read_for_training(
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

    def __init__(self, rows: Integers, reader: ClipReader, shape: ClipShape, batch_size: int) -> None:
        self.shape = (batch_size, *shape, 3)
        self._rows = rows
        self._reader = reader

    def _piece(self, index: int) -> slice:
        return slice(index * self.shape[0], min((index + 1) * self.shape[0], len(self._rows)))

    def fill(self, index: int, pixels: Pixels) -> None:
        rows = self._rows[self._piece(index)]
        self._reader.read_for_test(rows, pixels[: len(rows)])

    def close(self) -> None:
        self._reader.close()

    def wrap(self, index: int, pixels: Pixels) -> TrackletClips:
        piece = self._piece(index)
        return TrackletClips(
            torch.arange(piece.start, piece.stop), as_tensor(pixels)[: piece.stop - piece.start]
        )


def _by_ourselves(source: _Source[Item], indices: range) -> Generator[Pixels, None, None]:
    try:
        for index in indices:
            pixels = np.empty(source.shape, dtype=np.uint8)
            source.fill(index, pixels)
            yield pixels
    finally:
        source.close()


def _by_workers(source: _Source[Item], indices: range, num_workers: int) -> Generator[Pixels, None, None]:
    """The pixels of each item, from worker processes that have been forked when this returns."""
    slots = _Slots(num_workers * ITEMS_AHEAD + SPARE_SLOTS, source.shape)
    filled: DataLoader[int | DamagedShardError] = DataLoader(
        _Filling(source, slots),
        batch_size=None,
        sampler=((index, slots.take()) for index in indices),
        num_workers=num_workers,
        prefetch_factor=ITEMS_AHEAD,
        multiprocessing_context="fork",
        worker_init_fn=_leave_signals_to_the_main_process,
        generator=torch.Generator(),  # else it draws from the global one, which belongs to the model
    )
    return _lent(slots, iter(filled))


def _lent(slots: "_Slots", filled: Iterator[int | DamagedShardError]) -> Generator[Pixels, None, None]:
    for slot in filled:
        if isinstance(slot, DamagedShardError):
            raise slot
        yield slots.lend(slot)


class _Filling(Dataset[int | DamagedShardError]):
    """What a worker does: fill the slot it is told to, and answer with its number."""

    def __init__(self, source: _Source[Item], slots: "_Slots") -> None:
        self._source = source
        self._slots = slots

    def __getitem__(self, order: tuple[int, int]) -> int | DamagedShardError:
        index, slot = order
        try:
            self._source.fill(index, self._slots.pixels[slot])
        except DamagedShardError as damage:
            return damage  # torch would hand on the text of an exception, but not the exception
        return slot


class _Slots:
    """Memory for the pixels of some items, shared with the processes that are forked after it is made.

    The main process alone keeps account of which slot is free.
    """

    def __init__(self, count: int, shape: tuple[int, ...]) -> None:
        memory = mmap.mmap(-1, count * math.prod(shape))
        self.pixels: Pixels = np.frombuffer(memory, dtype=np.uint8).reshape(count, *shape)
        self._free = list(range(count))

    def take(self) -> int:
        """A free slot, to be filled."""
        return self._free.pop()

    def lend(self, slot: int) -> Pixels:
        """The pixels of a filled slot, which is free again once nobody refers to them.

        The last free slot is never waited for: if many are lent, the pixels are a copy, and their slot is free at once.
        """
        pixels: Pixels = self.pixels[slot]
        if self._free:
            weakref.finalize(pixels, self._free.append, slot)
            return pixels
        self._free.append(slot)
        copy: Pixels = pixels.copy()
        return copy


def _leave_signals_to_the_main_process(_: int) -> None:
    """A scheduler signals every process of a job. The main one decides what that means; a worker ends when told to."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
