"""reid/training/provenance.py: what a run comes from is told, and nothing else of the environment."""

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest

from reid.tracking import names
from reid.training import provenance


def test_the_code_is_named_by_its_commit():
    found = provenance.tags()
    question = ["git", "-C", Path(__file__).parent, "rev-parse", "HEAD"]
    commit = subprocess.run(question, check=False, capture_output=True, text=True)
    assert found.get(names.Tag.COMMIT, "") == commit.stdout.strip()
    assert found[names.Tag.HOST] == platform.node()


def test_an_image_names_the_commit_that_it_was_built_from_but_a_checkout_its_own(monkeypatch):
    own = provenance.tags().get(names.Tag.COMMIT)
    monkeypatch.setenv("REID_REVISION", "0f1e2d")
    is_checkout = (Path(__file__).parents[3] / ".git").exists()
    assert provenance.tags().get(names.Tag.COMMIT) == (own if is_checkout else "0f1e2d")


@pytest.mark.parametrize("mark", ["", "-dirty"])
def test_where_there_is_no_git_a_job_may_say_which_commit_its_checkout_has(monkeypatch, tmp_path, mark):
    if not (Path(__file__).parents[3] / ".git").exists():
        pytest.skip("the code is in no checkout here")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("REID_CHECKOUT_REVISION", raising=False)
    assert names.Tag.COMMIT not in provenance.tags()
    monkeypatch.setenv("REID_CHECKOUT_REVISION", f"0f1e2d{mark}")
    found = provenance.tags()
    assert (found[names.Tag.COMMIT], found[names.Tag.DIRTY]) == ("0f1e2d", bool(mark))


def test_a_job_of_slurm_is_named_and_its_first_life_counts_as_zero_restarts(monkeypatch):
    for variable in provenance.SLURM.values():
        monkeypatch.delenv(variable, raising=False)
    assert not set(provenance.SLURM) & provenance.tags().keys()
    monkeypatch.setenv("SLURM_JOB_ID", "42")
    monkeypatch.setenv("SLURM_JOB_NODELIST", "n[1-2]")
    found = provenance.tags()
    assert [found[tag] for tag in provenance.SLURM] == ["42", "n[1-2]", "0"]
    monkeypatch.setenv("SLURM_RESTART_COUNT", "3")
    assert provenance.tags()[names.Tag.SLURM_RESTARTS] == "3"


def test_the_environment_lists_versions_and_no_variables(monkeypatch):
    monkeypatch.setenv("SOME_TOKEN", "canary")
    lines = provenance.environment().splitlines()
    assert f"python {platform.python_version()}" in lines
    assert f"torch=={version('torch')}" in lines
    assert f"mlflow=={version('mlflow')}" in lines
    assert not any("canary" in line for line in lines)
