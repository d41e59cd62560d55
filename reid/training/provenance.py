"""Where a run comes from: code, libraries, machine and job. Of the environment's variables, which may hold secrets, only
those that are named here are ever read.
"""

import getpass
import logging
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from reid.tracking import names
from reid.tracking.gauges import driver_version

SLURM = {
    names.Tag.SLURM_JOB: "SLURM_JOB_ID",
    names.Tag.SLURM_NODES: "SLURM_JOB_NODELIST",
    names.Tag.SLURM_RESTARTS: "SLURM_RESTART_COUNT",
}

log = logging.getLogger(__name__)


def tags() -> dict[str, Any]:
    """Who runs which code where, by the names of MLflow's tags. What is not known is left out."""
    job: dict[str, str] = {
        tag: os.environ[variable] for tag, variable in SLURM.items() if variable in os.environ
    }
    if names.Tag.SLURM_JOB in job:
        job.setdefault(names.Tag.SLURM_RESTARTS, "0")  # Slurm sets it from the first restart on
    driver = driver_version()
    return {
        names.Tag.USER: getpass.getuser(),
        names.Tag.HOST: platform.node(),
        names.Tag.SOURCE: "reid train",
        **({names.Tag.DRIVER: driver} if driver else {}),
        **job,
        **_code_version(),
    }


def environment() -> str:
    """Versions of the system, of torch and what it runs on, and of every installed distribution, a line each."""
    cuda = torch.version.cuda
    cudnn = torch.backends.cudnn.version() if cuda else None
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    packages = {f"{found.name}=={found.version}" for found in metadata.distributions()}
    lines = [
        f"python {platform.python_version()}",
        f"system {platform.platform()}",
        f"cores {os.cpu_count()}",
        f"torch {torch.__version__}",
        f"cuda {cuda or 'none'}",
        f"cudnn {cudnn or 'none'}",
        f"driver {driver_version() or 'none'}",
        *(f"gpu {i} {name}" for i, name in enumerate(devices)),
        "",
        *sorted(packages, key=str.lower),
    ]
    return "\n".join(lines) + "\n"


def _code_version() -> dict[str, Any]:
    """Commit and dirtiness of the checkout this code runs from; nothing where that is not known.

    Code of an image is in no checkout: there REID_REVISION names the commit it was built from (docker/Dockerfile). A
    checkout that is mounted in an image without git is described by REID_CHECKOUT_REVISION (slurm/job.sh).
    """
    here = Path(__file__).parent
    if not (here.parents[1] / ".git").exists():
        revision = os.environ.get("REID_REVISION")
        return {names.Tag.COMMIT: revision} if revision else {}
    try:
        commit, status = (
            subprocess.run(  # noqa: S603
                ["git", "-C", str(here), *question],  # noqa: S607
                check=True,
                capture_output=True,
                text=True,
                timeout=10,
            ).stdout
            for question in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.SubprocessError) as error:
        log.debug("git does not tell the version of the code: %s", error)
        return _told_from_outside(os.environ.get("REID_CHECKOUT_REVISION", ""))
    return {names.Tag.COMMIT: commit.strip(), names.Tag.DIRTY: bool(status.strip())}


def _told_from_outside(revision: str) -> dict[str, Any]:
    """COMMIT or COMMIT-dirty, as `git describe` writes it; nothing is known if it is empty."""
    if not revision:
        return {}
    commit = revision.removesuffix("-dirty")
    return {names.Tag.COMMIT: commit, names.Tag.DIRTY: commit != revision}
