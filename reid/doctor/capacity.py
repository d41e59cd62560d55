"""Checks of what the machine gives: cores, memory, shared memory, open files, processes."""

import os
import resource
import shutil
from pathlib import Path

from reid import machine
from reid.data.shards import OPEN_SHARDS
from reid.doctor.finding import Finding, Subject, failure, ok, warning

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - the place itself is looked at
PROCESS_BYTES = 4_000_000_000  # of a training process, without its batch
WORKER_BYTES = 300_000_000
OTHER_FILES = 256  # what Python, torch, sockets and the journal keep open
PROCESS_THREADS = 64


def cores(subject: Subject) -> Finding:
    """A core for each process and each worker, and no more threads than that."""
    there, workers = machine.cores(), subject.config.data.num_workers
    asked = os.environ.get("OMP_NUM_THREADS", "")
    outermost = asked.split(",")[0].strip()  # "4,2": each of four threads may start two
    if asked and not (outermost.isdecimal() and int(outermost)):
        return failure(
            f"OMP_NUM_THREADS={asked!r}: no number of threads",
            f"Set OMP_NUM_THREADS={there.allowed}, or unset it",
        )
    threads = int(outermost or there.allowed)
    found = (
        f"cores: {there.usable:g}, processes: {subject.processes}, workers of each: {workers}, threads of each: {threads} "
        f"(OMP_NUM_THREADS {'set' if asked else 'not set'})"
    )
    if subject.processes * (workers + 1) > 2 * there.usable:
        most = max(0, int(there.usable) // subject.processes - 1)
        return warning(found, f"Set --data.num-workers {most}, or ask the job for more cores")
    if subject.processes > 1 and subject.processes * threads > 2 * there.usable:
        return warning(found, f"Set OMP_NUM_THREADS={max(1, int(there.usable) // subject.processes)}")
    return ok(found)


def memory(subject: Subject) -> Finding:
    there = machine.memory()
    workers = subject.processes * subject.config.data.num_workers
    needed = subject.processes * PROCESS_BYTES + workers * WORKER_BYTES
    found = (
        f"{_gigabytes(there.available)} of {_gigabytes(there.total)} free, about {_gigabytes(needed)} needed"
    )
    if there.available < needed:
        return warning(found, "Ask the job for more memory, start fewer processes, or use fewer workers")
    return ok(found)


def limits(_: Subject) -> Finding:
    """What a container or a job holds back of the machine: programs that look at the host plan for too much."""
    there, given = machine.cores(), machine.memory()
    held = []
    if there.quota < there.allowed:
        held.append(f"processor time of {there.quota:g} cores, where {there.allowed} are seen")
    if there.allowed < there.host:
        held.append(f"{there.allowed} of {there.host} cores")
    if given.limited:
        held.append(f"memory of {_gigabytes(given.total)}")
    if there.quota < 1 or given.total < PROCESS_BYTES:
        return warning(", ".join(held) or _gigabytes(given.total), "Start the container or the job with more")
    return ok(", ".join(held) or "none")


def shared_memory(subject: Subject) -> Finding:
    """NCCL's way between the processes of a machine. Our workers do not use it."""
    total, _, free = shutil.disk_usage(SHARED_MEMORY)
    found = f"{_gigabytes(free)} of {_gigabytes(total)} free in {SHARED_MEMORY}"
    if subject.processes > 1 and free < 64_000_000 * subject.processes:
        return failure(found, "Start the container with --shm-size 8g, or remove what lies there")
    return ok(found)


def open_files(subject: Subject) -> Finding:
    """Shards stay open, and every worker takes pipes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = OPEN_SHARDS + OTHER_FILES + 4 * subject.config.data.num_workers
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return ok(f"{soft:,}, {needed:,} needed")
    can = (
        f"`ulimit -n {needed}`"
        if hard == resource.RLIM_INFINITY or hard >= needed
        else "the administrator's limits"
    )
    return failure(f"{soft:,}, {needed:,} needed", f"Raise the limit: {can}")


def process_limit(subject: Subject) -> Finding:
    soft, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    needed = subject.processes * (PROCESS_THREADS + 2 * subject.config.data.num_workers)
    if soft in {resource.RLIM_INFINITY, -1}:
        return ok("no limit")
    if soft < needed:
        return failure(
            f"{soft:,} processes and threads, about {needed:,} needed",
            f"Raise the limit: `ulimit -u {needed}`",
        )
    return ok(f"{soft:,} processes and threads, about {needed:,} needed")


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB"
