"""The loader: the right pixels in order for any number of workers, with flat memory."""

import gc
import shutil
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from reid.data import clips, loader
from reid.data.augmentation import Augmentation
from reid.data.batches import BatchPlan
from reid.data.clips import ClipShape, PairedClips
from reid.data.loader import Stream
from reid.data.manifest import Manifest
from reid.data.shards import DamagedShardError
from reid.types import Modality, Role

SHAPE = ClipShape(6, 32, 16)
Streams = Callable[..., Stream[PairedClips]]
Workers = Callable[[], list[psutil.Process]]


@pytest.fixture
def training(painted: Manifest) -> Streams:
    def start(first: int = 0, last: int = 8, **changes: object) -> Stream[PairedClips]:
        plan = BatchPlan.of(painted, num_identities=4, num_tracklets=2, seed=3)
        options = {"shape": SHAPE, "augmentation": Augmentation(padding=3, grey_probability=0.5)}
        return loader.training_batches(
            painted, plan, first=first, last=last, **options | {"num_workers": 0} | changes
        )

    return start


pytestmark = pytest.mark.usefixtures("workers")


def same(found: PairedClips, expected: PairedClips) -> bool:
    return all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def colours(batch: torch.Tensor) -> torch.Tensor:
    """(identity, tracklet, frame) of each frame, as painted. (B, T, 3)"""
    return (batch[..., 16, 8].float() / 10).round().long()


@pytest.mark.parametrize("num_workers", [1, 2, 3])
def test_batches_do_not_depend_on_the_number_of_workers(training: Streams, num_workers: int) -> None:
    expected = list(training())
    with training(num_workers=num_workers) as stream:
        found = [PairedClips(*(tensor.clone() for tensor in batch)) for batch in stream]
    assert len(found) == 8
    assert all(same(one, other) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_stream_that_starts_at_step_n_goes_on_as_one_that_started_at_zero(
    training: Streams, num_workers: int
) -> None:
    expected = list(training())
    with training(first=5, num_workers=num_workers) as stream:
        assert all(same(one, other) for one, other in zip(stream, expected[5:], strict=True))


@pytest.mark.parametrize("world", [2, 4])
def test_processes_share_the_very_clips_that_one_process_would_see(training: Streams, world: int) -> None:
    shares = [list(training(rank=rank, world=world)) for rank in range(world)]
    for step, expected in enumerate(training()):
        together = PairedClips(*(torch.cat(parts) for parts in zip(*(s[step] for s in shares), strict=True)))
        assert same(together, expected)


def test_row_i_of_both_modalities_shows_the_identity_of_row_i(painted: Manifest, training: Streams) -> None:
    identities = np.unique(painted.identity[painted.rows(Role.TRAIN)])
    for visible, infrared, identity in training(augmentation=None):
        assert visible.shape == infrared.shape == (8, 6, 3, 32, 16)
        assert visible.dtype == infrared.dtype == torch.uint8
        shown = torch.from_numpy(identities)[identity]
        assert torch.equal(colours(visible)[:, :, 0], shown[:, None].expand(8, 6))
        assert torch.equal(colours(infrared)[:, :, 0], shown[:, None].expand(8, 6))
        assert (colours(visible)[:, 1:, 2] >= colours(visible)[:, :-1, 2]).all()


def test_clips_are_laid_out_as_convolutions_like_them(training: Streams) -> None:
    with training(num_workers=1) as stream:
        for visible, infrared, _ in stream:
            for batch in (visible, infrared):
                frames = batch.flatten(0, 1)
                assert frames.data_ptr() == batch.data_ptr()
                assert frames.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize(("batch_size", "place"), [(1, 0), (4, 0), (5, 1), (100, 0)])
def test_each_tracklet_is_tested_exactly_once_and_in_order(
    painted: Manifest, num_workers: int, batch_size: int, place: int
) -> None:
    rows = painted.rows(Role.GALLERY, Modality.VISIBLE)[::-1].copy()
    with loader.test_clips(
        painted, rows, shape=SHAPE, batch_size=batch_size, num_workers=num_workers, place=place
    ) as stream:
        positions, seen = zip(*((positions, colours(batch)) for positions, batch in stream), strict=True)
    assert torch.cat(positions).tolist() == list(range(rows.size))
    for row, shown in zip(rows, torch.cat(seen), strict=True):
        assert shown[:, 0].tolist() == [painted.identity[row]] * 6
        assert shown[:, 2].tolist() == clips.test_indices(int(painted.num_frames[row]), 6, place).tolist()


@pytest.mark.parametrize("num_workers", [0, 2])
def test_no_rows_give_no_clips(painted: Manifest, num_workers: int) -> None:
    rows = np.array([], dtype=np.int64)
    with loader.test_clips(painted, rows, shape=SHAPE, batch_size=4, num_workers=num_workers) as stream:
        assert list(stream) == []


def test_batches_that_are_kept_do_not_change(training: Streams) -> None:
    expected = list(training(last=30))
    with training(last=30, num_workers=2) as stream:
        kept = list(stream)
    assert all(same(one, other) for one, other in zip(kept, expected, strict=True))


def test_the_random_numbers_of_the_model_are_left_alone(training: Streams) -> None:
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002
    with training(num_workers=2) as stream:
        list(stream)
    list(training())
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]  # noqa: NPY002


