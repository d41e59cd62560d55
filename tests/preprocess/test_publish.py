"""Publication: a folder appears whole, or not at all."""

import os
from pathlib import Path

import pytest

from preprocess.publish import sweep, whole_file, write_whole


def test_a_file_appears_when_it_is_whole(tmp_path):
    with whole_file(tmp_path / "x") as file:
        file.write(b"half")
        assert not (tmp_path / "x").exists()
        file.write(b" and half")
    assert (tmp_path / "x").read_bytes() == b"half and half"
    assert os.listdir(tmp_path) == ["x"]  # noqa: PTH208 - the names are the claim


def fill(path: Path) -> None:
    with whole_file(path) as file:
        file.write(b"half")
        raise RuntimeError("stop")


def test_a_writer_that_fails_leaves_what_was_there(tmp_path):
    write_whole(tmp_path / "x", b"old")
    with pytest.raises(RuntimeError, match="stop"):
        fill(tmp_path / "x")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x").read_bytes() == b"old"


def test_sweeping_removes_what_killed_writers_left_and_nothing_else(tmp_path):
    (tmp_path / "shards").mkdir()
    write_whole(tmp_path / "shards/kept.tar", b"")
    (tmp_path / "shards/.tmp-host-17-lost.tar").touch()
    sweep(tmp_path)
    assert [path.name for path in (tmp_path / "shards").iterdir()] == ["kept.tar"]
