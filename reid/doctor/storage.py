"""Checks of the disks: whether results can be written, fast enough, with room, locks and a clock that agrees."""

import fcntl
import os
import shutil
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from reid.doctor.finding import Finding, Subject, failure, ok, warning
from reid.tracking.journal import FILE_NAME as JOURNAL
from reid.tracking.journal import DamagedJournalError, read

PARAMETERS = {"resnet50": 135_000_000, "thin": 1_500_000}  # of the full variant
BYTES_A_NUMBER = 4
WRITTEN, ROUNDS = 1 << 20, 5
SLOW_SECONDS, HOPELESS_SECONDS = 0.2, 5.0
SKEWED_SECONDS = 2.0
LEAST_TEMPORARY_BYTES = 1_000_000_000


def writable(subject: Subject) -> Finding:
    """Whether a run can begin or go on in its folder."""
    if (blocked := obstacle(subject.folder)) is not None:
        return failure(f"{blocked}: a file, where a folder is needed", "Name another folder with --run")
    place = _nearest(subject.folder)
    try:
        with _scratch(place) as path:
            path.write_bytes(b"written")
            path.replace(path.with_suffix(".renamed"))
            path.with_suffix(".renamed").unlink()
    except OSError as error:
        return failure(f"{place}: {error.strerror}", "Name a folder that you may write to with --run")
    if (subject.folder / JOURNAL).exists():
        try:
            deque(read(subject.folder), maxlen=0)
        except DamagedJournalError as error:
            return failure(str(error), "Or name another folder with --run")
    return ok(f"{place}: written, renamed, removed")


def obstacle(folder: Path) -> Path | None:
    """What is no folder, of a folder that shall be made and those above it."""
    for place in (folder, *folder.absolute().parents):
        if place.exists():
            return None if place.is_dir() else place
    return None


def space(subject: Subject) -> Finding:
    """Room for the checkpoints that are kept, and one that is being written."""
    place = _nearest(subject.folder)
    num_tensors = 2 if subject.config.optimizer.ema_decay is None else 3  # weights, momentum, average
    needed = (
        BYTES_A_NUMBER
        * num_tensors
        * PARAMETERS[subject.config.model.backbone]
        * (subject.config.engine.keep_checkpoints + 2)
    )
    free = shutil.disk_usage(place).free
    found = f"{place}: {free / 1e9:.1f} GB free, {needed / 1e9:.1f} GB needed for checkpoints"
    if free < needed:
        return failure(
            found, "Make room, name another disk with --run, or keep fewer with --engine.keep-checkpoints"
        )
    return ok(found)


def latency(subject: Subject) -> Finding:
    """Time to write a megabyte and have it on the disk: it is spent with every checkpoint."""
    place = _nearest(subject.folder)
    took = []
    with _scratch(place) as path:
        for _ in range(ROUNDS):
            began = time.perf_counter()
            with path.open("wb") as file:
                file.write(bytes(WRITTEN))
                file.flush()
                os.fsync(file.fileno())
            took.append(time.perf_counter() - began)
            if sum(took) > HOPELESS_SECONDS:
                break
    seconds = statistics.median(took)
    found = f"{place}: {1000 * seconds:.0f} ms to write and sync 1 MB"
    remedy = (
        "Let --run be on a faster disk, and write checkpoints less often with --engine.checkpoint-every-steps"
    )
    if seconds > HOPELESS_SECONDS:
        return failure(found, remedy)
    return warning(found, remedy) if seconds > SLOW_SECONDS else ok(found)


def locks(subject: Subject) -> Finding:
    """Senders and caches exclude each other by file locks, which some network file systems do not have."""
    place = _nearest(subject.folder)
    with _scratch(place) as path, path.open("w") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return failure(
                f"{place}: {error.strerror}",
                "Let --run be on another file system, or mount this one with locks",
            )
    return ok(f"{place}: files can be locked")


def clock(subject: Subject) -> Finding:
    """The file system's idea of now, which on a network disk is its server's."""
    place = _nearest(subject.folder)
    with _scratch(place) as path:
        before = time.time()
        path.write_bytes(b"now")
        there, after = path.stat().st_mtime, time.time()
    ahead = there - after if there > after else min(0.0, there - before)
    if abs(ahead) > SKEWED_SECONDS:
        return warning(
            f"{place}: {abs(ahead):.1f} s {'ahead of' if ahead > 0 else 'behind'} this machine",
            "Set the clocks by NTP: ages of checkpoints and heartbeats would be wrong",
        )
    return ok(f"{place}: as this machine, within {SKEWED_SECONDS:g} s")


def temporary(_: Subject) -> Finding:
    asked = os.environ.get("TMPDIR")
    try:
        place = Path(tempfile.gettempdir())
        free = shutil.disk_usage(place).free
    except OSError as error:
        return failure(str(error), "Set TMPDIR to a folder that you may write to")
    found = f"{place}: {free / 1e9:.1f} GB free"
    if asked and place != Path(asked):
        return warning(
            f"TMPDIR={asked} cannot be used, {found}", "Set TMPDIR to a folder that you may write to"
        )
    if free < LEAST_TEMPORARY_BYTES:
        return warning(found, "Make room, or set TMPDIR to a folder on another disk")
    return ok(found)


def _nearest(folder: Path) -> Path:
    """The folder, or the first one above it that is there."""
    return next(place for place in (folder.resolve(), *folder.resolve().parents) if place.is_dir())


@contextmanager
def _scratch(place: Path) -> Iterator[Path]:
    """The path of an empty file of its own, which is removed at the end."""
    descriptor, name = tempfile.mkstemp(prefix=".reid-doctor-", dir=place)
    os.close(descriptor)
    path = Path(name)
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)
