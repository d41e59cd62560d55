"""The truth about a run: an append-only file of checksummed records, `RUN/journal.jsonl`.

The trainer appends one line a call: sequence number, wall time, kind, step, data, and a CRC-32 of the line. The line
reaches the kernel at once, so that it survives the death of the process; `sync` makes it survive the machine. A line that
was cut short at the end of the file is dropped when the journal is opened again, and damage before it is an error. What
was written is read by `read` (all of it) or `Tail` (as it grows). A journal knows no MLflow.
"""

import fcntl
import json
import logging
import math
import os
import re
import time
import uuid
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

FILE_NAME = "journal.jsonl"
LOCK_NAME = "journal.lock"
_SEAL = re.compile(rb',"crc32":"([0-9a-f]{8})"}$')
_SEAL_BYTES = 64  # in which the seal of a line ends it

log = logging.getLogger(__name__)


class DamagedJournalError(ValueError):
    """A line of a journal is not what was written, and later lines are whole."""


class JournalInUseError(ValueError):
    """Another process writes this journal."""


class Kind(StrEnum):
    """What a record tells. START begins a life of the run (it may have several); FINISH ends one.

    In TAGS, the value None takes a tag away.
    """

    RUN = "run"
    START = "start"
    PARAMS = "params"
    TAGS = "tags"
    METRICS = "metrics"
    ARTIFACT = "artifact"
    DATASET = "dataset"
    CHECKPOINT = "checkpoint"
    FINISH = "finish"


@dataclass(frozen=True, slots=True)
class Record:
    """One line. `time` is in seconds since 1970, UTC. Values of METRICS are floats; NaN and infinities are allowed."""

    sequence: int
    time: float
    kind: Kind
    step: int | None
    data: dict[str, Any]


class Point(NamedTuple):
    """What a metric was at one step, and when it was written."""

    value: float
    time: float

    def equals(self, value: float) -> bool:
        return self.value == value or (math.isnan(self.value) and math.isnan(value))


def encode(record: Record) -> bytes:
    """The line of a record, with its end of line. Non-finite metrics become strings, as JSON has no such numbers."""
    data = record.data
    if record.kind is Kind.METRICS:
        data = {key: value if math.isfinite(value) else str(value) for key, value in data.items()}
    fields = {
        "sequence": record.sequence,
        "time": record.time,
        "kind": record.kind,
        "step": record.step,
        "data": data,
    }
    body = json.dumps(fields, separators=(",", ":"), allow_nan=False).encode()[:-1]
    return body + b',"crc32":"%08x"}\n' % zlib.crc32(body)


def decode(line: bytes) -> Record:
    """The record of a whole line; ValueError if it is not exactly what `encode` wrote."""
    seal = _SEAL.search(line, max(0, len(line) - _SEAL_BYTES))
    if seal is None:
        raise ValueError("the line has no checksum at its end")
    body = line[: seal.start()]
    if zlib.crc32(body) != int(seal[1], 16):
        raise ValueError(f"checksum {zlib.crc32(body):08x} found, {seal[1].decode()} expected")
    fields = json.loads(body + b"}")
    kind, data = Kind(fields["kind"]), fields["data"]
    if kind is Kind.METRICS:
        data = {key: float(value) for key, value in data.items()}
    return Record(fields["sequence"], fields["time"], kind, fields["step"], data)


class Tail:
    """Reads a journal while it grows. `offset` is where the next record begins, in bytes."""

    def __init__(self, path: Path, offset: int = 0) -> None:
        self.path = path
        self.offset = offset

    def poll(self) -> Iterator[Record]:
        """Whole records from `offset` on; `offset` moves past each one as it is yielded.

        A broken line at the very end is left alone: it may be half written, or dropped by the next life of the run.
        Raises DamagedJournalError if a broken line is followed by a whole one.
        """
        with self.path.open("rb") as file:
            file.seek(self.offset)
            broken: ValueError | None = None
            for line in file:
                if not line.endswith(b"\n"):
                    return
                try:
                    record = decode(line[:-1])
                except ValueError as error:
                    broken = broken or error
                    continue
                if broken is not None:
                    raise DamagedJournalError(
                        f"{self.path}: damaged at byte {self.offset} ({broken}), while record {record.sequence} behind it "
                        "is whole. Restore the file from a copy, or move it away to begin a new journal"
                    ) from broken
                self.offset += len(line)
                yield record


def read(run_folder: Path) -> Iterator[Record]:
    """All records of a run's journal. Raises FileNotFoundError and DamagedJournalError."""
    return _in_order(Tail(run_folder / FILE_NAME))


def _in_order(tail: Tail) -> Iterator[Record]:
    """All records of a journal, of which none may be missing."""
    for expected, record in enumerate(tail.poll()):
        if record.sequence != expected:
            raise DamagedJournalError(
                f"{tail.path}: record {expected} expected at byte {tail.offset}, {record.sequence} found. "
                "Restore the file from a copy, or move it away to begin a new journal"
            )
        yield record


def seal_before(run_folder: Path, offset: int) -> str:
    """The checksum of the record that ends at byte `offset` of a run's journal; "" if none ends there."""
    with (run_folder / FILE_NAME).open("rb") as file:
        file.seek(max(0, offset - _SEAL_BYTES))
        end = file.read(min(offset, _SEAL_BYTES))
    seal = _SEAL.search(end[:-1]) if end.endswith(b"\n") else None
    return seal[1].decode() if seal else ""


