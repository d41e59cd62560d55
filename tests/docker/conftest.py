"""What the tests of docker/ share: compose.yaml as it is meant, and the image, built once and run without an engine.

No registry of images is asked: debootstrap makes the base from this machine's own mirror, buildah runs every step of
docker/Dockerfile in a chroot, with this machine's certificates and package index mounted for the time of the build, and
podman runs the image. What they store (some 20 GB) lies in one temporary folder, and goes with it.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PROGRAMS = Path(sys.executable).parent
CERTIFICATES = Path("/etc/ssl/certs")
BASE, IMAGE, REVISION = "localhost/debian:bookworm-slim", "localhost/reid", "0f1e2d"
SECRETS = {
    "POSTGRES_PASSWORD": "p@ss/w:rd %41",
    "MLFLOW_ADMIN_PASSWORD": "a long one, and secret",
    "MLFLOW_SECRET_KEY": "signs sessions",
}
GPUS = "3"

MAKE_BASE = """
container=$(buildah "${store[@]}" from scratch)
debootstrap --variant=minbase --include=ca-certificates bookworm "$(buildah "${store[@]}" mount "$container")" "$1"
buildah "${store[@]}" commit --quiet --rm "$container" "$2"
"""
# crun starts containers only where cgroups of version 2 are alone.
PODMAN = """
umount --recursive /sys/fs/cgroup
mount -t cgroup2 none /sys/fs/cgroup
exec podman "${store[@]}" --cgroup-manager=cgroupfs --events-backend=none "$@"
"""
BUILDAH = """
exec buildah "${store[@]}" "$@"
"""
# As this process may not raise its limits, a container has to be content with them. As it shares the machine with other
# tests, one thread a process.
STARTED = (
    *("--pull=never", "--cgroups=disabled", "--no-healthcheck"),
    *("--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024", "--env=OMP_NUM_THREADS=1"),
)
HARDENED = ("--read-only", "--cap-drop=all", "--security-opt=no-new-privileges")

Answer = subprocess.CompletedProcess[str]


class Engine:
    """buildah and podman over a store of their own. What they mount is seen by nobody else, and gone when they end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._environment = os.environ | {"TMPDIR": str(folder), "STORE": str(folder)}

    def script(self, text: str, *arguments: str | Path, check: bool = True) -> Answer:
        store = 'store=(--root "$STORE/root" --runroot "$STORE/run" --storage-driver overlay)\n'
        words = ["unshare", "--mount", "bash", "-euo", "pipefail", "-c", store + text, "bash", *arguments]
        answer = subprocess.run(
            words,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if check and answer.returncode:
            told = f"{answer.stdout[-4000:]}\n{answer.stderr[-4000:]}"
            pytest.fail(f"exit code {answer.returncode}: {text} {arguments}\n{told}", pytrace=False)
        return answer

    def podman(self, *arguments: str | Path, check: bool = True) -> Answer:
        return self.script(PODMAN, *arguments, check=check)

    def run(
        self, *command: str, options: tuple[str, ...] = (), network: str = "none", check: bool = True
    ) -> Answer:
        """A command in a container of its own: the image's user, no network, nothing to write to but /tmp."""
        confined = (*STARTED, *HARDENED, f"--network={network}")
        return self.podman("run", "--rm", *confined, *options, IMAGE, *command, check=check)


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    if os.geteuid():
        pytest.skip("container: only root can make a base, and mount what containers run on")
    folder = Path(tempfile.mkdtemp(prefix="reid-container-", dir="/var/tmp"))
    folder.chmod(0o755)
    engine = Engine(folder)
    try:
        yield engine
    finally:
        engine.podman("rm", "--all", "--force", "--time=5", check=False)
        subprocess.run(["rm", "--recursive", "--one-file-system", folder], check=True)


@pytest.fixture(scope="module")
def image(engine: Engine) -> Engine:
    """The engine, with IMAGE built of this working tree."""
    engine.script(MAKE_BASE, _debian_mirror(), BASE)
    pip_conf = engine.folder / "pip.conf"
    pip_conf.write_text(_package_index())
    engine.script(
        BUILDAH,
        *("build", "--isolation=chroot", "--pull-never", "--format=docker"),
        *(f"--volume={CERTIFICATES}:{CERTIFICATES}:ro", f"--volume={pip_conf}:/etc/pip.conf:ro"),
        *(f"--build-arg=BASE={BASE}", f"--build-arg=REVISION={REVISION}"),
        *(f"--tag={IMAGE}", f"--file={ROOT}/docker/Dockerfile", ROOT),
    )
    return engine


def _debian_mirror() -> str:
    answer = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(RELEASE) $(REPO_URI)"],
        check=True,
        capture_output=True,
        text=True,
    )
    targets = [line.split() for line in answer.stdout.splitlines()]
    mirrors = [mirror for release, mirror in targets if release == "bookworm"]
    assert mirrors, "apt knows no mirror of Debian bookworm to make a base from"
    return mirrors[0]


def _package_index() -> str:
    """A pip.conf of what this machine's pip was told: certificates, and an index if not the usual one."""
    answer = subprocess.run(
        [sys.executable, "-m", "pip", "config", "get", "global.index-url"],
        check=False,
        capture_output=True,
        text=True,
    )
    index = os.environ.get("PIP_INDEX_URL") or answer.stdout.strip()
    settings = [f"cert = {CERTIFICATES}/ca-certificates.crt", *([f"index-url = {index}"] if index else [])]
    return "\n".join(["[global]", *settings, ""])


@pytest.fixture(scope="session")
def compose() -> dict[str, Any]:
    """docker/compose.yaml as podman-compose reads it, with every service, SECRETS filled in, and so many GPUs."""
    answer = subprocess.run(
        [PROGRAMS / "podman-compose", "--file", ROOT / "docker/compose.yaml", "--profile", "train", "config"],
        env=os.environ | SECRETS | {"REID_GPUS": GPUS},
        check=True,
        capture_output=True,
        text=True,
    )
    return yaml.safe_load(answer.stdout)
