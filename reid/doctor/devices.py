"""Checks of the GPUs: whether the driver fits torch, how many are seen, what they can do, how they talk."""

import os
import re
from pathlib import Path

import psutil
import torch

from reid.doctor.finding import Finding, Subject, failure, ok, warning
from reid.tracking.gauges import driver_version

OLDEST_DRIVERS = {11: 450, 12: 525, 13: 580}  # by the major version of CUDA that torch was built for
NODES = Path("/dev")
PROCESSORS = Path("/proc/cpuinfo")
NO_GPU = "no GPU"
SLOW = {
    "NCCL_P2P_DISABLE": "GPUs talk through the memory of the host",
    "NCCL_SHM_DISABLE": "processes of a machine talk through sockets",
    "NCCL_IB_DISABLE": "machines talk by TCP",
}


def driver(subject: Subject) -> Finding:
    """The oldest driver that runs the CUDA libraries that torch brings."""
    version, built = driver_version(), torch.version.cuda
    if built is None:
        if version is None:
            return ok(f"torch is built without CUDA, and there is {NO_GPU}")
        return failure(
            f"driver {version}, but torch {torch.__version__} is built without CUDA",
            "Install a CUDA build of torch",
        )
    oldest = OLDEST_DRIVERS.get(int(built.split(".")[0]))
    if version is None:
        return _without_gpu(subject, f"no driver; torch is built for CUDA {built}")
    if oldest is not None and int(version.split(".")[0]) < oldest:
        return failure(
            f"driver {version}, but CUDA {built} needs {oldest} or later",
            f"Update the driver, or install a torch build for an older CUDA (r{oldest} is for CUDA {built})",
        )
    return ok(f"driver {version}, torch is built for CUDA {built}")


def gpus(subject: Subject) -> Finding:
    """As many as there are processes, and all that the machine has."""
    asked = os.environ.get("CUDA_VISIBLE_DEVICES")
    nodes = [node for node in NODES.glob("nvidia*") if re.fullmatch(r"nvidia\d+", node.name)]
    seen = torch.cuda.device_count()
    found = f"{seen} visible to torch, {len(nodes)} in {NODES}"
    if asked is not None:
        found += f", CUDA_VISIBLE_DEVICES={asked!r}"
    if seen == 0:
        if nodes:
            return _without_gpu(
                subject,
                found,
                "Ask the job for GPUs (--gres=gpu:N), and look at CUDA_VISIBLE_DEVICES and the driver",
            )
        return _without_gpu(subject, found)
    if asked is not None and len(named := [part for part in asked.split(",") if part.strip()]) > seen:
        return failure(found, f"CUDA_VISIBLE_DEVICES names {len(named)} GPUs; name only those that exist")
    if subject.config.engine.device != "cpu" and subject.processes > seen:
        return failure(
            f"{found}, but {subject.processes} processes", f"Start {seen} processes on this machine"
        )
    return ok(f"{found}: {torch.cuda.get_device_name(0)}")


def _without_gpu(subject: Subject, found: str, remedy: str = "") -> Finding:
    if subject.config.engine.device == "cpu":
        return ok(f"{found}; none is asked for")
    return warning(
        f"{found}; the CPU would be used",
        remedy or "Say --engine.device cpu if that is meant, or start on a machine with a GPU",
    )


def precision(subject: Subject) -> Finding:
    """Whether the precision of the run is one that this machine computes in."""
    wanted = subject.config.engine.precision
    on_gpu = torch.cuda.is_available() and subject.config.engine.device != "cpu"
    if wanted not in {"bf16", "fp16"}:
        return ok(f"{wanted} works everywhere")
    if on_gpu:
        major, minor = torch.cuda.get_device_capability()
        if wanted == "bf16" and major < 8:
            return warning(
                f"a GPU of capability {major}.{minor} only emulates bf16",
                "Use --engine.precision fp16, or fp32",
            )
        return ok(f"{wanted} on a GPU of capability {major}.{minor}")
    if wanted == "fp16":
        return warning("fp16 without a GPU is slow and underflows", "Use --engine.precision bf16 or fp32")
    flags = set(re.findall(r"avx512_bf16|amx_bf16", PROCESSORS.read_text()))
    if not flags:
        return warning("this processor only emulates bf16", "Use --engine.precision fp32")
    return ok(f"bf16 by {', '.join(sorted(flags))}")


def gpu_memory(subject: Subject) -> Finding:
    """Whether somebody else is on the GPUs."""
    if not torch.cuda.is_available() or subject.config.engine.device == "cpu":
        return ok("no GPU is used")
    shares = [torch.cuda.mem_get_info(number) for number in range(torch.cuda.device_count())]
    found = ", ".join(f"{free / 1e9:.0f} of {total / 1e9:.0f} GB free" for free, total in shares)
    if min(free / total for free, total in shares) < 0.9:
        return warning(
            found, "See with nvidia-smi who uses them, and choose others with CUDA_VISIBLE_DEVICES"
        )
    return ok(found)


def nccl(_: Subject) -> Finding:
    """Variables that make NCCL slow, talkative or stuck."""
    chosen = {name: value for name, value in os.environ.items() if name.startswith(("NCCL_", "TORCH_NCCL_"))}
    told = ", ".join(f"{name}={value}" for name, value in sorted(chosen.items())) or "no variable set"
    interfaces = chosen.get("NCCL_SOCKET_IFNAME", "")
    known = set(psutil.net_if_addrs())
    if interfaces and not interfaces.startswith("^"):
        names = [name.lstrip("=") for name in interfaces.split(",")]
        if not any(interface.startswith(name) for name in names for interface in known):
            return failure(
                f"{told}: no such interface", f"NCCL_SOCKET_IFNAME can name {', '.join(sorted(known))}"
            )
    if chosen.get("TORCH_NCCL_ASYNC_ERROR_HANDLING") == "0":
        return failure(
            told, "Unset TORCH_NCCL_ASYNC_ERROR_HANDLING: a process that dies would leave the others hanging"
        )
    if slow := [name for name in SLOW if chosen.get(name) == "1"]:
        return warning(told, "; ".join(f"unset {name}, with it {SLOW[name]}" for name in slow))
    if chosen.get("NCCL_DEBUG") in {"INFO", "TRACE"}:
        return warning(told, "Set NCCL_DEBUG=WARN: the log would hold little else")
    return ok(told)
