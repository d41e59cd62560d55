"""Reading the pictures of a shard, and what bad ones do: all told at once, or left out and recorded."""

import os
import re
import shutil
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest

from preprocess.images import PictureError
from preprocess.options import BadFrames, Options
from preprocess.pack import Part, pack
from preprocess.progress import Progress
from preprocess.tree import BadTreeError
from preprocess.vcm import read
from preprocess.verify import verify
from preprocess.write import READ_AHEAD, read_ahead
from reid.data.manifest import Manifest
from reid.data.shards import LARGEST_FRAME
from tests.impostors import make_device, make_fifo, make_folder

SMALL_SHARDS = Options(shard_mebibytes=1)
SKIP = Options(bad_frames=BadFrames.SKIP)


# Reading


def test_files_come_in_the_order_asked_for_and_whole_however_many_and_large(tmp_path):
    sizes = [1, 70_000, 300_000, *range(2, 2 * READ_AHEAD)]
    contents = {f"{number}.jpg": os.urandom(size) for number, size in enumerate(sizes)}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    assert list(read_ahead(tmp_path, zip(contents, sizes, strict=True))) == list(contents.values())


def link(path: Path) -> None:
    path.symlink_to("/etc/passwd")


def large(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(LARGEST_FRAME + 1)


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (link, "is a link"),
        (os.mkfifo, "is not a regular file"),
        (Path.mkdir, "is not a regular file"),
        (Path.touch, "0 bytes, expected 1 to"),
        (large, "33,554,433 bytes, expected 1 to"),
        (lambda path: None, "No such file or directory"),
    ],
)
def test_what_is_no_picture_is_given_as_a_reason_and_the_others_as_they_are(tmp_path, make, reason):
    (tmp_path / "good.jpg").write_bytes(b"good")
    make(tmp_path / "bad.jpg")
    first, bad, last = read_ahead(tmp_path, [("good.jpg", 4), ("bad.jpg", 0), ("good.jpg", 4)])
    assert (first, last) == (b"good", b"good")
    assert isinstance(bad, PictureError)
    assert reason in str(bad)


@pytest.mark.parametrize("size", [3, 5])
def test_a_file_of_another_size_than_it_had_is_a_tree_that_changes(tmp_path, size):
    (tmp_path / "x.jpg").write_bytes(b"four")
    with pytest.raises(RuntimeError, match=rf"x\.jpg: expected {size} bytes, .* the raw tree changes"):
        list(read_ahead(tmp_path, [("x.jpg", size)]))


def test_every_file_is_closed_when_the_reader_stops_early(tmp_path):
    for number in range(2 * READ_AHEAD):
        (tmp_path / str(number)).write_bytes(b"x")
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - only their number counts
    frames = read_ahead(tmp_path, ((str(number), 1) for number in range(2 * READ_AHEAD)))
    next(frames)
    assert len(os.listdir("/proc/self/fd")) > before + READ_AHEAD // 2  # noqa: PTH208
    frames.close()
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_too_many_open_files_is_no_fault_of_a_picture(tmp_path, monkeypatch):
    (tmp_path / "x.jpg").write_bytes(b"x")

    def refuse(*_: object) -> int:
        raise OSError(24, os.strerror(24))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(OSError, match="Too many open files"):
        list(read_ahead(tmp_path, [("x.jpg", 1)]))


# Bad pictures end the pack


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-30])


def make_link(path: Path) -> None:
    target = path.rename(path.with_name("moved"))
    path.symlink_to(target)


ROW = r"0003/rgb/D1/7\.jpg \(row 3 of track_test_info\.txt\): "


@pytest.mark.timeout(60)
@pytest.mark.parametrize("num_workers", [1, 2])
@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (Path.unlink, "No such file"),
        (lambda path: path.write_bytes(b""), "0 bytes"),
        (make_link, "is a link"),
        (make_device, "is a link"),
        (make_fifo, "is not a regular file"),
        (make_folder, "is not a regular file"),
    ],
)
def test_a_picture_that_is_none_is_named_with_its_row_before_anything_is_written(
    raw, tmp_path, damage, reason, num_workers
):
    damage(raw / "0003/rgb/D1/7.jpg")
    with pytest.raises(BadTreeError, match=ROW + reason):
        pack(raw, tmp_path / "packed", Options(), num_workers=num_workers)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["raw"]


@pytest.mark.parametrize("num_workers", [1, 2])
@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: path.write_bytes(b"GIF89a..."), "not a JPEG"),
        (cut_short, "the JPEG is damaged"),
    ],
)
def test_all_damaged_pictures_are_told_at_once_and_repaired_they_cost_one_shard(
    heavy, reference, contents, tmp_path, damage, reason, num_workers
):
    raw, out = Path(shutil.copytree(heavy, tmp_path / "raw")), tmp_path / "packed"
    tracklets = read(raw).tracklets
    damaged = [raw / tracklets[-1].frames[-1], raw / tracklets[-1].frames[2]]
    before = [path.read_bytes() for path in damaged]
    for path in damaged:
        damage(path)
    with pytest.raises(BadTreeError, match=reason) as caught:
        pack(raw, out, SMALL_SHARDS, num_workers=num_workers)
    assert all(str(path.relative_to(raw)) in str(caught.value) for path in damaged)
    assert not out.exists()
    for path, content in zip(damaged, before, strict=True):
        path.write_bytes(content)
    packed = pack(raw, out, SMALL_SHARDS)
    assert packed.shards_written == 1
    assert contents(out) == reference


