"""slurm/job.sh and containers: the words that srun is given, and what goes with them.

Neither pyxis nor apptainer can be had here. So a stub in the place of srun writes down its words, and a command line is all
that is tested: that an image would run so is not.
"""

import os
import subprocess
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
SRUN = ["--export=ALL", "--cpus-per-task=8"]
STUBS = {
    "srun": """printf '%s\\0' "$@" >"$WORDS"; printf '%s' "$REID_CHECKOUT_REVISION" >"$WORDS.revision" """,
    "scontrol": "echo n1",
}


@pytest.fixture
def words(tmp_path: Path):
    """Calls a batch script as slurmd would, and returns the words that srun got."""
    for name, text in STUBS.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)

    def of(script: str, *arguments: str | Path, **variables: str) -> list[str]:
        given = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "REID"))}
        given |= {
            "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
            "WORDS": str(tmp_path / "words"),
            "SLURM_JOB_ID": "7",
            "SLURM_SUBMIT_DIR": str(CHECKOUT),
            "SLURM_CPUS_ON_NODE": "8",
            "SLURM_GPUS_ON_NODE": "2",
            "SLURM_JOB_NUM_NODES": "1",
            "SLURM_JOB_NODELIST": "n1",
        }
        subprocess.run(["bash", CHECKOUT / "slurm" / script, *arguments], env=given | variables, check=True)
        return (tmp_path / "words").read_text().split("\0")[:-1]

    return of


def test_pyxis_starts_the_image_with_the_checkout_beside_the_mounts_of_the_site(
    words, tmp_path: Path
) -> None:
    run = tmp_path / "a run"
    found = words(
        *("train.sbatch", "--run", run),
        REID_ENVIRONMENT="pyxis",
        REID_IMAGE="/images/reid.sqsh",
        REID_MOUNTS="/scratch,/my data",
    )
    start = found.index("--kill-on-bad-exit=1")
    assert found[:start] == [
        *SRUN,
        "--container-image=/images/reid.sqsh",
        f"--container-workdir={CHECKOUT}",
        "--no-container-mount-home",
        f"--container-mounts=/scratch:/scratch,/my data:/my data,{CHECKOUT}:{CHECKOUT}",
    ]
    assert found[start + 1 : start + 5] == [
        "--",
        "slurm/node.sh",
        "--config_file",
        "launch/accelerate/one_node.yaml",
    ]
    assert found[-6:] == ["-m", "reid", "train", "--run", str(run), "--resume"]


def test_apptainer_starts_the_image_with_the_checkout_beside_the_mounts_of_the_site(
    words, tmp_path: Path
) -> None:
    image = tmp_path / "reid.sif"
    image.touch()
    evaluation = ("evaluate.sbatch", "--checkpoint", "a run")
    container = {"REID_ENVIRONMENT": "apptainer", "REID_IMAGE": str(image)}

    def expected(mounts: str) -> list[str]:
        inside = [
            "apptainer",
            "exec",
            "--nv",
            "--no-home",
            "--bind",
            mounts,
            "--pwd",
            str(CHECKOUT),
            str(image),
        ]
        command = ["python", "-m", "reid", "evaluate", "--checkpoint", "a run"]
        return [*SRUN, "--nodes=1", "--ntasks=1", "--", *inside, *command]

    assert words(*evaluation, **container) == expected(str(CHECKOUT))
    assert words(*evaluation, **container, REID_MOUNTS="/scratch") == expected(f"/scratch,{CHECKOUT}")


def test_the_commit_of_a_checkout_goes_into_an_image_that_has_no_git(words, tmp_path: Path) -> None:
    question = ["git", "-C", CHECKOUT, "rev-parse", "HEAD"]
    commit = subprocess.run(question, capture_output=True, text=True, check=False).stdout.strip()
    words("evaluate.sbatch", REID_ENVIRONMENT="pyxis", REID_IMAGE="reid")
    assert (tmp_path / "words.revision").read_text().removesuffix("-dirty") == commit


def test_a_slurm_that_does_not_answer_is_not_taken_for_one_that_ends_the_job(tmp_path: Path) -> None:
    (tmp_path / "squeue").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "squeue").chmod(0o755)
    told = subprocess.run(
        ["bash", "-c", "source slurm/job.sh; job=7; job_state"],
        cwd=CHECKOUT,
        env=os.environ | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout == "unknown"
