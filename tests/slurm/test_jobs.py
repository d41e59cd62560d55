"""The batch scripts on a real Slurm of two hosts: whatever stops a job, its run ends as if nothing had happened."""

import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from preprocess.synthetic import SyntheticConfig, synthesize
from reid.tracking.journal import Kind, header, read
from reid.tracking.names import is_repeatable
from reid.training import checkpoint
from tests.slurm.desk import CHECKOUT, HOSTILE, LAST, TINY, Desk

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.timeout(1200)]
# What a user's own `accelerate config` may have left: it must not be heard.
SOMEBODYS_OWN = {"distributed_type": "FSDP", "gpu_ids": "0", "mixed_precision": "fp16", "num_machines": 3}


@pytest.fixture(scope="module")
def packed(desk: Desk) -> Path:
    """A synthetic data set, packed by an array of jobs, sealed and verified by one that depends on them."""
    size = SyntheticConfig(
        num_identities=12, num_train_identities=8, tracklets_per_modality=4, height=32, width=16
    )
    synthesize(size, desk.folder / "raw", 1)
    packed = desk.folder / f"packed {HOSTILE}"
    call = (desk.folder / "raw", packed)
    parts = desk.submit("preprocess.sbatch", *call, options=("--array=1-2",))
    seal = desk.submit("preprocess.sbatch", *call, options=(f"--dependency=afterok:{parts}",))
    desk.ends(seal)
    assert f"{packed}: whole; 2 shards" in desk.output(seal)
    (desk.folder / "tiny.yaml").write_text(
        yaml.safe_dump(TINY | {"data": TINY["data"] | {"root": str(packed)}})
    )
    return packed


@pytest.fixture(scope="module")
def undisturbed(desk: Desk, packed: Path) -> Path:
    job = desk.train(f"undisturbed {HOSTILE}")
    desk.ends(job)
    assert "2 processes on 2 nodes" in desk.output(job)
    return desk.folder / f"undisturbed {HOSTILE}"


def points(run: Path) -> dict[tuple[int, str], float]:
    """Logged values by step and name, each written once."""
    found: dict[tuple[int, str], float] = {}
    for record in read(run):
        if record.kind is Kind.METRICS and record.step is not None:
            values = {(record.step, n): value for n, value in record.data.items() if is_repeatable(n)}
            assert not values.keys() & found.keys()
            found |= values
    return found


def pre_empt(desk: Desk, _: str) -> None:
    """A job of a better partition takes a node; Slurm sends TERM."""
    short = desk.folder / "short.sh"
    short.write_text("#!/bin/sh\nsleep 1\n")
    options = ("--partition=high", "--exclusive", "--nodes=2", "--output=/dev/null")
    desk.cluster.sbatch(*options, short, checkout=desk.folder)


def kill_a_rank(desk: Desk, _: str) -> None:
    (*_, rank) = desk.cluster.processes("n2", "-m reid train")
    os.kill(rank, signal.SIGKILL)


def power_off_and_on(desk: Desk, job: str) -> None:
    """A machine boots for longer than Slurm is patient with it (SlurmdTimeout)."""
    desk.cluster.power_off("n2")
    desk.cluster.until(lambda: desk.cluster.state(job) != "RUNNING", "the job noticed", 120)
    desk.cluster.power_on("n2")


def cut_and_join(desk: Desk, job: str) -> None:
    """A node that comes back still has processes of the job, and Slurm, which ends them, knows them by nothing but its number.

    So the job must not be there again yet. On a real cluster it is not: a job that was put back waits for two minutes.
    """
    desk.cluster.cut_cable("n2")
    desk.cluster.until(lambda: desk.cluster.state(job) != "RUNNING", "the job noticed", 180)
    desk.cluster.run("scontrol", "update", "nodename=n2", "state=drain", "reason=comes back")
    desk.cluster.join_cable("n2")
    desk.cluster.until(lambda: not desk.cluster.processes("n2", "reid train"), "the end of the old ones", 120)
    desk.cluster.run("scontrol", "update", "nodename=n2", "state=resume")


def ask_to_stop(desk: Desk, job: str) -> None:
    desk.cluster.run("scancel", "--batch", "--signal=USR1", job)


def requeue(desk: Desk, job: str) -> None:
    desk.cluster.run("scontrol", "requeue", job)


def assert_ends_as_if_nothing_had_happened(
    desk: Desk, undisturbed: Path, disturb: Callable[[Desk, str], None]
) -> None:
    name = disturb.__name__
    job = desk.train(name)
    desk.reached(name, 4)
    disturb(desk, job)
    desk.ends(job)
    assert desk.cluster.restarts(job) >= 1, desk.output(job)
    expected, found = (
        checkpoint.load(checkpoint.place(run / "checkpoints", LAST))
        for run in (undisturbed, desk.folder / name)
    )
    for mine, other in ((found.weights, expected.weights), (found.momentum, expected.momentum)):
        assert mine.keys() == other.keys()
        assert all(mine[key].equal(other[key]) for key in mine)
    assert points(desk.folder / name) == points(undisturbed)


@pytest.mark.parametrize("disturb", [ask_to_stop, pre_empt, requeue, kill_a_rank])
def test_a_disturbed_job_ends_as_if_nothing_had_happened(
    desk: Desk, undisturbed: Path, disturb: Callable[[Desk, str], None]
) -> None:
    assert_ends_as_if_nothing_had_happened(desk, undisturbed, disturb)


