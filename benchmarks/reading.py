"""What reading must never cost or miss: a restart, cold pages, workers, the end of an epoch, damage.

A slice is a stream of a few batches, or one batch.
"""

import hashlib
import os
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing import active_children
from pathlib import Path

import numpy as np
import psutil
import torch

from benchmarks.timing import Row, ratio, seconds
from preprocess.records import FrameRecord, ShardRecord, TrackletRecord, describe, write_tables
from preprocess.verify import verify
from reid.data.augmentation import Augmentation
from reid.data.batches import BatchPlan
from reid.data.clips import ClipShape, PairedClips, normalise, test_indices
from reid.data.description import DESCRIPTION
from reid.data.loader import Stream, training_batches
from reid.data.manifest import Manifest
from reid.data.shards import DamagedShardError, ShardReader
from reid.data.ustar import archive_size
from reid.types import Modality, Role, Split

SHAPE = ClipShape()
SMALL = ClipShape(frames=1)
FAR = 10_000  # a step that a run may continue at
MEGABYTE = 1e6


def rows(root: Path, scratch: Path, rounds: int) -> Iterator[Row]:
    """`root` is packed at the size that the network takes; `scratch` may be filled and emptied."""
    manifest = Manifest.open(root)
    yield resuming(manifest, rounds)
    yield equality(manifest)
    yield cold_batches(manifest, rounds)
    yield opening(scratch / "large", rounds, 21_863, 26, "<= 30 ms")
    yield opening(scratch / "huge", rounds, 952_381, 200, "<= 1000 ms")
    yield extra_worker(manifest)
    yield boundaries(manifest, 40 * rounds)
    yield augmenting(manifest, rounds)
    yield flatness(manifest)
    yield from corruption(root, scratch / "damaged", 20 * rounds, 2 * rounds)


def stream(manifest: Manifest, first: int, last: int, **changes: object) -> Stream[PairedClips]:
    options = {"shape": SHAPE, "augmentation": Augmentation(), "num_workers": 1}
    plan = BatchPlan.of(manifest)
    return training_batches(manifest, plan, first=first, last=last, **options | changes)  # type: ignore[arg-type]


def resuming(manifest: Manifest, rounds: int) -> Row:
    def first_batch(step: int) -> float:
        started = time.perf_counter()
        with stream(manifest, step, step + 100) as batches:
            next(batches)
            return time.perf_counter() - started

    found = ratio(lambda: first_batch(FAR), lambda: first_batch(0), rounds)
    return Row(
        f"first batch at step {FAR:,}, over first batch at step 0, on the wall", f"{found:.2f}", "<= 1.1"
    )


def equality(manifest: Manifest, steps: int = 24) -> Row:
    """sha1 of all batches, for several numbers of workers, from any step, and while the number of processes changes."""

    def together(first: int, last: int, world: int, num_workers: int) -> bytes:
        shares = [
            stream(manifest, first, last, num_workers=num_workers, rank=rank, world=world)
            for rank in range(world)
        ]
        digest = hashlib.sha1(usedforsecurity=False)
        for parts in zip(*shares, strict=True):
            for tensors in zip(*parts, strict=True):
                digest.update(torch.cat(tensors).numpy().tobytes())
        for share in shares:
            share.close()
        return digest.digest()

    third = steps // 3
    thirds = [(0, third), (third, 2 * third), (2 * third, steps)]
    expected = [together(*piece, 1, 0) for piece in thirds]
    ways = {(world, num_workers) for world in (1, 2) for num_workers in range(4)}
    equal = [together(*thirds[1], *way) == expected[1] for way in sorted(ways)]
    changing = [together(*piece, world, 2) for piece, world in zip(thirds, (1, 2, 1), strict=True)]
    equal.append(changing == expected)
    whole = together(0, steps, 1, 3)
    equal.append(whole == together(0, steps, 1, 0))
    return Row(
        "sha1 of all batches as in one process: 0 to 3 workers, 1 or 2 processes, 1 -> 2 -> 1, resumed",
        f"{sum(equal)} of {len(equal)}",
        "all",
    )


def cold_batches(manifest: Manifest, rounds: int) -> Row:
    """Reading the frames of a batch from the disk: all announced first, or one after the other."""
    plan, reader = BatchPlan.of(manifest), ShardReader(manifest)

    def read(step: int, *, announced: bool) -> float:
        batch = plan.batch(step)
        choices = [
            (row, test_indices(int(manifest.num_frames[row]), SHAPE.frames))
            for row in [*batch.visible.tolist(), *batch.infrared.tolist()]
        ]
        _forget(manifest)
        before = _bytes_from_disk()
        started = time.perf_counter()
        if announced:
            reader.will_need(choices)
        for row, indices in choices:
            reader.read(row, indices)
        elapsed = time.perf_counter() - started
        if _bytes_from_disk() == before:
            raise RuntimeError(f"{manifest.root}: nothing came from a disk; put the scratch folder on one")
        return elapsed

    steps = iter(range(sys.maxsize))
    found = ratio(
        lambda: read(next(steps), announced=False), lambda: read(next(steps), announced=True), 3 * rounds
    )
    reader.close()
    return Row("a cold batch, frame by frame over announced first, on the wall", f"{found:.1f} x", ">= 2 x")


