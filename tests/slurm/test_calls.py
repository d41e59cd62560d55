"""The batch scripts on a real Slurm of two hosts: what a call gets, and what becomes of one that is a mistake."""

import contextlib
import os
import shlex
import shutil
import subprocess
import sys

import pytest

from tests.slurm.cluster import Cluster
from tests.slurm.desk import CHECKOUT, HOSTILE, Desk

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def site() -> dict[str, str]:
    """Options of sbatch that slurm/site.example.sh exports as it stands."""
    told = subprocess.run(
        ["bash", "-c", "source slurm/site.example.sh; env"],
        cwd=CHECKOUT,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return dict(line.split("=", 1) for line in told.splitlines() if line.startswith("SBATCH_"))


@pytest.mark.parametrize(
    ("script", "options", "gpus", "cores"),
    [
        ("train.sbatch", "", 1, 8),
        ("train.sbatch", "--gpus-per-node=2", 2, 16),
        ("train.sbatch", "--gpus-per-node=0 --mincpus=3", 0, 3),
        ("ablation.sbatch", "", 1, 8),
        ("evaluate.sbatch", "", 1, 8),
        ("preprocess.sbatch", "", 0, 4),
        ("mlflow.sbatch", "", 0, 2),
    ],
)
def test_a_job_gets_the_gpus_that_it_asks_for_and_cores_for_each(
    desk: Desk, site: dict[str, str], script: str, options: str, gpus: int, cores: int
) -> None:
    output = f"--output={desk.folder}/%j.log"
    words = (*shlex.split(options), output, CHECKOUT / "slurm" / script)
    job = desk.cluster.sbatch(*words, checkout=CHECKOUT, REID_VENV=sys.prefix, **site)
    desk.ends(job, "FAILED")  # without arguments, but not before it had what it asked for
    described = desk.cluster.run("scontrol", "--oneliner", "show", "job", job)
    assert f"TresPerNode=gres:gpu:{gpus} " in described
    assert f"TRES=cpu={cores}," in described


def test_all_cores_of_a_job_reach_its_step_however_they_were_asked_for(tmp_path_factory) -> None:
    """A launcher of training and its processes inherit what this step has."""
    if os.geteuid() != 0:
        pytest.skip("slurm: hosts of their own need root here")
    folder = tmp_path_factory.mktemp("b")
    script = folder / "cores.sh"
    script.write_text(
        f"#!/bin/bash\nset -u\nsource {CHECKOUT}/slurm/job.sh\nprepare\n"
        'step python -c "import os; print(len(os.sched_getaffinity(0)))"\n'
    )
    with Cluster.up(folder / "c", binding=True) as cluster:
        for options in ("--cpus-per-task=2", "--gpus-per-node=2 --cpus-per-gpu=1", "--mincpus=2"):
            words = ("--ntasks=1", *shlex.split(options), f"--output={folder}/%j.log", script)
            job = cluster.sbatch(*words, checkout=CHECKOUT, REID_VENV=sys.prefix)
            assert cluster.wait(job) == "COMPLETED"
            assert (folder / f"{job}.log").read_text().splitlines()[-1] == "2", options


def test_a_mistake_ends_a_job_at_once_whatever_an_earlier_one_asked_for(desk: Desk) -> None:
    run = desk.folder / "wrong"
    run.mkdir()
    (run / "requeue").write_text("SIGTERM\n")
    job = desk.submit("train.sbatch", "--config", desk.folder / "missing.yaml", "--run", run)
    desk.ends(job, "FAILED")
    assert "missing.yaml" in desk.output(job)
    assert "without a new checkpoint: not again" in desk.output(job)
    assert desk.cluster.restarts(job) == 0


def test_a_port_that_is_taken_is_passed_over(desk: Desk) -> None:
    words = ("--config", desk.folder / "missing.yaml", "--run", desk.folder / "never")
    job = desk.submit("train.sbatch", *words, options=("--hold", "--nodelist=n1"))
    port = 20000 + int(job) * 31 % 10000
    with desk.cluster.listening("n1", port):
        desk.cluster.run("scontrol", "release", job)
        desk.ends(job, "FAILED")
    assert f"led by n1:{port + 1}\n" in desk.output(job)


def test_neither_an_empty_environment_nor_a_careless_site_stops_a_job(desk: Desk) -> None:
    """Some sites submit with --export=NONE; what modules and conda do is not fit for `set -u`."""
    checkout = desk.folder / "checkout"
    shutil.copytree(CHECKOUT / "slurm", checkout / "slurm")
    for name in ("launch", "preprocess", "reid"):
        (checkout / name).symlink_to(CHECKOUT / name)
    (checkout / ".venv").symlink_to(sys.prefix)
    (checkout / "slurm" / "site.sh").write_text('export OTHER="$NOBODY_HAS_SET_THIS"\n')
    output = checkout / "told.log"
    job = desk.cluster.sbatch(
        *("--export=NONE", "--mincpus=1", "--gpus-per-node=0", f"--output={output}"),
        *("slurm/evaluate.sbatch", "--checkpoint", "missing"),
        checkout=checkout,
    )
    assert desk.cluster.wait(job) == "FAILED"
    assert "missing: neither a checkpoint nor the folder of a run" in output.read_text()


@pytest.mark.parametrize("name", ["two words", "quo'te\"d", "$(touch harmed)", HOSTILE, "a;touch harmed"])
def test_a_name_reaches_the_program_as_it_is(desk: Desk, name: str) -> None:
    missing = desk.folder / name
    job = desk.submit("evaluate.sbatch", "--checkpoint", missing)
    desk.ends(job, "FAILED")
    assert str(missing) in desk.output(job)


ASK = """
import base64, sys, urllib.error, urllib.request
request = urllib.request.Request(sys.argv[1] + "/api/2.0/mlflow/experiments/search?max_results=1")
if len(sys.argv) > 2:
    request.add_header("Authorization", "Basic " + base64.b64encode(sys.argv[2].encode()).decode())
try:
    print(urllib.request.urlopen(request, timeout=30).status)
except urllib.error.HTTPError as refusal:
    print(refusal.code)
"""


def test_an_mlflow_server_runs_as_a_job_and_asks_for_a_password(desk: Desk) -> None:
    address = desk.folder / "mlflow" / "address"
    words = {"MLFLOW_ADMIN_PASSWORD": "a long password", "MLFLOW_SECRET_KEY": "a long random word"}
    job = desk.submit("mlflow.sbatch", desk.folder / "mlflow", options=("--mem=2000",), **words)

    def answer(*user: str) -> str:
        return desk.cluster.run(sys.executable, "-c", ASK, address.read_text().strip(), *user).strip()

    def serves() -> bool:
        with contextlib.suppress(RuntimeError, OSError):  # not there yet
            return answer() == "401"
        return False

    desk.cluster.until(serves, "the server", 180)
    assert answer("admin:a long password") == "200"
    assert answer("admin:another password") == "401"
    assert (desk.folder / "mlflow").stat().st_mode & 0o077 == 0
    desk.cluster.run("scancel", job)
    desk.ends(job, "CANCELLED")
    desk.cluster.until(lambda: not address.exists(), "its address to be taken back")