def test_the_time_spent_waiting_is_counted(training: Streams) -> None:
    stream = training(last=3)
    waited = [stream.wait_seconds]
    began = time.monotonic()
    for _ in stream:
        waited.append(stream.wait_seconds)
        time.sleep(0.2)
    assert waited[0] == 0.0
    assert all(later > earlier for earlier, later in pairwise(waited))
    assert waited[-1] <= time.monotonic() - began - 3 * 0.2


@pytest.mark.parametrize("taken", [0, 1, 3])
def test_closing_ends_the_workers_and_the_stream(training: Streams, workers: Workers, taken: int) -> None:
    stream = training(last=10_000, num_workers=2)
    kept = [next(stream) for _ in range(taken)]
    assert len(workers()) == 2
    stream.close()
    assert workers() == []
    assert list(stream) == []
    assert all(same(batch, expected) for batch, expected in zip(kept, training(), strict=False))


@pytest.fixture
def damaged(painted_root: Path, tmp_path: Path) -> tuple[Manifest, int]:
    """A copy in which one byte of the first frame of one tracklet has changed, and the row of the tracklet."""
    shutil.copytree(painted_root, tmp_path / "damaged")
    manifest = Manifest.open(tmp_path / "damaged")
    row = int(manifest.rows(Role.TRAIN, Modality.VISIBLE)[4])
    frames = manifest.frames(row)
    data = bytearray(frames.shard.read_bytes())
    data[frames.offset[0] + frames.size[0] // 2] ^= 0x10
    frames.shard.chmod(0o644)
    frames.shard.write_bytes(data)
    return manifest, row


@pytest.mark.parametrize("num_workers", [0, 2])
def test_damage_stops_the_stream_with_shard_key_and_offset(
    damaged: tuple[Manifest, int], num_workers: int
) -> None:
    manifest, row = damaged
    rows = manifest.rows(Role.TRAIN, Modality.VISIBLE)
    with loader.test_clips(manifest, rows, shape=SHAPE, batch_size=2, num_workers=num_workers) as stream:
        assert [next(stream).positions.tolist() for _ in range(2)] == [[0, 1], [2, 3]]
        with pytest.raises(DamagedShardError, match="checksum of frame 0") as caught:
            next(stream)
    frames = manifest.frames(row)
    assert (caught.value.shard, caught.value.key) == (frames.shard, manifest.key(row))
    assert caught.value.offset == frames.offset[0]


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [0, 2])
def test_memory_and_open_files_stay_flat_over_many_batches(
    painted: Manifest, workers: Workers, num_workers: int
) -> None:
    """Below 1 MB in 1,000 batches, in all processes together; the median, because pages that were shared may part."""
    plan = BatchPlan.of(painted, num_identities=2, num_tracklets=1)
    shape = ClipShape(1, 32, 16)
    measured = []
    with loader.training_batches(
        painted,
        plan,
        first=0,
        last=6000,
        shape=shape,
        augmentation=Augmentation(padding=2),
        num_workers=num_workers,
    ) as stream:
        family = [psutil.Process(), *workers()]
        for step, _ in enumerate(stream):
            if step % 500 == 499:
                memory = sum(process.memory_full_info().uss for process in family)
                measured.append((step, memory, sum(process.num_fds() for process in family)))
    step, memory, files = np.array(measured).T
    assert np.median(np.diff(memory) / np.diff(step)) * 1000 < 1e6
    assert len(set(files.tolist())) == 1


@pytest.mark.parametrize("num_workers", [0, 2])
def test_streams_leave_no_open_files(painted: Manifest, num_workers: int) -> None:
    def evaluate() -> int:
        rows = painted.rows(Role.QUERY)
        with loader.test_clips(painted, rows, shape=SHAPE, batch_size=4, num_workers=num_workers) as stream:
            next(stream)
        return psutil.Process().num_fds()

    evaluate()
    gc.collect()  # what the tests before have left
    assert len({evaluate() for _ in range(8)}) == 1