def _forget(manifest: Manifest) -> None:
    """Let the kernel forget the shards, which lie on the disk whole."""
    for shard in manifest.shards:
        descriptor = os.open(shard.path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def _bytes_from_disk() -> int:
    return int(psutil.Process().io_counters().read_bytes)


def opening(root: Path, rounds: int, num_tracklets: int, num_shards: int, target: str) -> Row:
    """The manifest of a large data set, without its pixels."""
    _write_manifest(root, num_tracklets, num_shards)
    frames = int(Manifest.open(root).num_frames.sum())
    found = statistics.median(seconds(lambda: Manifest.open(root)) for _ in range(rounds))
    what = f"opening a manifest of {num_tracklets:,} tracklets, {frames:,} frames"
    return Row(what, f"{1e3 * found:.0f} ms", target)


def _write_manifest(root: Path, num_tracklets: int, num_shards: int) -> None:
    frames = tuple(
        FrameRecord(f"0001/rgb/D1/{index}.jpg", 14_848 * index + 512, 14_000, index) for index in range(21)
    )

    def tracklet(number: int, shard: int, place: int) -> TrackletRecord:
        return TrackletRecord(
            key=f"train/{number:07d}/x",
            split=Split.TRAIN,
            role=Role.TRAIN,
            identity=number // 40,
            label=number // 40,
            modality=list(Modality)[number % 2],
            camera=1,
            tracklet=number,
            source="track_train_info.txt",
            row=number + 1,
            shard=shard,
            offset=place * 21 * 14_848,
            nbytes=21 * 14_848,
            width=144,
            height=288,
            is_gray=False,
            frames=frames,
        )

    def shards() -> Iterator[ShardRecord]:
        for shard, numbers in enumerate(np.array_split(np.arange(num_tracklets), num_shards)):
            tracklets = tuple(tracklet(number, shard, place) for place, number in enumerate(numbers.tolist()))
            name = f"large-train-{shard:06d}-of-{num_shards:06d}.tar"
            nbytes = archive_size(len(tracklets) * 21 * 14_848)
            yield ShardRecord("", True, "", name, nbytes, "0" * 64, tracklets, (), "0" * 64)

    root.mkdir(parents=True)
    files = write_tables(root, shards())
    content = {
        "name": "large",
        "synthetic": True,
        "protocol": {"minimum_frames": 12, "mixed": "keep"},
        "source": {
            "layout": "",
            "mixed_rows": {},
            **{name: [] for name in ("notes", "differences", "skipped_frames", "lost_tracklets")},
        },
        "options": {},
        "counts": {},
        **dict.fromkeys(("plan", "pictures"), "0" * 64),
    }
    (root / DESCRIPTION).write_bytes(describe(content, files))


def extra_worker(manifest: Manifest) -> Row:
    """What a worker adds to the memory of all processes, the slots for pixels left out."""
    with stream(manifest, 0, 100, num_workers=3) as batches:
        for _ in range(90):
            next(batches)
        found = statistics.median(_private_bytes(psutil.Process(child.pid)) for child in active_children())
    return Row("memory of an extra worker beside its slots", f"{found / MEGABYTE:.0f} MB", "<= 15 MB")


def _private_bytes(process: psutil.Process) -> int:
    """Resident bytes that no other process has, without anonymous shared memory."""
    maps = [each for each in process.memory_maps() if not each.path.startswith("/dev/zero")]
    return sum(each.private_clean + each.private_dirty for each in maps)


def boundaries(manifest: Manifest, steps: int) -> Row:
    """The wait for the first batch of a new order of identities, over the median wait."""
    plan = BatchPlan.of(manifest, num_identities=2)
    cycle = plan.identities.size // 2
    waits = []
    with training_batches(
        manifest, plan, first=0, last=steps, shape=SHAPE, augmentation=Augmentation(), num_workers=1
    ) as batches:
        before = 0.0
        for _ in batches:
            waits.append(batches.wait_seconds - before)
            before = batches.wait_seconds
    waits[: 2 * cycle] = []  # the worker starts
    found = statistics.median(waits[::cycle]) / statistics.median(waits)
    return Row("wait at the boundary of an epoch, over the median wait", f"{found:.2f}", "<= 1.5")


def augmenting(manifest: Manifest, rounds: int, clips: int = 64) -> Row:
    """What the CPU does to a frame after it is decoded, where no GPU normalises it."""
    with stream(manifest, 0, 1, augmentation=None, num_workers=0) as batches:
        pictures = next(batches).visible.movedim(2, -1).flatten(0, 1).numpy()  # (B*T, H, W, 3)
    changed = np.empty_like(pictures[: SHAPE.frames])
    generator = np.random.default_rng(0)

    def run() -> None:
        for clip in range(clips):
            changes = Augmentation().draw(SHAPE.frames, Modality.VISIBLE, generator)
            for frame, change in enumerate(changes):
                change.apply(pictures[(clip * SHAPE.frames + frame) % len(pictures)], changed[frame])
            normalise(torch.from_numpy(changed).movedim(-1, -3))

    found = statistics.median(seconds(run) for _ in range(rounds)) / clips / SHAPE.frames
    return Row("augmenting and normalising a frame on a CPU", f"{1e6 * found:.0f} us", "<= 230 us")


def flatness(manifest: Manifest, steps: int = 20_000, every: int = 1_000) -> Row:
    """How much memory all processes together gain in 1,000 batches, and whether files stay open."""
    measured = []
    with training_batches(
        manifest,
        BatchPlan.of(manifest, num_identities=2, num_tracklets=1),
        first=0,
        last=steps,
        shape=SMALL,
        augmentation=Augmentation(padding=2),
        num_workers=2,
    ) as batches:
        family = [psutil.Process(), *(psutil.Process(child.pid) for child in active_children())]
        for step, _ in enumerate(batches, 1):
            if step % every == 0:
                memory = sum(process.memory_full_info().uss for process in family)
                measured.append((step, memory, sum(process.num_fds() for process in family)))
    step, memory, files = np.array(measured, dtype=np.float64).T
    slope = float(np.polyfit(step, memory, 1)[0]) * 1_000 / MEGABYTE
    return Row(
        f"memory gained in 1,000 batches, over {steps:,}; files left open",
        f"{slope:.2f} MB; {files[-1] - files[0]:.0f}",
        "< 1 MB; 0",
    )


Edit = Callable[[Path, Manifest, np.random.Generator], None]


def _flip_in_a_frame(shard: Path, manifest: Manifest, generator: np.random.Generator) -> None:
    frames = manifest.frames(int(generator.integers(_of(shard, manifest))))
    index = generator.integers(frames.size.size)
    _flip(shard, int(frames.offset[index] + generator.integers(frames.size[index])), generator)


def _flip_anywhere(shard: Path, manifest: Manifest, generator: np.random.Generator) -> None:  # noqa: ARG001
    _flip(shard, int(generator.integers(shard.stat().st_size)), generator)


def _flip(shard: Path, place: int, generator: np.random.Generator) -> None:
    with shard.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ (1 << int(generator.integers(8)))]))


