"""Reading the pictures of a shard: in order, each whole, and nothing but files."""

import os

import pytest

from preprocess.write import PIECE, READ_AHEAD, read_ahead
from reid.data.shards import LARGEST_FRAME


def test_files_come_in_the_order_asked_for_and_whole_however_many_and_large(tmp_path):
    sizes = [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 7, *range(2, 2 * READ_AHEAD)]
    contents = {f"{number}.jpg": os.urandom(size) for number, size in enumerate(sizes)}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    assert list(read_ahead(tmp_path, contents)) == list(contents.values())


def test_of_a_file_that_is_too_large_no_more_is_read_than_shows_it(tmp_path):
    with (tmp_path / "x.jpg").open("wb") as file:
        file.truncate(LARGEST_FRAME + 5 * PIECE)
    (data,) = read_ahead(tmp_path, ["x.jpg"])
    assert LARGEST_FRAME < len(data) <= LARGEST_FRAME + PIECE


def test_no_link_is_followed(tmp_path):
    (tmp_path / "link.jpg").symlink_to("/etc/passwd")
    with pytest.raises(OSError, match="symbolic links"):
        list(read_ahead(tmp_path, ["link.jpg"]))


def test_every_file_is_closed_when_the_reader_stops_early(tmp_path):
    for number in range(2 * READ_AHEAD):
        (tmp_path / str(number)).touch()
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - only their number counts
    frames = read_ahead(tmp_path, map(str, range(2 * READ_AHEAD)))
    next(frames)
    assert len(os.listdir("/proc/self/fd")) > before + READ_AHEAD // 2  # noqa: PTH208
    frames.close()
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
