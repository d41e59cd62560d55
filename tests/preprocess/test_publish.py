"""Publication: a file appears whole, or not at all, and a folder where a rename can put it."""

import hashlib
import os
from pathlib import Path

import pytest

from preprocess.publish import destination, is_free, sweep, whole_file, write_whole


def test_a_file_appears_when_it_is_whole(tmp_path):
    with whole_file(tmp_path / "x") as file:
        file.write(b"half")
        assert not (tmp_path / "x").exists()
        file.write(b" and half")
    assert (tmp_path / "x").read_bytes() == b"half and half"
    assert (file.nbytes, file.sha256) == (13, hashlib.sha256(b"half and half").hexdigest())
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


def test_a_folder_may_appear_where_nothing_is_also_by_way_of_a_link_to_an_empty_one(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("empty")
    for name, real in (("new", "new"), ("empty", "empty"), ("link", "empty"), ("new/../other", "other")):
        found = destination(tmp_path / name)
        assert found == tmp_path / real
        assert is_free(found)


def test_a_folder_cannot_appear_in_the_place_of_one_that_is_in_use(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").symlink_to(".")
    for out in (".", tmp_path, "here", "x/.."):
        with pytest.raises(ValueError, match="is the current folder"):
            destination(Path(out))
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "circle").symlink_to("circle")
    for out in ("dangling", "circle"):
        with pytest.raises(ValueError, match=f"{out} is a link that leads nowhere"):
            destination(Path(out))
    (tmp_path / "mounted").symlink_to("/proc")
    for out in ("/proc", "mounted", "/"):
        with pytest.raises(ValueError, match=f"{out} is a mount point"):
            destination(Path(out))