def _cut(shard: Path, manifest: Manifest, generator: np.random.Generator) -> None:
    last = manifest.frames(_of(shard, manifest) - 1)
    os.truncate(shard, int(generator.integers(last.offset[-1] + last.size[-1])))


def _remove(shard: Path, manifest: Manifest, generator: np.random.Generator) -> None:  # noqa: ARG001
    shard.unlink()


def _of(shard: Path, manifest: Manifest) -> int:
    """The number of tracklets in the first shard, which is the one that is damaged."""
    assert shard == manifest.shards[0].path
    return manifest.shards[0].num_tracklets


def corruption(root: Path, copy: Path, reads: int, checks: int) -> Iterator[Row]:
    """Damage at random places of one shard, and whether the reader by offset, and `verify`, name that shard."""
    shutil.copytree(root, copy)
    manifest = Manifest.open(copy)
    shard = manifest.shards[0].path
    shard.chmod(0o644)
    whole = shard.read_bytes()

    def is_found_by_reading() -> bool:
        reader = ShardReader(manifest)
        try:
            for row in range(manifest.shards[0].num_tracklets):
                reader.read(row, range(int(manifest.num_frames[row])))
        except DamagedShardError as error:
            return error.shard == shard
        finally:
            reader.close()
        return False

    def is_found_by_verifying() -> bool:
        return any(shard.name in damage.file for damage in verify(copy, quick=True).damages)

    def count(edits: list[Edit], is_found: Callable[[], bool], trials: int) -> str:
        generator, found = np.random.default_rng(0), 0
        for trial in range(trials):
            edits[trial % len(edits)](shard, manifest, generator)
            found += is_found()
            shard.write_bytes(whole)
        return f"{found} of {trials}" if not is_found() else "damage where there is none"

    yield Row(
        "damage found by reading: a bit of a frame flipped, shard cut, shard missing",
        count([_flip_in_a_frame, _cut, _remove], is_found_by_reading, reads),
        "all",
    )
    yield Row(
        "damage found by verify --quick: any bit of a shard flipped, shard cut, shard missing",
        count([_flip_anywhere, _cut, _remove], is_found_by_verifying, checks),
        "all",
    )
