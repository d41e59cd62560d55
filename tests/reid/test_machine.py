"""reid/machine.py: a control group that holds memory or cores back is believed, of version 1 and 2, at every level."""

import math
import os
from pathlib import Path

import psutil
import pytest

from reid import machine

GIB = 1 << 30


@pytest.fixture
def group(tmp_path) -> Path:
    """A folder that looks like version 2's for this process; the root of the tree is `tmp_path`."""
    own = next(line for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::"))
    folder = tmp_path / own.removeprefix("0::").strip("/")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture
def old_group(tmp_path) -> Path:
    """Where version 1 keeps its files inside a container: the host's path leads nowhere."""
    (tmp_path / "memory").mkdir()
    (tmp_path / "cpu").mkdir()
    return tmp_path


def test_without_a_limit_the_host_is_what_there_is(tmp_path):
    found = machine.memory(tmp_path)
    assert (found.total, found.limited) == (psutil.virtual_memory().total, False)
    assert machine.cores(tmp_path) == (os.cpu_count(), len(os.sched_getaffinity(0)), math.inf)


def test_the_limit_of_a_group_counts_and_what_is_used_of_it_but_for_files_in_the_cache(tmp_path, group):
    (group / "memory.max").write_text(f"{GIB}\n")
    (group / "memory.current").write_text(f"{GIB // 2}\n")
    (group / "memory.stat").write_text(f"anon 5\ninactive_file {GIB // 8}\n")
    assert machine.memory(tmp_path) == (GIB, GIB // 2 + GIB // 8, True)
    (group / "memory.current").write_text(f"{2 * GIB}\n")
    assert machine.memory(tmp_path).available == 0


def test_a_group_without_a_limit_says_max(tmp_path, group):
    (group / "memory.max").write_text("max\n")
    (group / "cpu.max").write_text("max 100000\n")
    assert not machine.memory(tmp_path).limited
    assert machine.cores(tmp_path).quota == math.inf


def test_a_quota_of_time_is_told_in_cores(tmp_path, group):
    (group / "cpu.max").write_text("50000 100000\n")
    found = machine.cores(tmp_path)
    assert (found.quota, found.usable) == (0.5, 0.5)


@pytest.mark.skipif(
    ":memory:" not in Path("/proc/self/cgroup").read_text(), reason="this kernel has no groups of version 1"
)
def test_groups_of_version_1_are_understood(old_group):
    (old_group / "memory" / "memory.limit_in_bytes").write_text(f"{GIB}\n")
    (old_group / "memory" / "memory.usage_in_bytes").write_text(f"{GIB // 4}\n")
    (old_group / "memory" / "memory.stat").write_text("total_inactive_file 0\n")
    (old_group / "cpu" / "cpu.cfs_quota_us").write_text("-1\n")
    (old_group / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert machine.memory(old_group) == (GIB, GIB - GIB // 4, True)
    assert machine.cores(old_group).quota == math.inf
    (old_group / "cpu" / "cpu.cfs_quota_us").write_text("150000\n")
    assert machine.cores(old_group).quota == 1.5
