"""How busy the machine was, from counters that the system keeps anyway: a reading takes about a tenth of a millisecond.

They are read where the points of the curves are written, once a log interval, so that they stand in the journal like every
other point. What has a counter (processor time, energy) is a mean since the last reading, the rest is of the moment.
"""

import logging
import time
from collections.abc import Callable
from typing import Any

import psutil
import pynvml

from reid.tracking import names

log = logging.getLogger(__name__)


class Gauges:
    """Of the host, of this process, and of the GPU that it computes on (`gpu` is the UUID that the driver gives it)."""

    def __init__(self, gpu: str | None = None) -> None:
        self._process = psutil.Process()
        psutil.cpu_percent()  # the first interval begins here
        self._gpu = _device(gpu) if gpu else None
        self._joules, self._at = self._energy(), time.monotonic()

    def read(self) -> dict[str, float]:
        """By the names they are tracked under. A gauge that this machine does not have is left out."""
        found: dict[str, float | None] = {
            names.Metric.CPU_PERCENT: psutil.cpu_percent(),
            names.Metric.MEMORY_PERCENT: psutil.virtual_memory().percent,
            names.Metric.RESIDENT_GB: self._process.memory_info().rss / 1e9,
        }
        if self._gpu is not None:
            memory = _ask(pynvml.nvmlDeviceGetMemoryInfo, self._gpu)
            utilization = _ask(pynvml.nvmlDeviceGetUtilizationRates, self._gpu)
            found |= {
                names.Metric.GPU_PERCENT: None if utilization is None else utilization.gpu,
                names.Metric.GPU_MEMORY_PERCENT: None if memory is None else 100 * memory.used / memory.total,
                names.Metric.GPU_WATTS: self._watts(),
            }
        return {name: float(value) for name, value in found.items() if value is not None}

    def _energy(self) -> float | None:
        """Joules that the GPU has used since its driver was loaded."""
        millijoules = _ask(pynvml.nvmlDeviceGetTotalEnergyConsumption, self._gpu) if self._gpu else None
        return None if millijoules is None else millijoules / 1000

    def _watts(self) -> float | None:
        before, since = self._joules, self._at
        self._joules, self._at = self._energy(), time.monotonic()
        if before is None or self._joules is None or self._at == since:
            return None
        return (self._joules - before) / (self._at - since)


def driver_version() -> str | None:
    """The version of NVIDIA's driver, or None where there is none."""
    return _ask(pynvml.nvmlSystemGetDriverVersion) if _has_driver() else None


def _has_driver() -> bool:
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        log.debug("no GPU is read: %s", error)
        return False
    return True


def _device(uuid: str) -> Any:
    return _ask(pynvml.nvmlDeviceGetHandleByUUID, uuid) if _has_driver() else None


def _ask(question: Callable[..., Any], *arguments: object) -> Any:
    """What the driver answers; None where this GPU, or a part of one, has no such counter."""
    try:
        return question(*arguments)
    except pynvml.NVMLError as error:
        log.debug("%s: %s", question.__name__, error)
        return None
