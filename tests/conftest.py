"""What every test may rely on, and what a marked test needs from the machine.

A test whose tools are missing is skipped with its reason. With CI=true it fails instead, because there everything must
run; only a GPU may be missing even there.
"""

import os
import shutil
import signal
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("patient", parent=settings.default, deadline=None)  # a busy machine is no mistake
settings.load_profile("patient")

TOOLS = {
    "slurm": ("slurmctld", "slurmd", "munged", "ip", "nsenter"),
    "browser": ("chromium",),
    "container": ("buildah", "podman", "crun", "debootstrap"),
    "nginx": ("nginx",),
    "postgresql": ("initdb", "pg_ctl"),
    "strace": ("strace",),
}


def pytest_configure() -> None:
    """A shell's background job ignores SIGINT, and so would every process that a test starts and interrupts.

    Debian keeps PostgreSQL's programs off the PATH.
    """
    folders = map(str, Path("/usr/lib/postgresql").glob("*/bin"))
    os.environ["PATH"] = os.pathsep.join([os.environ["PATH"], *folders])
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest begins first, so that everything else runs beside it."""
    items.sort(key=_patience, reverse=True)


def _patience(item: pytest.Item) -> tuple[bool, float]:
    timeout = item.get_closest_marker("timeout")
    return item.get_closest_marker("slow") is not None, timeout.args[0] if timeout else 0.0


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker, programs in TOOLS.items():
        missing = [program for program in programs if shutil.which(program) is None]
        if missing and item.get_closest_marker(marker):
            reason = f"{marker}: not installed here: {', '.join(missing)}"
            if os.environ.get("CI") == "true":
                pytest.fail(reason, pytrace=False)
            pytest.skip(reason)
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("gpu: there is none here")
