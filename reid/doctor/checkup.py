"""All checks, in the order in which they are told.

Subject -> every check in a thread of its own -> Findings, numbered; one that does not answer is a finding too
"""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from reid.doctor import capacity, dataset, devices, services, software, storage
from reid.doctor.finding import Finding, Status, Subject, failure

PATIENCE_SECONDS = 8.0

Check = Callable[[Subject], Finding]

CHECKS: tuple[tuple[str, Check], ...] = (
    ("Python", software.python),
    ("libraries", software.libraries),
    ("torch and torchvision", software.torch_and_torchvision),
    ("PIL", software.pil),
    ("JPEG decoder", software.decoder),
    ("locale", software.words),
    ("accelerate", software.accelerate),
    ("driver", devices.driver),
    ("GPUs", devices.gpus),
    ("precision", devices.precision),
    ("GPU memory", devices.gpu_memory),
    ("NCCL", devices.nccl),
    ("cores", capacity.cores),
    ("memory", capacity.memory),
    ("limits of a container", capacity.limits),
    ("shared memory", capacity.shared_memory),
    ("open files", capacity.open_files),
    ("processes", capacity.process_limit),
    ("output", storage.writable),
    ("disk space", storage.space),
    ("disk latency", storage.latency),
    ("file locks", storage.locks),
    ("clock of the disk", storage.clock),
    ("temporary folder", storage.temporary),
    ("data set", dataset.opens),
    ("shards", dataset.complete),
    ("frames", dataset.readable),
    ("batches", dataset.batches),
    ("shard cache", dataset.cache),
    ("weights", dataset.weights),
    ("MLflow", services.mlflow),
    ("clock of MLflow", services.server_clock),
    ("port", services.port),
    ("address", services.address),
    ("Slurm", services.slurm),
)


class Numbered(NamedTuple):
    """A finding as it is told: checks are counted from 1, and keep their number."""

    number: int
    name: str
    finding: Finding

    def as_record(self) -> dict[str, Any]:
        return {"number": self.number, "name": self.name, **self.finding._asdict()}


def examine(
    subject: Subject, checks: Sequence[tuple[str, Check]] = CHECKS, patience_seconds: float = PATIENCE_SECONDS
) -> list[Numbered]:
    """The findings of all checks, within `patience_seconds`. A check that raises OSError or ValueError has failed; what else
    one raises is a bug, and raised.
    """
    examinations = [_Examination(check, subject) for _, check in checks]
    for examination in examinations:
        examination.start()
    give_up = time.monotonic() + patience_seconds
    found = [examination.finding(give_up - time.monotonic()) for examination in examinations]
    return [
        Numbered(i, name, finding)
        for i, ((name, _), finding) in enumerate(zip(checks, found, strict=True), 1)
    ]


def is_healthy(found: Sequence[Numbered]) -> bool:
    """Whether nothing would fail."""
    return all(one.finding.status is not Status.FAILURE for one in found)


class _Examination(threading.Thread):
    """A check under way. A daemon, because a disk that hangs must not keep the program from ending."""

    def __init__(self, check: Check, subject: Subject) -> None:
        super().__init__(daemon=True)
        self._check = check
        self._subject = subject
        self._finding: Finding | None = None
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            self._finding = self._check(self._subject)
        except OSError as error:
            self._finding = failure(f"cannot be looked at: {error}", "Look at the place it names")
        except ValueError as error:
            self._finding = failure(str(error), "Correct the value, or the file, that it names")
        except Exception as error:  # noqa: BLE001 - raised where it is waited for
            self._error = error

    def finding(self, seconds: float) -> Finding:
        self.join(max(0.0, seconds))
        if self._error is not None:
            raise self._error
        return self._finding or failure(
            "no answer in time", "Something it looks at hangs: a disk, a name server, a driver"
        )
