"""reid/training/checkpoint.py: whichever system call of a publish is its last, a valid checkpoint is the newest.

A publish is made by a forked process under strace, once for every system call that it makes; SIGKILL comes as it is entered.
"""

import os
import re
import signal
import subprocess
import time
from collections import Counter
from itertools import count
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch

from reid.training import checkpoint
from reid.training.checkpoint import Snapshot

FILES_AND_DESCRIPTORS = "trace=%file,%desc"


def snapshot_of(step: int) -> Snapshot:
    weights = {name: torch.full((64,), float(step)) for name in ("stem.weight", "neck.bias")}
    return Snapshot(step, weights, {"stem.weight": torch.full((64,), -float(step))}, {"scores": [step]})


def publish_when_told(folder: Path, step: int, told: Connection) -> None:
    told.recv()
    checkpoint.publish(folder, snapshot_of(step))
    checkpoint.prune(folder, 2)
    os._exit(0)


def publish_under_strace(folder: Path, step: int, trace: Path, *options: str) -> int:
    """Publish the checkpoint of `step` in another process. Returns how that one ended."""
    context = get_context("fork")
    theirs, ours = context.Pipe(duplex=False)
    writer = context.Process(target=publish_when_told, args=(folder, step, theirs))
    writer.start()
    command = ["strace", "-f", "-o", str(trace), "-p", str(writer.pid), "-e", FILES_AND_DESCRIPTORS, *options]
    tracer = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    status = Path(f"/proc/{writer.pid}/status")
    while "TracerPid:\t0\n" in status.read_text():
        assert tracer.poll() is None, "strace cannot look into another process here"
        time.sleep(0.001)
    ours.send(step)
    writer.join()
    tracer.wait()
    assert writer.exitcode is not None
    return writer.exitcode


def calls_of(trace: Path) -> Counter[str]:
    return Counter(re.findall(r"^(?:\d+ +)?(\w+)\(", trace.read_text(), flags=re.MULTILINE))


def assert_one_is_whole(folder: Path, steps: set[int]) -> int:
    """The step of the newest checkpoint, which must be valid and what was published."""
    newest = checkpoint.newest(folder)
    assert newest is not None
    found = checkpoint.load(newest, verified=True)
    assert found.step in steps
    expected = snapshot_of(found.step)
    assert found.state == expected.state
    torch.testing.assert_close(found.weights, expected.weights, rtol=0, atol=0)
    torch.testing.assert_close(found.momentum, expected.momentum, rtol=0, atol=0)
    return found.step


@pytest.mark.strace
@pytest.mark.slow
def test_publishing_killed_at_any_system_call_leaves_the_old_or_the_new_checkpoint(tmp_path):
    trace, undisturbed = tmp_path / "trace", tmp_path / "undisturbed"
    for step in (1, 2):
        checkpoint.publish(undisturbed, snapshot_of(step))
        checkpoint.prune(undisturbed, 2)  # Python reads now what it reads once
    assert publish_under_strace(undisturbed, 3, trace) == 0
    calls = calls_of(trace)
    assert calls["rename"] == 1
    assert calls["fsync"] == 6  # four files, their folder, and the folder of checkpoints

    newest: Counter[int] = Counter()
    for call in calls:
        for turn in count(1):
            folder = tmp_path / f"{call}-{turn}"
            for step in (1, 2):
                checkpoint.publish(folder, snapshot_of(step))
            end = publish_under_strace(folder, 3, trace, "-e", f"inject={call}:signal=SIGKILL:when={turn}")
            if end == 0:  # it makes this call less often
                break
            assert end == -signal.SIGKILL
            newest[assert_one_is_whole(folder, {2, 3})] += 1
            checkpoint.publish(folder, snapshot_of(4))  # as the run that continues does
            checkpoint.prune(folder, 2)
            assert_one_is_whole(folder, {4})
            assert len(checkpoint.published(folder)) == 2
    assert set(newest) == {2, 3}
    assert newest.total() > 0.9 * calls.total()
