"""reid/training/checkpoint.py: whole or not at all, every damage found, and the former one always there."""

import errno
import json
import logging
import os
import random
import resource
import shutil
import signal
import time
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reid.training import checkpoint
from reid.training.checkpoint import DamagedCheckpointError, Snapshot

NAMES = ("contents.json", "momentum.safetensors", "state.json", "weights.safetensors")


def snapshot_of(step: int, size: int = 20) -> Snapshot:
    generator = torch.Generator().manual_seed(step)
    weights = {
        "stem.weight": torch.randn(size, 3, generator=generator, dtype=torch.float64).t(),  # not contiguous
        "neck.num_batches_tracked": torch.tensor(step),
        "half": torch.randn(size, generator=generator).bfloat16(),
    }
    momentum = {"stem.weight": torch.randn(3, size, generator=generator, dtype=torch.float64)}
    return Snapshot(step, weights, momentum, {"config": {"seed": 3}, "loss": 0.1 + 0.2, "by name": [1, None]})


def assert_equal(found: Snapshot, expected: Snapshot) -> None:
    assert (found.step, found.state) == (expected.step, expected.state)
    for ours, theirs in ((found.weights, expected.weights), (found.momentum, expected.momentum)):
        assert ours.keys() == theirs.keys()
        assert all(
            ours[name].equal(theirs[name]) and ours[name].dtype is theirs[name].dtype for name in theirs
        )


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint.publish(tmp_path_factory.mktemp("published"), snapshot_of(7))


@pytest.fixture
def copy(published: Path, tmp_path: Path) -> Path:
    """A checkpoint to damage."""
    return Path(shutil.copytree(published, tmp_path / published.name))


def test_what_is_published_is_what_is_loaded(published):
    assert published.name == "step-00000007"
    assert_equal(checkpoint.load(published), snapshot_of(7))


def test_the_average_of_a_run_that_keeps_one_is_a_fifth_file_that_is_watched_too(tmp_path):
    plain = snapshot_of(3)
    kept = Snapshot(3, plain.weights, plain.momentum, plain.state, snapshot_of(4).weights)
    folder = checkpoint.publish(tmp_path, kept)
    assert sorted(path.name for path in folder.iterdir()) == ["average.safetensors", *sorted(NAMES)]
    found = checkpoint.load(folder)
    assert_equal(found, kept)
    torch.testing.assert_close(found.average, kept.average, rtol=0, atol=0)
    torch.testing.assert_close(found.copied().average, kept.average, rtol=0, atol=0)
    assert (found.evaluated is found.average, plain.evaluated is plain.weights) == (True, True)
    average = folder / "average.safetensors"
    whole = average.read_bytes()
    average.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(DamagedCheckpointError, match=r"average\.safetensors: expected"):
        checkpoint.load(folder)
    average.unlink()
    with pytest.raises(DamagedCheckpointError, match=r"average\.safetensors: missing"):
        checkpoint.load(folder)


def test_a_checkpoint_is_four_files_and_none_is_a_pickle(published):
    assert sorted(path.name for path in published.iterdir()) == sorted(NAMES)
    for path in published.iterdir():
        data = path.read_bytes()
        if path.suffix == ".json":
            json.loads(data)
        else:
            length = int.from_bytes(data[:8], "little")
            assert "stem.weight" in json.loads(data[8 : 8 + length])
    assert [path for path in published.parent.iterdir() if path != published] == []


@settings(max_examples=200, deadline=None)
@given(name=st.sampled_from(NAMES), place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_any_flipped_bit_is_found(published, name, place, bit):
    path = published / name
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[int(place * len(whole))] ^= 1 << bit
    path.write_bytes(damaged)
    try:
        with pytest.raises(DamagedCheckpointError) as caught:
            checkpoint.load(published)
    finally:
        path.write_bytes(whole)
    assert str(published) in str(caught.value)


@settings(max_examples=60, deadline=None)
@given(name=st.sampled_from(NAMES), place=st.floats(0, 1, exclude_max=True), tail=st.binary(max_size=3))
def test_any_cut_or_grown_file_is_found(published, name, place, tail):
    path = published / name
    whole = path.read_bytes()
    for damaged in (whole[: int(place * len(whole))] + tail, whole + b"\0" + tail):
        path.write_bytes(damaged)
        try:
            if damaged != whole:
                with pytest.raises(DamagedCheckpointError):
                    checkpoint.verify(published)
        finally:
            path.write_bytes(whole)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    garbage=st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(NAMES) | st.text(), inner),
    )
)
def test_contents_that_say_something_else_are_found(copy, garbage):
    (copy / "contents.json").write_text(json.dumps(garbage))
    with pytest.raises(DamagedCheckpointError, match=r"contents\.json"):
        checkpoint.load(copy)


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_file_is_named(copy, name):
    (copy / name).unlink()
    with pytest.raises(DamagedCheckpointError, match=name):
        checkpoint.load(copy)


def test_a_checkpoint_of_another_format_names_the_remedy(tmp_path):
    folder = checkpoint.publish(tmp_path, Snapshot(1, {}, {}, {"format": 99}))
    with pytest.raises(ValueError, match="use the version that wrote it"):
        checkpoint.load(folder)


def test_the_newest_is_found_and_a_damaged_one_named_and_passed_over(tmp_path, caplog):
    assert checkpoint.newest(tmp_path / "none") is None
    first, second, third = (checkpoint.publish(tmp_path, snapshot_of(step)) for step in (9, 10, 11))
    assert checkpoint.newest(tmp_path) == third
    (third / "weights.safetensors").unlink()
    (second / "state.json").write_text("{}")
    with caplog.at_level(logging.WARNING):
        assert checkpoint.newest(tmp_path) == first
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2
    assert str(third / "weights.safetensors") in told[0]
    assert str(second / "state.json") in told[1]
    shutil.rmtree(first)
    assert checkpoint.newest(tmp_path) is None


