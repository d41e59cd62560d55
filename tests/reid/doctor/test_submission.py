"""A call of sbatch: how it is taken apart, and what is found wrong with it."""

from pathlib import Path

import pytest

from reid.cli import main
from reid.doctor.submission import Call, seconds_of
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
