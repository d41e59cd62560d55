"""reid/training/writer.py: what is published is the moment of `begin`, one at a time, and no failure is lost."""

import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from reid.training import checkpoint
from reid.training.checkpoint import Snapshot
from reid.training.writer import Writer


def snapshot_of(step: int, size: int = 1000) -> Snapshot:
    return Snapshot(step, {"weight": torch.full((size,), float(step))}, {}, {"step of the state": step})


def test_what_changes_after_the_beginning_is_not_in_the_checkpoint(tmp_path):
    taken, told = snapshot_of(1, size=2_000_000), []
    with Writer(tmp_path, 2) as writer:
        writer.begin(taken, told.append)
        taken.weights["weight"].fill_(7)
        writer.finish()
        assert told == [checkpoint.place(tmp_path, 1)]
        found = checkpoint.load(told[0]).weights["weight"]
    assert found.unique().tolist() == [1]


def test_each_is_told_once_it_is_published_in_the_thread_of_the_caller_and_the_oldest_are_forgotten(tmp_path):
    told: list[tuple[str, int]] = []

    def tell(path: Path) -> None:
        checkpoint.verify(path)
        told.append((path.name, threading.get_ident()))

    with Writer(tmp_path, 2) as writer:
        for step in (1, 2, 3):
            writer.begin(snapshot_of(step), tell)
            assert len(told) == step - 1  # the one before is complete, this one is not told yet
        writer.settle()
    own = threading.get_ident()
    assert told == [(f"step-0000000{step}", own) for step in (1, 2, 3)]
    assert [path.name for path in checkpoint.published(tmp_path)] == ["step-00000002", "step-00000003"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MB. Only root can mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid():
        pytest.skip("mounting a small disk needs root")
    command = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"mounting a small disk is not allowed here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize(
    ("size", "state", "message"),
    [
        (
            500_000,
            "",
            r"no space for a checkpoint of 2 MB, .* the former checkpoints are untouched\. Make room",
        ),
        (
            1_000,
            "x" * 2_900_000,
            r"step-00000002: this checkpoint could not be written .*No space left on device",
        ),
    ],
)
def test_a_full_disk_is_told_at_the_next_call_and_leaves_the_former_one(small_disk, size, state, message):
    (small_disk / "other").write_bytes(bytes(400_000))
    former = checkpoint.publish(small_disk, snapshot_of(1))
    vast = Snapshot(2, {"weight": torch.zeros(size)}, {}, {"state": state})
    writer = Writer(small_disk, 2)
    writer.begin(vast, lambda _: pytest.fail("it was told as published"))
    with pytest.raises(OSError, match=message):
        writer.begin(snapshot_of(3), lambda _: None)
    assert checkpoint.newest(small_disk) == former
    assert [path.name for path in small_disk.glob(".*")] == []
    with writer:
        writer.begin(snapshot_of(3), lambda _: None)  # a smaller one fits
    assert checkpoint.load(checkpoint.place(small_disk, 3)).step == 3


def test_a_failure_is_told_at_the_end_of_the_block_but_hides_no_other(tmp_path, caplog):
    def write_where_a_file_is() -> None:
        with Writer(tmp_path / "file", 2) as writer:
            writer.begin(snapshot_of(1), lambda _: None)

    def fail_besides() -> None:
        with Writer(tmp_path / "file", 2) as writer:
            writer.begin(snapshot_of(1), lambda _: None)
            raise RuntimeError("the world failed")

    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        write_where_a_file_is()
    with pytest.raises(RuntimeError, match="the world failed"):
        fail_besides()
    assert "File exists" in caplog.text
