"""reid/doctor/software.py: this environment is sound, and what is wrong with another one is seen."""

import locale
import sys
from pathlib import Path

import pytest

from reid.doctor import software
from reid.doctor.finding import Status


@pytest.mark.parametrize(
    "check", [software.python, software.libraries, software.torch_and_torchvision, software.decoder]
)
def test_this_environment_passes(check, subject):
    assert check(subject()).status is Status.OK


def test_an_interpreter_without_an_environment_is_noticed(subject, monkeypatch):
    monkeypatch.setattr(sys, "prefix", sys.base_prefix)
    found = software.python(subject())
    assert (found.status, "no virtual environment" in found.found) == (Status.WARNING, True)


def installed(folder: Path, name: str, version: str) -> None:
    """What pip leaves of a package that claims to be `name` of a version."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def test_a_library_of_a_version_that_is_not_asked_for_is_named(subject, tmp_path, monkeypatch):
    installed(tmp_path, "mlflow", "2.9.0")
    monkeypatch.syspath_prepend(tmp_path)
    found = software.libraries(subject())
    assert found.status is Status.FAILURE
    assert "mlflow<3.18,>=3.17 is asked for, 2.9.0 is there" in found.found


def test_a_missing_library_is_named(subject, monkeypatch):
    monkeypatch.setattr(sys, "path", [place for place in sys.path if "site-packages" not in place])
    assert "mlflow<3.18,>=3.17 is missing" in software.libraries(subject()).found


def test_two_pillows_in_one_environment_are_a_failure(subject, tmp_path, monkeypatch):
    installed(tmp_path, "pillow-simd", "9.5.0.post1")
    monkeypatch.syspath_prepend(tmp_path)
    found = software.pil(subject())
    assert found.status is Status.FAILURE
    assert "overwrite each other's files" in found.found
    assert "Uninstall both" in found.remedy


@pytest.mark.skipif(sys.flags.utf8_mode, reason="Python was told to use UTF-8 whatever the locale says")
def test_words_in_another_encoding_are_a_warning(subject):
    before = locale.setlocale(locale.LC_CTYPE)
    try:
        locale.setlocale(locale.LC_CTYPE, "C")
        found = software.words(subject())
    finally:
        locale.setlocale(locale.LC_CTYPE, before)
    assert found.status is Status.WARNING
    assert "text in ANSI_X3.4-1968" in found.found
    assert "PYTHONUTF8=1" in found.remedy


def test_settings_outside_of_the_repository_are_found(subject, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    assert software.accelerate(subject()).status is Status.OK
    (tmp_path / "accelerate").mkdir()
    (tmp_path / "accelerate" / "default_config.yaml").write_text("num_processes: 8\n")
    found = software.accelerate(subject())
    assert found.status is Status.WARNING
    assert str(tmp_path) in found.found
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    assert software.accelerate(subject()).status is Status.FAILURE
