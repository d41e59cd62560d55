"""What this machine gives to one of its processes: memory and cores, whatever a container or a job may hold back.

    the host's numbers, and every control group above this process -> the smallest of them

Nothing here is remembered: what is available changes while a run lasts.
"""

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil

CONTROL_GROUPS = Path("/sys/fs/cgroup")


class Memory(NamedTuple):
    """Bytes. `available` can be had without swapping; `limited` tells whether a control group, not the host, says so."""

    total: int
    available: int
    limited: bool


class Cores(NamedTuple):
    """`allowed` by the scheduler's mask, and the `quota` of processor time in cores (infinite without one)."""

    host: int
    allowed: int
    quota: float

    @property
    def usable(self) -> float:
        return min(self.allowed, self.quota)


def memory(groups: Path = CONTROL_GROUPS) -> Memory:
    """Memory that this process may use. `groups` is where control groups are mounted."""
    host = psutil.virtual_memory()
    total, available, limited = host.total, host.available, False
    for folder in _folders("memory", groups):
        limit = _number(folder, "memory.max", "memory.limit_in_bytes")
        used = _number(folder, "memory.current", "memory.usage_in_bytes")
        if not limit < total:
            continue
        total, limited = int(limit), True
        if math.isfinite(used):
            available = min(available, max(0, int(limit - used + _reclaimable(folder))))
    return Memory(total, available, limited)


def cores(groups: Path = CONTROL_GROUPS) -> Cores:
    """Cores that this process may use."""
    quota = math.inf
    for folder in _folders("cpu", groups):
        if (folder / "cpu.max").exists():
            share, period = map(_parsed, (folder / "cpu.max").read_text().split())
        else:
            share, period = (_number(folder, f"cpu.cfs_{what}_us") for what in ("quota", "period"))
        if share > 0 and math.isfinite(share):  # version 1 says -1 where there is no quota
            quota = min(quota, share / period)
    return Cores(os.cpu_count() or 1, len(os.sched_getaffinity(0)), quota)


def _folders(controller: str, groups: Path) -> Iterator[Path]:
    """The folders of all control groups that bound this process, from its own up to the root, of version 2 and 1."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, group = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        mount = groups / controllers if controllers else groups
        folder = mount / group.strip("/")
        for candidate in (folder, *folder.parents):
            if candidate.is_dir():  # inside a container, the path may be the host's and lead nowhere
                yield candidate
            if candidate == mount:
                break


def _number(folder: Path, *names: str) -> float:
    """The number in the first of the files that exists; infinity without one."""
    for name in names:
        if (folder / name).exists():
            return _parsed((folder / name).read_text())
    return math.inf


def _parsed(text: str) -> float:
    return math.inf if text.strip() == "max" else float(text)


def _reclaimable(folder: Path) -> int:
    """Bytes of files that the group keeps cached and would give up."""
    path = folder / "memory.stat"
    lines = path.read_text().splitlines() if path.exists() else []
    fields = dict(line.split() for line in lines)
    return int(fields.get("total_inactive_file", fields.get("inactive_file", 0)))
