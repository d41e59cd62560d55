"""Damaged frames in training: what stands in for them, and how many may."""

import json
import logging
import shutil
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from reid.data import loader
from reid.data.augmentation import Augmentation
from reid.data.batches import BatchPlan, clip_generator
from reid.data.clips import ClipReader, ClipShape, PairedClips, training_indices
from reid.data.loader import Stream
from reid.data.manifest import Manifest
from reid.data.quarantine import Quarantine
from reid.data.shards import DamagedFrameError, DamagedShardError
from reid.types import Modality, Role

Frames = Iterable[tuple[int, int]]  # rows of the manifest, and frames of these tracklets
SHAPE = ClipShape(6, 32, 16)
STEPS = 12


@pytest.fixture
def damaged(painted_root: Path, tmp_path: Path) -> Callable[[Frames], Manifest]:
    """Makes a copy in which a byte of each of the given frames has changed."""

    def damage(frames: Frames) -> Manifest:
        manifest = Manifest.open(Path(shutil.copytree(painted_root, tmp_path / "damaged")))
        for row, index in frames:
            table = manifest.frames(row)
            table.shard.chmod(0o644)
            with table.shard.open("r+b") as file:
                file.seek(int(table.offset[index]) + 30)
                file.write(b"\xff\xff")
        return manifest

    return damage


@pytest.fixture
def widely_damaged(damaged: Callable[[Frames], Manifest], painted: Manifest) -> Manifest:
    """Every seventh frame to train on is damaged, and the one after it in every third tracklet."""
    rows = painted.rows(Role.TRAIN).tolist()
    places = [(row, index) for row in rows for index in range(0, painted.num_frames[row], 7)]
    return damaged([*places, *((row, 1) for row in rows[::3])])


def start(manifest: Manifest, quarantine: Quarantine | None, **changes: object) -> Stream[PairedClips]:
    plan = BatchPlan.of(manifest, num_identities=4, num_tracklets=2, seed=3)
    options = {"first": 0, "last": STEPS, "num_workers": 0, "augmentation": Augmentation(padding=3)}
    return loader.training_batches(manifest, plan, shape=SHAPE, quarantine=quarantine, **options | changes)


def batches(manifest: Manifest, quarantine: Quarantine | None, **changes: object) -> list[PairedClips]:
    with start(manifest, quarantine, **changes) as stream:
        return [PairedClips(*(tensor.clone() for tensor in batch)) for batch in stream]


def same(found: Iterable[PairedClips], expected: Iterable[PairedClips]) -> bool:
    return all(
        torch.equal(one, other)
        for one_batch, other_batch in zip(found, expected, strict=True)
        for one, other in zip(one_batch, other_batch, strict=True)
    )


def complaint(key: str = "train/1", offset: int = 512) -> DamagedFrameError:
    return DamagedFrameError(Path("x.tar"), key, offset, f"the checksum at {offset} is wrong")


@pytest.mark.parametrize(
    ("broken", "expected"),
    [
        ([5], {5: 4}),
        ([4, 5], {4: 3, 5: 6}),
        ([0, 1], {0: 2, 1: 2}),
        ([9, 10, 11], {9: 8, 10: 8, 11: 8}),
        ([*range(7), *range(8, 12)], dict.fromkeys([*range(7), *range(8, 12)], 7)),
    ],
)
def test_the_nearest_sound_frame_of_the_tracklet_stands_in(
    painted: Manifest, damaged: Callable[[Frames], Manifest], broken: list[int], expected: dict[int, int]
) -> None:
    row = next(row for row in painted.rows(Role.TRAIN).tolist() if painted.num_frames[row] == 12)
    reader = ClipReader(damaged([(row, index) for index in broken]), SHAPE)
    for position in range(8):
        clip = np.empty((1, *SHAPE, 3), dtype=np.uint8)
        reader.read_for_training(np.array([row]), [clip_generator(0, 0, position)], clip)
        shown = np.rint(clip[0, :, 16, 8, 2] / 10).astype(int).tolist()
        drawn = training_indices(12, 6, clip_generator(0, 0, position)).tolist()
        assert shown == [expected.get(index, index) for index in drawn]


def test_all_that_was_damaged_on_the_way_to_a_substitute_is_told(
    painted: Manifest, damaged: Callable[[Frames], Manifest]
) -> None:
    row = int(painted.rows(Role.TRAIN)[0])
    manifest = damaged([(row, index) for index in range(painted.num_frames[row] - 1)])
    clip = np.empty((1, *SHAPE, 3), dtype=np.uint8)
    found = ClipReader(manifest, SHAPE).read_for_training(np.array([row]), [clip_generator(0, 0, 0)], clip)
    frames = manifest.frames(row)
    assert {damage.offset for damage in found} <= set(frames.offset[:-1].tolist())
    assert frames.offset[0] in {damage.offset for damage in found}
    assert {(damage.shard, damage.key) for damage in found} == {(frames.shard, manifest.key(row))}
    assert all("checksum of frame" in damage.reason for damage in found)


def test_what_is_not_damaged_is_as_it_was(painted: Manifest, widely_damaged: Manifest) -> None:
    """Shifts and flips too: only pixels of damaged frames differ, and those do."""
    quarantine = Quarantine(1000)
    pairs = zip(batches(painted, None), batches(widely_damaged, quarantine), strict=True)
    differing = [(whole.visible != other.visible).flatten(2).any(2) for whole, other in pairs]
    share = torch.cat(differing).double().mean()
    assert 0.1 < share < 0.3
    assert len(quarantine) > 20