def retagged(tags: Mapping[str, str], changes: Mapping[str, str | None]) -> dict[str, str]:
    """Tags after a record of TAGS."""
    return {key: value for key, value in {**tags, **changes}.items() if value is not None}


def header(run_folder: Path) -> dict[str, Any]:
    """Who a run is: `uid` (made before its first step, and for ever), `experiment`, `name`, `parent_uid` or None;
    `parent`, the folder of the run above it as seen from this one, if there is one; and `tags` of it and of all runs
    below it.

    Raises ValueError if the folder holds no run.
    """
    try:
        return next(record.data for record in read(run_folder) if record.kind is Kind.RUN)
    except (FileNotFoundError, StopIteration) as error:
        raise ValueError(
            f"{run_folder}: no run here ({FILE_NAME} is missing or empty). Name the folder of a run"
        ) from error


def topmost(run_folder: Path) -> Path:
    """The folder of the run that stands above all others of this one's family; the run's own if it has no parent."""
    while (run_folder / FILE_NAME).exists() and (above := header(run_folder).get("parent")):
        run_folder = (run_folder / above).resolve()
    return run_folder


class Journal:
    """The journal of the process that trains. Only one process may hold it; others wait for its end or read."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self.params: dict[str, str] = {}
        self.tags: dict[str, str] = {}
        self.points: dict[tuple[str, int], Point] = {}
        self.run: dict[str, Any] | None = None
        self.num_starts = 0
        self.is_running = False
        self._sequence = 0
        self._lock = lock
        tail = Tail(path)
        is_new = not path.exists()
        if not is_new:
            self._replay(tail)
        self._end = tail.offset
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        if is_new:
            make_durable(path.parent)
        self._drop_torn_end()

    @classmethod
    def open(cls, run_folder: Path) -> Self:
        """Begin or continue the journal of a run. Raises JournalInUseError and DamagedJournalError."""
        run_folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(run_folder / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        if not _locked(lock, patience_seconds=2.0):
            os.close(lock)
            raise JournalInUseError(
                f"{run_folder}: another process writes this run. Wait for its end, or choose another run folder"
            )
        return cls(run_folder / FILE_NAME, lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def introduce(
        self,
        *,
        experiment: str,
        name: str,
        parent: Path | None,
        tags: Mapping[str, str] | None = None,
        uid: str | None = None,
    ) -> dict[str, Any]:
        """Say who this run is: the first record, written once, which is returned. `parent` is the folder of the run above it,
        whose `tags` it has besides its own. `uid` is that of a run whose journal was lost.

        Raises ValueError if the parent holds no run, or one of another experiment.
        """
        above = header(parent) if parent else None
        if above is not None and above["experiment"] != experiment:
            raise ValueError(
                f"{parent}: this run is of the experiment {above['experiment']!r}, and cannot hold one of {experiment!r}. "
                "Give both the same experiment, or choose another parent"
            )
        data = {
            "uid": uid or uuid.uuid4().hex,
            "experiment": experiment,
            "name": name,
            "parent_uid": above["uid"] if above else None,
            "tags": {**(above.get("tags", {}) if above else {}), **(tags or {})},
        }
        if parent is not None:
            data["parent"] = Path(os.path.relpath(parent.resolve(), self.path.parent.resolve())).as_posix()
        return self.append(Kind.RUN, data).data

    @property
    def last_step(self) -> int:
        """The greatest step of any metric; -1 before the first."""
        return max((step for _, step in self.points), default=-1)

    def append(self, kind: Kind, data: dict[str, Any], step: int | None = None) -> Record:
        """Write one record. It is with the kernel when this returns. On a full disk: OSError, and no half line stays."""
        record = Record(self._sequence, time.time(), kind, step, data)
        line = encode(record)
        try:
            written = os.pwrite(self._file, line, self._end)
            if written != len(line):
                os.pwrite(self._file, line[written:], self._end + written)
        except OSError:
            os.ftruncate(self._file, self._end)
            raise
        self._end += len(line)
        self._take(record)
        return record

    def sync(self) -> None:
        """Wait until all that was appended lies on the disk."""
        os.fsync(self._file)

    def close(self) -> None:
        self.sync()
        os.close(self._file)
        os.close(self._lock)
        self._file = -1  # the number may soon be another file's

    def _replay(self, tail: Tail) -> None:
        for record in _in_order(tail):
            self._take(record)

    def _take(self, record: Record) -> None:
        self._sequence = record.sequence + 1
        match record.kind:
            case Kind.RUN:
                self.run = record.data
            case Kind.START:
                self.num_starts += 1
                self.is_running = True
            case Kind.FINISH:
                self.is_running = False
            case Kind.PARAMS:
                self.params.update(record.data)
            case Kind.TAGS:
                self.tags = retagged(self.tags, record.data)
            case Kind.METRICS if record.step is not None:
                for key, value in record.data.items():
                    self.points[key, record.step] = Point(value, record.time)

    def _drop_torn_end(self) -> None:
        torn = os.fstat(self._file).st_size - self._end
        if torn:
            log.warning("%s: dropped %d bytes of a record that was never completed", self.path, torn)
            os.ftruncate(self._file, self._end)


def make_durable(path: Path) -> None:
    """Wait until a file, or the names in a folder, lie on the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _locked(lock: int, patience_seconds: float) -> bool:
    """Whether the lock is ours. A sender holds it for a moment when it notes that a trainer died: hence some patience."""
    give_up = time.monotonic() + patience_seconds
    while True:
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > give_up:
                return False
            time.sleep(0.05)
        else:
            return True