def test_publishing_again_replaces_a_damaged_one(tmp_path):
    folder = checkpoint.publish(tmp_path, snapshot_of(3))
    (folder / "weights.safetensors").write_bytes(b"")
    assert checkpoint.publish(tmp_path, snapshot_of(3)) == folder
    assert_equal(checkpoint.load(folder), snapshot_of(3))


def test_what_cannot_be_read_is_named_and_passed_over_like_what_is_damaged(tmp_path):
    former, broken = (checkpoint.publish(tmp_path, snapshot_of(step)) for step in (1, 2))
    (broken / "weights.safetensors").unlink()
    (broken / "weights.safetensors").symlink_to("/proc/self/mem")  # every read of it fails
    with pytest.raises(DamagedCheckpointError, match=r"weights\.safetensors: cannot be read .*Errno 5"):
        checkpoint.verify(broken)
    assert checkpoint.newest(tmp_path) == former


def test_no_damaged_checkpoint_is_kept_in_the_place_of_a_valid_one(tmp_path):
    first, second, damaged = (checkpoint.publish(tmp_path, snapshot_of(step)) for step in (1, 2, 8))
    (damaged / "contents.json").unlink()
    checkpoint.set_aside(tmp_path, second)  # the run goes on from 2
    checkpoint.publish(tmp_path, snapshot_of(9))
    checkpoint.prune(tmp_path, 2)
    assert [path.name for path in checkpoint.published(tmp_path)] == ["step-00000002", "step-00000009"]
    assert not first.exists()
    aside = tmp_path / "damaged-step-00000008"
    assert (aside / "weights.safetensors").exists()


def test_what_was_set_aside_before_gives_way(tmp_path):
    for size in (10, 20):
        checkpoint.publish(tmp_path, snapshot_of(8, size=size))
        checkpoint.set_aside(tmp_path, None)  # nothing valid is left
    assert [path.name for path in tmp_path.iterdir()] == ["damaged-step-00000008"]
    assert_equal(checkpoint.load(tmp_path / "damaged-step-00000008"), snapshot_of(8, size=20))


def test_what_an_interrupted_writer_left_counts_for_nothing_and_is_in_nobodys_way(tmp_path):
    former = checkpoint.publish(tmp_path, snapshot_of(1))
    for pid in (os.getpid(), 1):  # numbers of processes come again, in containers above all
        left = tmp_path / f".partial-00000002-{pid}"
        left.mkdir()
        shutil.copy(former / "weights.safetensors", left)
    assert checkpoint.newest(tmp_path) == former
    checkpoint.publish(tmp_path, snapshot_of(2))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000001", "step-00000002"]


def _publish_until_killed(folder: Path, first: int, published: Any) -> None:
    for step in range(first, first + 1000):
        checkpoint.publish(folder, snapshot_of(step, size=5_000))
        checkpoint.prune(folder, 2)
        published.send(step)


def test_a_writer_killed_at_any_moment_leaves_its_last_checkpoint_valid(tmp_path):
    context, moments = get_context("fork"), random.Random(0)
    step = 0
    for _ in range(10):
        ours, theirs = context.Pipe(duplex=False)
        writer = context.Process(target=_publish_until_killed, args=(tmp_path, step + 1, theirs))
        writer.start()
        theirs.close()
        told = ours.recv()
        time.sleep(moments.uniform(0, 0.05))
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        while ours.poll():
            try:
                told = ours.recv()
            except EOFError:
                break
        newest = checkpoint.newest(tmp_path)
        found = checkpoint.load(newest)
        assert found.step in {told, told + 1}  # it may be killed between the rename and its word of it
        assert_equal(found, snapshot_of(found.step, size=5_000))
        step = found.step
    assert step >= 10


def test_a_disk_without_room_is_refused_before_anything_is_written(tmp_path):
    former = checkpoint.publish(tmp_path, snapshot_of(1))
    vast = torch.empty(2**58, device="meta")
    with pytest.raises(OSError, match=r"no space for a checkpoint of 1152921504607 MB, .*--resume") as caught:
        checkpoint.publish(tmp_path, Snapshot(2, {"vast": vast}, {}))
    assert caught.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == [former]


def _publish_with_small_files(folder: Path, told: Any) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    try:
        checkpoint.publish(folder, snapshot_of(2, size=5_000))
    except OSError as error:
        told.send(str(error))


def test_a_write_that_fails_leaves_the_former_one_and_says_so(tmp_path):
    """A limit on the size of files stands for the full disk: both end a write half-way."""
    former = checkpoint.publish(tmp_path, snapshot_of(1))
    context = get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    writer = context.Process(target=_publish_with_small_files, args=(tmp_path, theirs))
    writer.start()
    writer.join()
    message = ours.recv()
    assert "step-00000002: this checkpoint could not be written" in message
    assert "the former ones are untouched. Make room and start again with --resume" in message
    assert list(tmp_path.iterdir()) == [former]
    assert_equal(checkpoint.load(former), snapshot_of(1))


def test_the_digest_tells_checkpoints_apart(tmp_path):
    one, other = (checkpoint.publish(tmp_path / name, snapshot_of(1)) for name in ("one", "other"))
    assert checkpoint.digest(one) == checkpoint.digest(other)
    assert checkpoint.digest(one) != checkpoint.digest(checkpoint.publish(tmp_path, snapshot_of(2)))
