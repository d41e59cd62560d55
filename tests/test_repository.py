"""What no tracked file may hold, and what every Python file must."""

import ast
import os
import re
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

ROOT = Path(__file__).parents[1]
REGISTRIES = tuple(
    ".".join(parts) for parts in (("pypi", "org"), ("pythonhosted", "org"), ("anaconda", "org"))
)
INDEX_OPTION = re.compile(r"(?:index[-_]url|find[-_]links|--index)[\s=:\"']+\w+://\S+", re.IGNORECASE)


def tracked_files() -> list[Path]:
    listing = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [ROOT / name for name in listing.stdout.split("\0") if name and (ROOT / name).is_file()]


def registry_names(text: str) -> list[str]:
    """Hosts of package registries in a text: well-known ones, this machine's own, and any that an option names."""
    own = [urlsplit(value).hostname for key, value in os.environ.items() if key.endswith("INDEX_URL")]
    return [host for host in (*REGISTRIES, *own) if host and host in text] + INDEX_OPTION.findall(text)


def test_no_tracked_file_names_a_registry() -> None:
    found = {
        str(file.relative_to(ROOT)): registry_names(file.read_text(errors="replace"))
        for file in tracked_files()
    }
    assert {file: names for file, names in found.items() if names} == {}
    assert len(found) > 10


@pytest.mark.parametrize(
    "line",
    [
        f"see https://{REGISTRIES[0]}/project/torch",
        "--extra-index" + "-url https://mirror.example/simple",
        "find" + "-links = https://mirror.example/wheels",
    ],
)
def test_the_name_of_a_registry_is_noticed(line: str) -> None:
    assert registry_names(line)


def test_every_python_file_opens_with_a_docstring() -> None:
    files = [file for file in tracked_files() if file.suffix == ".py"]
    assert [str(file) for file in files if ast.get_docstring(ast.parse(file.read_text())) is None] == []


def test_what_is_executable_says_by_what() -> None:
    executable = [file for file in tracked_files() if os.access(file, os.X_OK)]
    assert [str(file) for file in executable if not file.read_bytes().startswith(b"#!/usr/bin/env ")] == []
    assert ROOT / "launch" / "quickstart.sh" in executable


def test_the_shell_scripts_that_pre_commit_looks_at_are_those_of_continuous_integration() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    (hook,) = (hook for hook in hooks if hook["id"] == "shellcheck")
    (line,) = re.findall(r"(?m)^check (shellcheck .*)$", (ROOT / ".ci" / "run").read_text())
    options = hook["entry"].removeprefix(".venv/bin/")
    assert line.startswith(f"{options} ")
    checked = {path for pattern in line.removeprefix(options).split() for path in ROOT.glob(pattern)}
    files = {file for file in tracked_files() if re.search(hook["files"], str(file.relative_to(ROOT)))}
    assert files == checked & set(tracked_files())
    assert ROOT / "slurm" / "train.sbatch" in files
    scripts = {file for file in tracked_files() if file.read_bytes().startswith(b"#!/usr/bin/env bash")}
    assert scripts <= files
