"""reid/doctor/storage.py: places that cannot be written to, and disks without room, are named; nothing is left behind."""

import os
import tempfile
from pathlib import Path

import pytest
import torch

from reid import config as configuration
from reid.config import Config
from reid.doctor import storage
from reid.doctor.finding import Status
from reid.tracking.tracker import OFFLINE, Tracker
from reid.training import build

CHECKS = [storage.writable, storage.space, storage.latency, storage.locks, storage.clock]
NOBODY_WRITES = Path("/proc/self")  # not even root


@pytest.mark.parametrize("check", CHECKS)
def test_a_folder_of_ones_own_passes_and_stays_as_it_was(check, subject, tmp_path):
    found = check(subject())
    assert found.status is not Status.FAILURE
    assert str(tmp_path) in found.found
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_to_is_named(subject):
    found = storage.writable(subject(folder=NOBODY_WRITES / "run"))
    assert found.status is Status.FAILURE
    assert "/proc/" in found.found
    assert "--run" in found.remedy


@pytest.mark.parametrize("below", ["", "run", "run/deeper"])
def test_a_file_where_a_folder_is_needed_is_named(subject, tmp_path, below):
    (tmp_path / "file").touch()
    found = storage.writable(subject(folder=tmp_path / "file" / below))
    assert (found.status, found.found) == (
        Status.FAILURE,
        f"{tmp_path / 'file'}: a file, where a folder is needed",
    )


def test_a_run_that_cannot_go_on_because_its_journal_is_damaged_is_named(subject, tmp_path):
    with Tracker.open(tmp_path, experiment="e", run_name="r", tracking_uri=OFFLINE):
        pass
    assert storage.writable(subject(folder=tmp_path)).status is Status.OK
    path = tmp_path / "journal.jsonl"
    first, _, *rest = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([first, *rest]))
    found = storage.writable(subject(folder=tmp_path))
    assert found.status is Status.FAILURE
    assert f"{path}: record 1 expected" in found.found


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_named(subject, tmp_path):
    tmp_path.chmod(0o500)
    assert storage.writable(subject()).status is Status.FAILURE


def test_room_is_needed_for_every_checkpoint_that_is_kept(subject, tmp_path):
    assert storage.space(subject(model={"backbone": "thin", "weights": "none"})).status is Status.OK
    found = storage.space(subject(engine={"keep_checkpoints": 10**6}))
    assert found.status is Status.FAILURE
    assert "1080002.2 GB needed" in found.found
    averaged = storage.space(subject(engine={"keep_checkpoints": 10**6}, optimizer={"ema_decay": 0.999}))
    assert "1620003.2 GB needed" in averaged.found


@pytest.mark.parametrize("backbone", ["resnet50", "thin"])
def test_the_parameters_counted_for_are_those_of_the_largest_variant(backbone):
    with torch.device("meta"):
        network = build.network(
            configuration.changed(Config(), {"model": {"backbone": backbone, "weights": "none"}}), 500
        )
    number = sum(parameter.numel() for parameter in network.parameters())
    assert 0.9 * storage.PARAMETERS[backbone] < number <= storage.PARAMETERS[backbone]


def test_a_temporary_folder_that_cannot_be_used_is_a_warning(subject, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", None)  # as in a process that has just begun
    monkeypatch.setenv("TMPDIR", str(NOBODY_WRITES))
    found = storage.temporary(subject())
    assert found.status is Status.WARNING
    assert f"TMPDIR={NOBODY_WRITES} cannot be used" in found.found