def test_an_array_trains_the_rows_of_a_table_and_the_job_that_waits_for_it_writes_it(
    desk: Desk, packed: Path
) -> None:
    """The last task is asked to stop: its plain number is that of the whole array, which shall not notice."""
    folder = desk.folder / f"ablation {HOSTILE}"
    call = (folder, "--config", desk.folder / "tiny.yaml", "--variants", "baseline,full", "--seeds", "1")
    array = desk.submit("ablation.sbatch", *call, options=("--array=0-1",))
    writes = desk.submit("ablation.sbatch", folder, options=(f"--dependency=afterany:{array}",))
    desk.reached(f"{folder.name}/full-0", 4)
    ask_to_stop(desk, f"{array}_1")
    desk.ends(writes)
    assert [desk.cluster.restarts(f"{array}_{task}") for task in (0, 1)] == [0, 1]
    assert [desk.cluster.state(f"{array}_{task}") for task in (0, 1)] == ["COMPLETED", "COMPLETED"]
    table = (folder / "table1.md").read_text()
    assert "Table 1: Infrared to visible on SYNTHETIC data" in desk.output(writes)
    for name, label in (("baseline-0", "Baseline"), ("full-0", r"Baseline+ASAM+ADM+FRM-STIG")):
        above = folder / "rows" / name.removesuffix("-0")
        assert header(folder / name)["parent_uid"] == header(above)["uid"]
        assert header(above)["parent_uid"] == header(folder)["uid"]
        row = next(line for line in table.splitlines() if line.startswith(f"| {label} | 1 |"))
        assert f"{100 * points(folder / name)[LAST, 'infrared_to_visible/map']:.1f}" in row


def test_a_job_cancelled_by_its_user_stays_cancelled_and_can_be_continued(
    desk: Desk, undisturbed: Path
) -> None:
    job = desk.train("cancelled")
    desk.reached("cancelled", 4)
    desk.cluster.run("scancel", job)
    desk.ends(job, "CANCELLED")
    assert desk.cluster.restarts(job) == 0, desk.output(job)
    desk.ends(desk.train("cancelled"))
    assert points(desk.folder / "cancelled") == points(undisturbed)


def test_a_job_puts_itself_back_only_so_often_and_what_slurm_takes_back_does_not_count(
    desk: Desk, packed: Path
) -> None:
    job = desk.train("patient", REID_MAX_REQUEUES="1")
    for restart, stop in enumerate((requeue, ask_to_stop, ask_to_stop)):
        begins = f"job {job}, restart {restart}, on"
        desk.cluster.until(lambda: begins in desk.output(job), begins, 120)  # noqa: B023
        desk.advances("patient", 2)
        stop(desk, job)
    desk.ends(job, "FAILED")
    assert "put back into the queue 1 times already (REID_MAX_REQUEUES): not again" in desk.output(job)
    (line,) = (desk.folder / "patient" / "requeues").read_text().splitlines()
    assert line.endswith(f" job {job}: stopped by SIGUSR1")


def test_two_jobs_share_a_node_and_a_process_is_started_for_each_gpu(desk: Desk, packed: Path) -> None:
    own = desk.folder / "huggingface" / "accelerate" / "default_config.yaml"
    own.parent.mkdir(parents=True)
    own.write_text(yaml.safe_dump({"compute_environment": "LOCAL_MACHINE"} | SOMEBODYS_OWN))
    words = ("--config", desk.folder / "tiny.yaml", "--run")
    there = ("--nodelist=n1",)
    left = desk.submit(
        *("train.sbatch", *words, desk.folder / "left"),
        options=there,
        REID_PROCESSES_PER_NODE="2",
        HF_HOME=str(own.parents[1]),
    )
    right = desk.submit(
        "train.sbatch",
        *words,
        desk.folder / "right",
        options=(*there, "--gpus-per-node=2", "--cpus-per-gpu=1"),
    )
    for job in (left, right):
        desk.ends(job)
        assert "2 processes on 1 nodes" in desk.output(job)
    assert points(desk.folder / "left") == points(desk.folder / "right")


def test_what_slurm_says_of_a_job_is_known_before_it_is_submitted(desk: Desk, packed: Path) -> None:
    words = ("slurm/train.sbatch", "--config", desk.folder / "tiny.yaml", "--run", desk.folder / "asked")
    check = (sys.executable, "-m", "reid", "slurm", "check", "--mincpus=1", "--gpus-per-node=0")
    told = desk.cluster.run(*check, "--nodes=2", *words, checkout=CHECKOUT, REID_VENV=sys.prefix)
    assert re.search(r"Job \d+ to start at .* on nodes n\[1-2\]", " ".join(told.split()))
    with pytest.raises(RuntimeError, match="allocation failure"):
        desk.cluster.run(*check, "--nodes=3", *words, checkout=CHECKOUT, REID_VENV=sys.prefix)
    assert not (desk.folder / "asked").exists()


def test_evaluation_prints_the_scores_that_training_logged(desk: Desk, undisturbed: Path) -> None:
    job = desk.submit("evaluate.sbatch", "--checkpoint", undisturbed, "--num-workers", "0")
    desk.ends(job)
    rank1 = points(undisturbed)[LAST, "infrared_to_visible/rank1"]
    assert f"{100 * rank1:.1f}" in desk.output(job)


@pytest.mark.parametrize("disturb", [power_off_and_on, cut_and_join])
def test_a_job_that_loses_a_node_ends_as_if_nothing_had_happened(
    desk: Desk, undisturbed: Path, disturb: Callable[[Desk, str], None]
) -> None:
    """Last, because Slurm may still be clearing up on such a node when the next job is there."""
    assert_ends_as_if_nothing_had_happened(desk, undisturbed, disturb)
