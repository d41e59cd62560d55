"""reid/tracking/gauges.py: what the machine does is measured between two readings, and what it lacks is left out."""

import os
import subprocess
import sys
import time

import psutil
import pytest

from reid.tracking import names
from reid.tracking.gauges import Gauges, driver_version

WITHOUT_GPU = {names.Metric.CPU_PERCENT, names.Metric.MEMORY_PERCENT, names.Metric.RESIDENT_GB}


def test_a_machine_without_a_gpu_has_three_gauges():
    found = Gauges(None).read()
    assert found.keys() == WITHOUT_GPU
    assert 0 <= found[names.Metric.CPU_PERCENT] <= 100
    assert found[names.Metric.MEMORY_PERCENT] == pytest.approx(psutil.virtual_memory().percent, abs=20)


def test_memory_that_is_taken_shows():
    program = """
from reid.tracking.gauges import Gauges

gauges = Gauges(None)
before, taken, after = gauges.read(), b"1" * 200_000_000, gauges.read()
print(after["system/resident_gb"] - before["system/resident_gb"])
"""  # in a process of its own: here other tests' memory comes and goes
    said = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    assert float(said) == pytest.approx(0.2, rel=0.2)


def test_the_processor_is_averaged_since_the_last_reading():
    gauges = Gauges(None)
    num_cores = os.cpu_count()
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
        time.sleep(1)
        assert gauges.read()[names.Metric.CPU_PERCENT] > 50 / num_cores
        busy.kill()


def test_a_gpu_that_the_driver_does_not_know_is_no_error():
    assert Gauges("GPU-00000000-0000-0000-0000-000000000000").read().keys() == WITHOUT_GPU


@pytest.mark.gpu
def test_a_gpu_shows_its_load_its_memory_and_its_power():
    import torch

    device = torch.device("cuda", 0)
    gauges = Gauges(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
    matrix = torch.randn(4096, 4096, device=device)
    end = time.monotonic() + 2
    while time.monotonic() < end:
        matrix = (matrix @ matrix).clamp(-1, 1)
        torch.cuda.synchronize()
    found = gauges.read()
    assert found[names.Metric.GPU_PERCENT] > 50
    assert found[names.Metric.GPU_MEMORY_PERCENT] > 0
    assert 30 < found[names.Metric.GPU_WATTS] < 2000
    assert driver_version()
