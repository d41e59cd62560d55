"""A call of sbatch: how it is taken apart, and what is found wrong with it."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from reid.cli import main
from reid.doctor import submission
from reid.doctor.finding import Finding, Status, Subject
from reid.doctor.sbatch import Call, gpus_per_node, seconds_of
from reid.tracking.tracker import OFFLINE, Tracker

SCRIPT = Path(__file__).parents[3] / "slurm" / "train.sbatch"


def test_a_call_is_taken_apart_at_its_script() -> None:
    call = Call.parse(["--nodes", "2", "-t", "1:00:00", "slurm/train.sbatch", "--run", "a b"])
    assert call.options == ("--nodes", "2", "-t", "1:00:00")
    assert call.script == Path("slurm/train.sbatch")
    assert call.arguments == ("--run", "a b")
    assert call.rendered == "sbatch --nodes 2 -t 1:00:00 slurm/train.sbatch --run 'a b'"


def test_the_command_line_wins_over_the_environment_and_that_over_the_script() -> None:
    call = Call.parse(["-N4", "--time=2:00:00", str(SCRIPT)])
    options = call.effective(
        {"SBATCH_TIMELIMIT": "3:00:00", "SBATCH_PARTITION": "gpu", "SBATCH_ACCOUNT": "us"}
    )
    assert options["time"] == ("2:00:00", "command line")
    assert options["nodes"].value == "4"
    assert options["partition"] == ("gpu", "SBATCH_PARTITION")
    assert options["signal"] == ("B:USR1@120", str(SCRIPT))
    assert options["requeue"].value == ""


def test_of_the_environment_only_what_sbatch_reads_is_told_by_the_name_of_its_option() -> None:
    call = Call.parse([str(SCRIPT)])
    given = {"SBATCH_NODES": "8", "SBATCH_MEM_PER_NODE": "90G", "SBATCH_GPUS_PER_NODE": "4"}
    found = {name: option.value for name, option in call.effective(given).items() if option.source in given}
    assert found == {"mem": "90G", "gpus-per-node": "4"}


@pytest.mark.parametrize(
    ("options", "gpus"),
    [
        ("", 1),  # by the script
        ("--gpus-per-node=0", 0),
        ("--gpus-per-node=a100:4", 4),
        ("--gpus-per-node=a100:2,h100:2", 4),
        ("--gres=gpu:a100:8,shard:3", 8),
        ("--gres=gpu", 1),
        ("--nodes=2 --gpus=8 --gpus-per-node=0", 4),
    ],
)
def test_gpus_are_counted_however_they_are_asked_for(options: str, gpus: int) -> None:
    assert gpus_per_node(Call.parse([*options.split(), str(SCRIPT)]).effective({})) == gpus


@pytest.mark.parametrize(
    ("limit", "seconds"),
    [
        ("90", 5400),
        ("1:30", 90),
        ("1:00:00", 3600),
        ("2-12", 216_000),
        ("1-00:30:15", 88_215),
        ("0-1:30", 5400),
    ],
)
def test_a_time_limit_is_read_as_slurm_reads_it(limit: str, seconds: float) -> None:
    assert seconds_of(limit) == seconds


def test_a_time_limit_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="found 'soon'"):
        seconds_of("soon")


def test_a_call_without_a_script_is_a_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["slurm", "check", "--nodes=2"]) == 2
    assert "slurm/train.sbatch" in capsys.readouterr().err


def test_a_wrong_option_of_train_is_found_before_it_is_submitted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(SCRIPT), "--run", str(tmp_path / "run"), "--data.padding", "900"]
    assert main(["slurm", "check", *words]) == 2
    assert "data.padding" in capsys.readouterr().err


def test_what_would_go_wrong_is_told_with_what_would_be_submitted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REID_ENVIRONMENT", "apptainer")
    monkeypatch.setenv("REID_IMAGE", "missing.sif")
    words = [
        "--time=0:30",
        str(SCRIPT),
        "--run",
        "run",
        "--data.root",
        "nowhere",
        "--tracking.uri",
        "offline",
    ]
    assert main(["slurm", "check", *words]) == 1
    told = " ".join(capsys.readouterr().out.split())
    for claim in ("--time=0:30 (command line)", "no checkout", "no image missing.sif", "nowhere"):
        assert claim in told


def test_a_damaged_journal_is_a_finding_beside_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "500")
    with Tracker.open(tmp_path, experiment="e", run_name="r", tracking_uri=OFFLINE):
        pass
    journal = tmp_path / "journal.jsonl"
    journal.write_bytes(b"damage\n" + journal.read_bytes())
    assert main(["slurm", "check", "--time=1:00:00", str(SCRIPT), "--run", str(tmp_path)]) == 1
    told = " ".join(capsys.readouterr().out.split())
    (complaint,) = (part for part in told.split(" ok ") if "time limit failure" in part)
    assert f"{journal}: damaged at byte 0" in complaint


def test_an_ablation_trains_as_an_array_and_writes_its_table_without_one() -> None:
    script = str(SCRIPT.with_name("ablation.sbatch"))
    assert Call.parse(["--array=0-7", script, "FOLDER"]).trains()
    assert not Call.parse(["--dependency=afterany:1", script, "FOLDER"]).trains()
    assert Call.parse([str(SCRIPT)]).trains()


def test_a_wrong_option_of_an_ablation_is_found_before_it_is_submitted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call = ["--array=0-7", str(SCRIPT.with_name("ablation.sbatch")), str(tmp_path / "ablation")]
    assert main(["slurm", "check", *call, "--seeds", "2", "--data.padding", "900"]) == 2
    assert "data.padding" in capsys.readouterr().err


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Finding]:
    """The finding of one check about a call of train.sbatch, from a folder that is no checkout."""
    for name in [name for name in os.environ if name.startswith(("SBATCH_", "REID_", "MLFLOW_"))]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)

    def told(name: str, subject: Subject, options: str = "", **variables: str) -> Finding:
        for variable, value in variables.items():
            monkeypatch.setenv(variable, value)
        return dict(submission.checks(Call.parse([*options.split(), str(SCRIPT)])))[name](subject)

    return told


def test_a_training_without_a_gpu_is_told_of_unless_it_is_meant(check, subject) -> None:
    assert check("GPUs", subject(), "--nodes=2 --gpus-per-node=4").found == "4 on each of 2 nodes"
    assert check("GPUs", subject(), "--gpus-per-node=0").status is Status.WARNING
    assert check("GPUs", subject(engine={"device": "cpu"}), "--gpus-per-node=0").status is Status.OK


@pytest.mark.parametrize(
    ("options", "remedy"),
    [
        ("", None),
        ("--gpus-per-node=4", "--cpus-per-gpu=5"),
        ("--gpus-per-node=4 --cpus-per-gpu=5", None),
        ("--gpus-per-node=4 --cpus-per-gpu=4", "--cpus-per-gpu=5"),
        ("--gpus-per-node=4 --cpus-per-task=20", None),
        ("--gpus-per-node=4 --exclusive", None),
        ("--gpus-per-node=0 --mincpus=4", "--mincpus=5"),
    ],
)
def test_cores_are_counted_against_processes_and_their_workers(check, subject, options, remedy) -> None:
    found = check("cores", subject(data={"num_workers": 4}), options)
    assert found.status is (Status.OK if remedy is None else Status.WARNING)
    assert (remedy or "") in found.remedy


def test_cores_are_counted_for_the_processes_that_the_site_names(check, subject) -> None:
    assert check("cores", subject(data={"num_workers": 4})).status is Status.OK
    assert (
        check("cores", subject(data={"num_workers": 4}), REID_PROCESSES_PER_NODE="4").status is Status.WARNING
    )


def test_a_container_must_see_the_checkout_the_run_and_the_data(check, subject, tmp_path) -> None:
    there = subject(folder=Path("/scratch/runs/full"), data={"root": "/data/vcm"})
    assert check("mounts", there).status is Status.OK
    found = check("mounts", there, REID_ENVIRONMENT="pyxis", REID_MOUNTS="/scratch,/datasets")
    assert found.status is Status.FAILURE
    assert "not --data.root /data/vcm" in found.found
    assert check("mounts", there, REID_MOUNTS="/scratch,/data").status is Status.OK
    assert (
        "--run /scratch/../home/full" in check("mounts", subject(folder=Path("/scratch/../home/full"))).found
    )
    inside = subject(folder=Path("runs/full"), data={"root": "https://shards.example/vcm"})
    assert check("mounts", inside, REID_MOUNTS="").status is Status.OK


def test_jobs_want_a_server_for_mlflow_and_not_a_file(check, subject, tmp_path) -> None:
    found = check("MLflow", subject())
    assert found.status is Status.WARNING
    assert str(tmp_path / "mlflow.db") in found.found
    assert "slurm/mlflow.sbatch" in found.remedy
    assert check("MLflow", subject(tracking={"uri": "offline"})).status is Status.OK
    uri = f"sqlite:///{tmp_path}/group.db"
    assert check("MLflow", subject(), MLFLOW_TRACKING_URI=uri).status is Status.WARNING


def test_settings_of_the_site_that_were_not_sourced_are_told_of(check, subject, tmp_path) -> None:
    assert check("site", subject()).status is Status.OK
    (tmp_path / "slurm").mkdir()
    (tmp_path / "slurm" / "site.sh").write_text(
        "export SBATCH_ACCOUNT=us\n#export SBATCH_QOS=x\nexport SBATCH_PARTITION=gpu\n"
    )
    found = check("site", subject(), SBATCH_PARTITION="gpu")
    assert found.status is Status.WARNING
    assert found.found.endswith(": SBATCH_ACCOUNT")
    assert "source slurm/site.sh" in found.remedy
    assert check("site", subject(), SBATCH_ACCOUNT="them").status is Status.OK


def test_what_is_said_of_ports_that_the_kernel_hands_out_is_true(
    check, subject, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(submission, "LOCAL_PORTS", tmp_path / "range")
    (tmp_path / "range").write_text("16000\t65535\n")
    found = check("ports", subject())
    assert found.status is Status.WARNING
    assert "passes over a port that is taken" in found.remedy
    assert "queue" not in found.remedy
    (tmp_path / "range").write_text("32768\t60999\n")
    assert check("ports", subject()).status is Status.OK
