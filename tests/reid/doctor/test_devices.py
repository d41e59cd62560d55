"""reid/doctor/devices.py: what is said of GPUs that are there, hidden or missing, and of variables that mislead NCCL."""

import pytest
import torch

from reid.doctor import devices
from reid.doctor.finding import Status

WITHOUT_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")


@WITHOUT_GPU
@pytest.mark.parametrize("check", [devices.driver, devices.gpus])
def test_without_a_gpu_there_is_a_warning_unless_none_is_asked_for(check, subject):
    found = check(subject())
    assert found.status is Status.WARNING
    assert "--engine.device cpu" in found.remedy
    assert check(subject(engine={"device": "cpu"})).status is Status.OK


@WITHOUT_GPU
def test_gpus_that_the_machine_has_and_torch_does_not_see_are_a_warning(subject, tmp_path, monkeypatch):
    for name in ("nvidia0", "nvidia1", "nvidiactl"):
        (tmp_path / name).touch()
    monkeypatch.setattr(devices, "NODES", tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    found = devices.gpus(subject())
    assert found.status is Status.WARNING
    assert "0 visible to torch, 2 in" in found.found
    assert "CUDA_VISIBLE_DEVICES=''" in found.found
    assert "--gres" in found.remedy


@WITHOUT_GPU
def test_bf16_needs_a_processor_that_has_it(subject, tmp_path, monkeypatch):
    processors = tmp_path / "cpuinfo"
    monkeypatch.setattr(devices, "PROCESSORS", processors)
    processors.write_text("flags : avx512f avx512_bf16\n")
    assert devices.precision(subject()).status is Status.OK
    processors.write_text("flags : avx2\n")
    assert devices.precision(subject()).status is Status.WARNING
    assert devices.precision(subject(engine={"precision": "fp16"})).status is Status.WARNING
    assert devices.precision(subject(engine={"precision": "fp32"})).status is Status.OK


@pytest.mark.gpu
@pytest.mark.parametrize("check", [devices.driver, devices.gpus, devices.precision])
def test_a_gpu_passes(check, subject):
    assert check(subject()).status is Status.OK


@pytest.mark.gpu
def test_more_processes_than_gpus_are_a_failure(subject):
    assert devices.gpus(subject(processes=torch.cuda.device_count() + 1)).status is Status.FAILURE


@pytest.mark.parametrize(
    ("name", "value", "status"),
    [
        ("NCCL_SOCKET_IFNAME", "nowhere0", Status.FAILURE),
        ("NCCL_SOCKET_IFNAME", "lo", Status.OK),
        ("NCCL_SOCKET_IFNAME", "^docker0", Status.OK),
        ("TORCH_NCCL_ASYNC_ERROR_HANDLING", "0", Status.FAILURE),
        ("NCCL_P2P_DISABLE", "1", Status.WARNING),
        ("NCCL_IB_DISABLE", "0", Status.OK),
        ("NCCL_DEBUG", "INFO", Status.WARNING),
        ("NCCL_DEBUG", "WARN", Status.OK),
    ],
)
def test_variables_of_nccl_are_judged_one_by_one(subject, monkeypatch, name, value, status):
    monkeypatch.setenv(name, value)
    found = devices.nccl(subject())
    assert found.status is status
    assert f"{name}={value}" in found.found
    assert bool(found.remedy) is (status is not Status.OK)