def test_damage_in_several_shards_is_told_in_one_listing(heavy, tmp_path):
    raw = Path(shutil.copytree(heavy, tmp_path / "raw"))
    pictures = [tracklet.frames[0] for tracklet in read(raw).tracklets]
    for picture in pictures:
        cut_short(raw / picture)
    with pytest.raises(BadTreeError) as caught:
        pack(raw, tmp_path / "packed", SMALL_SHARDS)
    assert set(re.findall(r"\S+\.jpg", str(caught.value))) == set(pictures)


def test_a_pack_that_meets_a_bad_picture_leaves_the_work_of_others_alone(heavy, tmp_path):
    """A part that starts later writes while this pack is under way, which then fails."""
    raw, out = Path(shutil.copytree(heavy, tmp_path / "raw")), tmp_path / "packed"
    tracklets = read(raw).tracklets
    cut_short(raw / tracklets[-1].frames[-1])
    told = []

    def show(title: str, unit: str) -> AbstractContextManager[Progress]:
        def progress(done: int, total: int) -> None:
            if unit == "frames" and not told:
                told.append(pack(raw, out, SMALL_SHARDS, part=Part(1, 5)))

        return nullcontext(progress)

    with pytest.raises(BadTreeError):
        pack(raw, out, SMALL_SHARDS, part=Part(5, 5), show=show)
    assert told[0].shards_written == 1
    assert pack(raw, out, SMALL_SHARDS, part=Part(1, 5)).shards_kept == 1


def test_all_missing_pictures_are_told_at_once(raw, tmp_path):
    for frame in (3, 9):
        (raw / f"0001/rgb/D1/{frame}.jpg").unlink()
    with pytest.raises(BadTreeError, match=r"(?s)D1/3\.jpg.*D1/9\.jpg"):
        pack(raw, tmp_path / "packed", Options())


# Or they are left out


def test_bad_pictures_can_be_left_out_and_are_recorded(raw, tmp_path):
    cut_short(raw / "0003/rgb/D1/7.jpg")
    for frame in range(15, 20):
        cut_short(raw / f"0001/ir/D2/{frame}.jpg")
    out = tmp_path / "packed"
    packed = pack(raw, out, SKIP)
    skipped = packed.description["source"]["skipped_frames"]
    assert [name for name, _ in skipped][-1] == "0003/rgb/D1/7.jpg"
    assert len(skipped) == 6
    manifest = Manifest.open(out)
    assert len(manifest) == 19
    assert sorted(manifest.num_frames.tolist())[-10:] == [13] + [14] * 9
    assert verify(out).damages == []


@pytest.mark.parametrize("damage", [Path.unlink, make_link, make_fifo, make_folder, cut_short])
def test_whatever_is_wrong_with_a_picture_it_can_be_left_out(raw, tmp_path, damage):
    damage(raw / "0003/rgb/D1/7.jpg")
    packed = pack(raw, tmp_path / "packed", SKIP)
    ((name, reason),) = packed.description["source"]["skipped_frames"]
    assert name == "0003/rgb/D1/7.jpg"
    assert reason
    assert packed.description["counts"]["frames"] == 189


def test_tracklets_that_bad_pictures_cost_or_shorten_are_named_with_row_and_role(raw, tmp_path):
    for frame in range(1, 15):
        cut_short(raw / f"0003/ir/D2/{frame}.jpg")
    for frame in range(1, 4):
        cut_short(raw / f"0003/rgb/D1/{frame}.jpg")
    packed = pack(raw, tmp_path / "packed", SKIP)
    assert packed.description["source"]["lost_tracklets"] == [
        "track_test_info.txt:1 (query, test/00003/infrared-c02-000001): none of its 14 frames can be read, so it is left "
        "out",
        "track_test_info.txt:3 (gallery, test/00003/visible-c01-000001): 11 of its 14 frames are left, fewer than the 12 "
        "of the protocol",
    ]


def test_a_shard_without_a_single_picture_is_an_error_even_then(raw, tmp_path):
    for path in (raw / "0003").rglob("*.jpg"):
        path.unlink()
    for path in (raw / "0007").rglob("*.jpg"):
        path.unlink()
    with pytest.raises(
        BadTreeError, match=r"test-000000-of-000001\.tar: not one of its pictures can be read"
    ):
        pack(raw, tmp_path / "packed", SKIP)


@pytest.mark.strace
def test_a_picture_that_the_disk_cannot_read_is_named_and_can_be_left_out(raw, tmp_path, on_failing_disk):
    picture, out = raw / "0003/rgb/D1/7.jpg", tmp_path / "packed"
    ran = on_failing_disk(picture, ["pack", str(raw), str(out)])
    assert ran.returncode == 2
    assert re.search(ROW + "cannot be read: Input/output error", ran.stderr)
    assert "Traceback" not in ran.stderr
    ran = on_failing_disk(picture, ["pack", str(raw), str(tmp_path / "other"), "--bad-frames", "skip"])
    assert ran.returncode == 0, ran.stderr
    assert "0003/rgb/D1/7.jpg: cannot be read: Input/output error" in ran.stdout


@pytest.mark.strace
@pytest.mark.parametrize("name", ["track_test_info.txt", "query_IDX.txt", "train_name.txt"])
def test_an_index_file_that_the_disk_cannot_read_is_named(raw, tmp_path, on_failing_disk, name):
    ran = on_failing_disk(raw / name, ["pack", str(raw), str(tmp_path / "packed")])
    assert ran.returncode == 2
    assert f"{raw / name}: cannot be read: Input/output error" in ran.stderr
