"""The batch scripts on a real Slurm of two hosts: what a call gets, and what becomes of one that is a mistake."""

import contextlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mlflow_users import ADMIN_PASSWORD, EXPECTED, USERS
from tests.slurm.cluster import Cluster
from tests.slurm.desk import CHECKOUT, HOSTILE, Desk
from tests.test_readme import PAGES, commands, shown

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


@pytest.mark.parametrize(
    ("script", "words", "complaint"),
    [
        (
            "preprocess.sbatch",
            "--mode resize /raw /packed",
            "expected SOURCE OUT, then options of pack, found: --mode",
        ),
        ("preprocess.sbatch", "/raw", "expected SOURCE OUT"),
        (
            "ablation.sbatch",
            "--seeds 1 /ablation",
            "expected FOLDER, then options of reid ablate, found: --seeds",
        ),
        ("train.sbatch", "--config x.yaml", "name the run's folder with --run"),
        ("mlflow.sbatch", "", "expected FOLDER"),
    ],
)
def test_a_call_that_a_script_does_not_understand_is_refused(
    desk: Desk, script: str, words: str, complaint: str
) -> None:
    job = desk.submit(script, *shlex.split(words))
    desk.ends(job, "FAILED")
    assert complaint in desk.output(job)


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


def calls_shown() -> list[tuple[list[str], Path]]:
    """Options and script of every call of sbatch that README.md, the other pages and the scripts themselves show."""
    found = []
    for page in PAGES:
        for words in (words for block in shown(page) for words in commands(block.text)):
            if words[0] == "sbatch" or words[:3] == ["reid", "slurm", "check"]:
                start = next(i for i, word in enumerate(words) if word.endswith(".sbatch"))
                options = [word.split("=")[0] for word in words[:start] if word.startswith("-")]
                found.append((options, CHECKOUT / words[start]))
    return found


def test_sbatch_has_the_options_that_are_shown_and_a_log_is_named_after_its_job(desk: Desk) -> None:
    """The log of a job without an array cannot have the name of an array's."""
    help_of_sbatch = desk.cluster.run("sbatch", "--help")
    calls = calls_shown()
    assert len(calls) > 8
    for options, script in calls:
        assert [one for one in options if not re.search(rf"{one}\b", help_of_sbatch)] == []
        of_an_array = re.search(r"(?m)^#SBATCH --output=.*%a", script.read_text())
        assert not of_an_array or {"--array", "--output"} & set(options), (options, script)


@pytest.mark.parametrize("name", ["two words", "quo'te\"d", "$(touch harmed)", HOSTILE, "a;touch harmed"])
def test_a_name_reaches_the_program_as_it_is(desk: Desk, name: str) -> None:
    missing = desk.folder / name
    job = desk.submit("evaluate.sbatch", "--checkpoint", missing)
    desk.ends(job, "FAILED")
    assert str(missing) in desk.output(job)


ASK = """
import sys, urllib.error, urllib.request
try:
    urllib.request.urlopen(sys.argv[1] + "/api/2.0/mlflow/experiments/search?max_results=1", timeout=30)
except urllib.error.HTTPError as refusal:
    print(refusal.code)
"""


def test_an_mlflow_server_runs_as_a_job_for_all_who_have_a_password(desk: Desk) -> None:
    folder = desk.folder / f"mlflow {HOSTILE}"
    address = folder / "address"
    secrets = {"MLFLOW_ADMIN_PASSWORD": ADMIN_PASSWORD, "MLFLOW_SECRET_KEY": "a long random word"}
    job = desk.submit("mlflow.sbatch", folder, options=("--mem=2000",), **secrets)

    def answers() -> bool:
        with contextlib.suppress(RuntimeError, OSError):  # not there yet
            return desk.cluster.run(sys.executable, "-c", ASK, address.read_text().strip()).strip() == "401"
        return False

    desk.cluster.until(answers, f"the server: {desk.output(job)}", 180)
    told = desk.cluster.run(sys.executable, "-c", USERS, address.read_text().strip())
    assert json.loads(told.splitlines()[-1]) == EXPECTED
    assert list((folder / "artifacts").rglob("picture.txt"))
    assert folder.stat().st_mode & 0o077 == 0
    desk.cluster.run("scancel", job)
    desk.ends(job, "CANCELLED")
    desk.cluster.until(lambda: not address.exists(), "its address to be taken back")
