"""reid/doctor/dataset.py: a data set, a shard, a frame and weights that are damaged are told with what to do."""

import hashlib
import shutil
from pathlib import Path

import pytest
import torch

from reid.data.manifest import Manifest
from reid.doctor import dataset
from reid.doctor.finding import Status

CHECKS = [dataset.opens, dataset.complete, dataset.readable, dataset.batches]
SMALL = {"num_identities": 4}


@pytest.fixture
def copied(packed, tmp_path) -> Path:
    return shutil.copytree(packed, tmp_path / "packed")


@pytest.mark.parametrize("check", CHECKS)
def test_a_sound_data_set_passes(check, subject, packed):
    assert check(subject(data={"root": packed, **SMALL})).status is Status.OK


@pytest.mark.parametrize("check", CHECKS)
def test_without_a_data_set_nothing_fails(check, subject):
    assert check(subject()).status is not Status.FAILURE


def test_what_is_no_data_set_is_told_once(subject, tmp_path):
    nowhere = subject(data={"root": tmp_path})
    found = dataset.opens(nowhere)
    assert found.status is Status.FAILURE
    assert f"{tmp_path} is not a packed data set" in found.found
    assert dataset.complete(nowhere).status is Status.OK


def test_a_shard_that_was_cut_or_lost_is_named(subject, copied):
    first, last = (shard.path for shard in Manifest.open(copied).shards)
    with first.open("r+b") as file:
        file.truncate(1000)
    last.unlink()
    found = dataset.complete(subject(data={"root": copied, **SMALL}))
    assert found.status is Status.FAILURE
    assert f"{first} has 1,000 bytes, expected " in found.found
    assert "2 of 2 shards are damaged" in found.found
    assert "python -m preprocess verify" in found.remedy


def test_a_frame_whose_bytes_have_changed_is_named(subject, copied):
    manifest = Manifest.open(copied)
    frames = manifest.frames(0)
    with frames.shard.open("r+b") as file:
        file.seek(int(frames.offset[0]) + 20)
        file.write(b"damaged")
    found = dataset.readable(subject(data={"root": copied, **SMALL}))
    assert found.status is Status.FAILURE
    assert "the checksum of frame 0 is wrong" in found.found
    assert dataset.complete(subject(data={"root": copied, **SMALL})).status is Status.OK


def test_too_few_identities_or_processes_that_do_not_divide_them_are_told(subject, packed):
    assert (
        dataset.batches(subject(data={"root": packed, **SMALL, "num_identities": 50})).status
        is Status.FAILURE
    )
    assert dataset.batches(subject(3, data={"root": packed, **SMALL})).status is Status.FAILURE


def test_a_cache_that_others_can_write_to_is_a_failure(subject, tmp_path):
    assert dataset.cache(subject()).status is Status.OK
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o777)
    assert dataset.cache(subject(data={"cache": tmp_path / "shared"})).status is Status.FAILURE
    assert dataset.cache(subject(data={"cache": tmp_path / "own"})).status is Status.OK
    assert dataset.cache(subject(data={"cache": Path("/proc/none")})).status is Status.FAILURE


def test_weights_are_found_missing_or_damaged(subject, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert dataset.weights(subject()).status is Status.WARNING
    place = Path(torch.hub.get_dir()) / "checkpoints" / "resnet50-0676ba61.pth"
    place.parent.mkdir(parents=True)
    place.write_bytes(b"not the weights")
    found = dataset.weights(subject())
    assert found.status is Status.FAILURE
    assert f"{place} is damaged" in found.found
    assert dataset.weights(subject(model={"weights": "none"})).status is Status.OK


def test_a_file_of_weights_is_compared_with_the_digest_in_its_name(subject, tmp_path):
    digest = hashlib.sha256(b"weights").hexdigest()[:8]
    path = tmp_path / f"mine-{digest}.pth"
    assert dataset.weights(subject(model={"weights": str(path)})).status is Status.FAILURE
    path.write_bytes(b"weights")
    assert dataset.weights(subject(model={"weights": str(path)})).status is Status.OK
