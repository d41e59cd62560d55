"""The shell scripts: clear about mistakes, and harmless to what they did not make."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = [*sorted((ROOT / "launch").glob("*.sh")), ROOT / ".ci" / "run"]
Answer = subprocess.CompletedProcess[str]
CPU_PROCESSES = str(min(2, len(os.sched_getaffinity(0))))


def run(script: Path, *arguments: str, **variables: str) -> Answer:
    return subprocess.run(
        [script, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=script.parents[1],
        env=os.environ | variables,
        timeout=60,
    )


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What the scripts need of a checkout, without an environment."""
    root = tmp_path / "a check'out"
    shutil.copytree(ROOT / "launch", root / "launch")
    for name in ("pyproject.toml", "requirements.lock"):
        shutil.copy(ROOT / name, root)
    return root


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_a_script_is_strict_and_opens_with_what_it_does(script: Path) -> None:
    lines = script.read_text().splitlines()
    assert lines[0] == "#!/usr/bin/env bash"
    assert lines[1].startswith("# ")
    assert "set -euo pipefail" in lines
    assert os.access(script, os.X_OK)


def test_an_environment_of_somebody_else_is_not_touched(checkout: Path) -> None:
    (checkout / ".venv").mkdir()
    (checkout / ".venv" / "precious").touch()
    answer = run(checkout / "launch/environment.sh")
    assert answer.returncode == 2
    assert "was not made by this script" in answer.stderr
    assert [path.name for path in (checkout / ".venv").iterdir()] == ["precious"]


def test_the_environment_refuses_a_call_it_does_not_understand(checkout: Path) -> None:
    answer = run(checkout / "launch/environment.sh", "--package")
    assert answer.returncode == 2
    assert "expected --packages or nothing, found: --package" in answer.stderr
    assert not (checkout / ".venv").exists()


def with_old_python(checkout: Path) -> dict[str, str]:
    old = checkout / "old-python"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.8.20\nexit 1\n')
    old.chmod(0o755)
    return {"PYTHON": str(old)}


def with_a_path_that_leads_nowhere(checkout: Path) -> dict[str, str]:
    return {"PYTHON": str(checkout / "nothing")}


@pytest.mark.parametrize(
    ("situation", "message"),
    [
        (with_old_python, "expected Python >= 3.11, found Python 3.8.20"),
        (with_a_path_that_leads_nowhere, "there is no such program"),
    ],
)
def test_an_unfit_python_is_named_in_one_line_and_nothing_is_made(
    checkout: Path, situation: Callable[[Path], dict[str, str]], message: str
) -> None:
    answer = run(checkout / "launch/environment.sh", **situation(checkout))
    assert answer.returncode == 2
    assert message in answer.stderr
    assert answer.stderr.count("\n") == 1
    assert not (checkout / ".venv").exists()


def test_a_python_that_the_locks_cover_is_preferred_to_a_newer_one(checkout: Path, tmp_path: Path) -> None:
    script = checkout / "launch" / "environment.sh"
    script.write_text(script.read_text().partition("\npython=$(find_python)\n")[0] + "\nfind_python\n")
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    for name, version in {"python3": (3, 99), "python3.14": (3, 14)}.items():
        program = tmp_path / name
        program.write_text(
            f"#!{sys.executable}\nimport sys\n"
            f"sys.version_info, sys._base_executable = {version}, {str(program)!r}\nexec(sys.argv[2])\n"
        )
        program.chmod(0o755)
    assert run(script, PATH=path).stdout == f"{tmp_path}/python3.14\n"
    assert run(script, PATH=path, PYTHON="python3").stdout == f"{tmp_path}/python3\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sed", "1"], "there is no option --sed"),
        (["--seed"], "--seed needs a number"),
        (["--seed", "one"], "expected a whole number"),
        (["here", "there"], "one FOLDER is expected"),
    ],
)
def test_the_quickstart_refuses_a_call_it_does_not_understand(
    checkout: Path, arguments: list[str], message: str
) -> None:
    answer = run(checkout / "launch/quickstart.sh", *arguments)
    assert answer.returncode == 2
    assert message in answer.stderr
    assert not (checkout / "runs").exists()


def test_the_quickstart_does_not_write_into_a_folder_of_something_else(
    checkout: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    answer = run(checkout / "launch/quickstart.sh", str(tmp_path / "mine"))
    assert answer.returncode == 2
    assert "holds something else" in answer.stderr
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


def test_the_quickstart_does_not_mix_two_seeds_in_one_folder(checkout: Path, tmp_path: Path) -> None:
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "seed").write_text("3\n")
    answer = run(checkout / "launch/quickstart.sh", str(tmp_path / "demo"), "--seed", "4")
    assert answer.returncode == 2
    assert "was made with --seed 3, not 4" in answer.stderr


@pytest.mark.parametrize(
    ("visible", "config", "processes"),
    [
        ("", "cpu", CPU_PROCESSES),
        ("-1", "cpu", CPU_PROCESSES),
        ("3", "one_gpu", ""),
        ("0,2,5", "one_node", "3"),
    ],
)
def test_training_takes_all_that_the_machine_has_and_says_how(
    checkout: Path, visible: str, config: str, processes: str
) -> None:
    """The launcher is replaced by one that prints its arguments, because the GPUs are not here."""
    (checkout / "launch" / "environment.sh").write_text("#!/bin/sh\n")
    launcher = checkout / ".venv" / "bin" / "accelerate"
    launcher.parent.mkdir(parents=True)
    launcher.write_text('#!/bin/sh\nprintf "<%s>" "$@"\n')
    launcher.chmod(0o755)
    answer = run(checkout / "launch/train.sh", "--run", "two words", CUDA_VISIBLE_DEVICES=visible)
    told, given = answer.stdout.rsplit("\n", 1)
    assert given.startswith(f"<launch><--config_file><{checkout}/launch/accelerate/{config}.yaml>")
    assert given.endswith("<-m><reid><train><--run><two words><--resume>")
    assert (f"<--num_processes><{processes}>" in given) == bool(processes)
    assert f"{config}.yaml" in told
    assert "'two words' '--resume'" in told