@pytest.mark.parametrize("num_workers", [1, 2, 3])
def test_damage_changes_batches_alike_for_every_number_of_workers(
    widely_damaged: Manifest, num_workers: int
) -> None:
    alone, together = Quarantine(1000), Quarantine(1000)
    expected = batches(widely_damaged, alone)
    assert same(batches(widely_damaged, together, num_workers=num_workers), expected)
    assert together.state() == alone.state()


def test_damage_changes_batches_alike_after_a_restart(widely_damaged: Manifest) -> None:
    expected = batches(widely_damaged, whole := Quarantine(1000))
    batches(widely_damaged, before := Quarantine(1000), last=5)
    after = Quarantine(1000)
    after.unite([json.loads(json.dumps(before.state()))])
    assert same(batches(widely_damaged, after, first=5), expected[5:])
    assert after.state() == whole.state()


@pytest.mark.parametrize("world", [2, 4])
def test_processes_meet_together_what_one_would_have_met(widely_damaged: Manifest, world: int) -> None:
    expected = batches(widely_damaged, whole := Quarantine(1000))
    each = [Quarantine(1000) for _ in range(world)]
    shares = [batches(widely_damaged, each[rank], rank=rank, world=world) for rank in range(world)]
    joined = [
        PairedClips(*(torch.cat(parts) for parts in zip(*of_a_step, strict=True)))
        for of_a_step in zip(*shares, strict=True)
    ]
    assert same(joined, expected)
    states = [quarantine.state() for quarantine in each]
    for quarantine in each:
        quarantine.unite(states)
    assert {len(quarantine) for quarantine in each} == {len(whole)}


@pytest.mark.parametrize("num_workers", [0, 3])
def test_the_frame_that_is_one_too_many_stops_the_stream_in_the_same_step(
    widely_damaged: Manifest, num_workers: int
) -> None:
    counts = []
    for last in range(STEPS + 1):
        batches(widely_damaged, quarantine := Quarantine(1000), last=last)
        counts.append(len(quarantine))
    bound = counts[STEPS // 2]
    step = next(step for step, (_, after) in enumerate(pairwise(counts)) if after > bound)
    quarantine = Quarantine(bound)
    with start(widely_damaged, quarantine, num_workers=num_workers) as stream:
        for _ in range(step):
            next(stream)
        with pytest.raises(
            DamagedFrameError, match=f"checksum of frame.*{bound} other damaged frames"
        ) as caught:
            next(stream)
    assert caught.value.key.startswith("train/")
    assert len(quarantine) == bound


@pytest.mark.parametrize("quarantine", [None, Quarantine(0)])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_without_a_quarantine_the_first_damage_stops_the_stream(
    widely_damaged: Manifest, num_workers: int, quarantine: Quarantine | None
) -> None:
    with (
        start(widely_damaged, quarantine, num_workers=num_workers) as stream,
        pytest.raises(DamagedFrameError, match=r"checksum of frame \d+ is wrong: its bytes have changed\. F"),
    ):
        list(stream)


def test_every_frame_is_told_once_with_shard_key_and_byte(
    widely_damaged: Manifest, caplog: pytest.LogCaptureFixture
) -> None:
    quarantine = Quarantine(1000)
    with caplog.at_level(logging.ERROR):
        batches(widely_damaged, quarantine)
        batches(widely_damaged, quarantine)
    assert len(caplog.messages) == len(set(caplog.messages)) == len(quarantine)
    for message, (shard, key, offset, *_) in zip(caplog.messages, quarantine.state(), strict=True):
        assert message.startswith(f"{shard}: tracklet {key}, byte {offset}: the checksum of frame ")


def test_a_tracklet_without_a_sound_frame_stops_training(
    painted: Manifest, damaged: Callable[[Frames], Manifest]
) -> None:
    row = int(painted.rows(Role.TRAIN, Modality.INFRARED)[0])
    manifest = damaged([(row, index) for index in range(painted.num_frames[row])])
    with pytest.raises(
        DamagedFrameError, match=f"none of {painted.num_frames[row]} frames is sound"
    ) as caught:
        batches(manifest, Quarantine(1000))
    assert caught.value.key == manifest.key(row)


def test_a_shard_that_cannot_be_read_stops_training(damaged: Callable[[Frames], Manifest]) -> None:
    """Whether it can be read may change from hour to hour, and what a batch is may not."""
    manifest = damaged([])
    manifest.frames(int(manifest.rows(Role.TRAIN)[0])).shard.unlink()
    with pytest.raises(DamagedShardError, match="cannot be opened"):
        batches(manifest, Quarantine(1000))


def test_evaluation_has_no_quarantine(widely_damaged: Manifest) -> None:
    rows = widely_damaged.rows(Role.TRAIN)
    with (
        loader.test_clips(widely_damaged, rows, shape=SHAPE, batch_size=4, num_workers=0) as stream,
        pytest.raises(DamagedFrameError, match="checksum of frame 0 is wrong"),
    ):
        list(stream)


def test_frames_of_others_count_once_and_to_the_same_bound(caplog: pytest.LogCaptureFixture) -> None:
    mine, others = Quarantine(3), Quarantine(3)
    mine.admit([complaint("train/1"), complaint("train/2")])
    others.admit([complaint("train/2"), complaint("train/2", 1024)])
    caplog.clear()
    mine.unite([mine.state(), others.state()])
    assert len(mine) == 3
    assert caplog.messages == []
    with pytest.raises(
        DamagedFrameError, match=r"^x\.tar: tracklet train/4, byte 512: .*3 other damaged frames"
    ):
        mine.unite([[["x.tar", "train/4", 512, "cut", "Pack again."]]])
    mine.admit([complaint("train/1")])
    assert len(mine) == 3
