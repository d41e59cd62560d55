"""Packing: the same bytes for any workers, parts and interruptions; complete or absent."""

import json
import os
import shutil
import signal
import tarfile
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset

from preprocess.images import decode, read_header
from preprocess.options import BadFrames, Check, Mixed, Mode, Options, Order, Size
from preprocess.pack import Part, pack
from preprocess.progress import Progress, Show
from preprocess.tree import BadTreeError
from preprocess.vcm import read
from reid.data.description import TABLES
from reid.data.manifest import Manifest
from reid.data.shards import ShardReader
from reid.types import Modality, Role, Split

SMALL_SHARDS = Options(shard_mebibytes=1)


def test_every_frame_keeps_its_bytes_its_place_and_its_name(raw, tmp_path):
    pack(raw, tmp_path / "packed", Options())
    manifest = Manifest.open(tmp_path / "packed")
    origins = pq.read_table(tmp_path / "packed" / TABLES[1], columns=["source", "row"]).to_pylist()
    names = pa.ipc.open_file(tmp_path / "packed" / TABLES[2]).read_all()["name"].to_pylist()
    reader = ShardReader(manifest)
    tracklets = {(each.source, each.row): each for each in read(raw).tracklets}
    assert len(manifest) == len(tracklets) == 20
    for row, origin in enumerate(origins):
        tracklet = tracklets[origin["source"], origin["row"]]
        frames = reader.read(row, range(len(tracklet.frames)))
        assert frames == [(raw / frame).read_bytes() for frame in tracklet.frames]
        first = int(manifest.num_frames[:row].sum())
        assert names[first : first + len(frames)] == list(tracklet.frames)
        assert manifest.identity[row] == tracklet.identity
        assert manifest.modality[row] == tracklet.modality
        assert (manifest.camera[row], manifest.tracklet[row]) == (tracklet.camera, tracklet.tracklet)
        assert (manifest.height[row], manifest.width[row]) == (16, 8)
    reader.close()


def test_labels_are_places_among_the_sorted_training_identities(raw, tmp_path):
    pack(raw, tmp_path / "packed", Options())
    manifest = Manifest.open(tmp_path / "packed")
    train = manifest.rows(Role.TRAIN, minimum_frames=1)
    assert dict(zip(manifest.identity[train].tolist(), manifest.label[train].tolist(), strict=True)) == {
        1: 0,
        2: 1,
        4: 2,
    }
    assert set(manifest.label[manifest.rows(Role.QUERY)].tolist()) == {-1}
    assert manifest.num_identities == 3


def test_short_tracklets_are_packed_and_left_to_readers(raw, tmp_path):
    pack(raw, tmp_path / "packed", Options(minimum_frames=6))
    manifest = Manifest.open(tmp_path / "packed")
    assert manifest.minimum_frames == 6
    assert len(manifest.rows(Role.TRAIN)) == 6
    assert len(manifest.rows(Role.TRAIN, minimum_frames=1)) == 12
    assert manifest.counts["train"]["visible"] == {
        "identities": 3,
        "tracklets": 6,
        "long_tracklets": 3,
        "frames": 57,
    }


def test_stock_webdataset_reads_the_shards(raw, tmp_path):
    pack(raw, tmp_path / "packed", Options())
    manifest = Manifest.open(tmp_path / "packed")
    shards = [str(shard.path) for shard in manifest.shards]
    samples = list(webdataset.WebDataset(shards, shardshuffle=False, empty_check=False))
    assert [sample["__key__"] for sample in samples] == [manifest.key(row) for row in range(len(manifest))]
    reader = ShardReader(manifest)
    for row, sample in enumerate(samples):
        described = json.loads(sample["json"])
        assert described["identity"] == manifest.identity[row]
        assert Modality[described["modality"].upper()] == manifest.modality[row]
        frames = [sample[name] for name in sorted(sample) if name.endswith(".jpg")]
        assert frames == reader.read(row, range(described["num_frames"]))
    reader.close()


def test_a_shard_is_a_plain_archive_of_read_only_files_of_nobody(raw, tmp_path):
    pack(raw, tmp_path / "packed", Options())
    with tarfile.open(Manifest.open(tmp_path / "packed").shards[0].path) as tar:
        members = tar.getmembers()
    assert members[0].name == "train/00001/infrared-c02-000001.json"
    assert members[1].name == "train/00001/infrared-c02-000001.000.jpg"
    assert {(each.type, each.mode, each.mtime, each.uid, each.gid, each.uname) for each in members} == {
        (tarfile.REGTYPE, 0o444, 0, 0, 0, "")
    }
    assert not any(each.pax_headers for each in members)


def test_resizing_gives_every_frame_the_size_and_records_what_did_it(raw, tmp_path):
    pack(raw, tmp_path / "packed", Options(mode=Mode.RESIZE, size=Size(8, 4), quality=90))
    manifest = Manifest.open(tmp_path / "packed")
    reader = ShardReader(manifest)
    assert set(manifest.height.tolist()) == {8}
    assert set(manifest.width.tolist()) == {4}
    frame = reader.read(0, [0])[0]
    assert decode(frame, read_header(frame)).shape == (8, 4, 3)
    libraries = manifest.description["options"]["libraries"]
    assert libraries["resample"] == "bilinear"
    assert libraries["pil"].startswith("pillow")
    reader.close()


def test_a_copy_depends_on_no_library(raw, tmp_path):
    pack(raw, tmp_path / "packed", Options())
    options = Manifest.open(tmp_path / "packed").description["options"]
    assert not {"libraries", "size", "quality"} & options.keys()
    assert options["check"] == "decode"


def test_several_workers_write_the_same_bytes_as_one(heavy, reference, contents, tmp_path):
    told: dict[str, tuple[int, ...]] = {}

    def show(title: str, unit: str) -> AbstractContextManager[Progress]:
        return nullcontext(lambda *done: told.update({unit: done}))

    packed = pack(heavy, tmp_path / "packed", SMALL_SHARDS, num_workers=3, show=show)
    assert contents(tmp_path / "packed") == reference
    shards = packed.shards_written
    assert told == {"tracklets": (20, 20), "frames": (190, 190), "shards": (shards, shards)}


def test_parts_and_a_seal_write_the_same_bytes_as_one_process(heavy, reference, contents, tmp_path):
    out = tmp_path / "packed"
    for number in (3, 1):
        packed = pack(heavy, out, SMALL_SHARDS, part=Part(number, 3))
        assert not packed.sealed
        assert not out.exists()
    with pytest.raises(ValueError, match=r"of \d shards are not written yet, .* the first is hitsz-vcm-"):
        pack(heavy, out, SMALL_SHARDS, seal_only=True)
    pack(heavy, out, SMALL_SHARDS, part=Part(2, 3))
    assert pack(heavy, out, SMALL_SHARDS, seal_only=True).sealed
    assert contents(out) == reference


def in_child(work: Callable[[], object]) -> int:
    """Run `work` in a forked process; its exit code, or minus the signal that killed it."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def dying_at(call: int, function: str) -> None:
    """From now on, the `call`-th call of a function of `os` kills this process like a power cut."""
    real = getattr(os, function)
    calls = 0

    def counting(*arguments: object, **options: object) -> object:
        nonlocal calls
        calls += 1
        if calls == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **options)

    setattr(os, function, counting)


@pytest.mark.slow
def test_a_pack_killed_at_any_moment_goes_on_and_ends_with_the_same_bytes(
    heavy, reference, contents, tmp_path
):
    killed = 0
    for function, step in (("fsync", 1), ("replace", 1), ("rename", 1), ("unlink", 1), ("open", 23)):
        for number in range(1, 1_000, step):
            out = tmp_path / f"{function}-{number}"

            def die(number: int = number, function: str = function, out: Path = out) -> None:
                dying_at(number, function)
                pack(heavy, out, SMALL_SHARDS)

            code = in_child(die)
            assert code in (0, -signal.SIGKILL)
            if code == 0:
                break
            killed += 1
            assert not out.exists() or contents(out) == reference
            pack(heavy, out, SMALL_SHARDS)
            assert contents(out) == reference
            assert not out.with_name(f"{out.name}.partial").exists()
    assert killed > 20


def stopping_at(share: float) -> Show:
    """Progress that interrupts a pack when this share of its frames is written."""

    def show(title: str, unit: str) -> AbstractContextManager[Progress]:
        def progress(done: int, total: int) -> None:
            if unit == "frames" and done > total * share:
                raise KeyboardInterrupt

        return nullcontext(progress)

    return show


def test_finished_shards_are_kept_when_a_pack_goes_on_and_the_rest_is_its_progress(
    heavy, reference, contents, tmp_path
):
    out = tmp_path / "packed"
    with pytest.raises(KeyboardInterrupt):
        pack(heavy, out, SMALL_SHARDS, show=stopping_at(0.6))
    told: list[tuple[int, ...]] = []

    def show(title: str, unit: str) -> AbstractContextManager[Progress]:
        return nullcontext(lambda *done: told.append(done) if unit == "frames" else None)

    packed = pack(heavy, out, SMALL_SHARDS, show=show)
    assert packed.shards_kept >= 1
    assert packed.shards_kept + packed.shards_written == len(
        [name for name in reference if name.endswith(".tar")]
    )
    assert told[-1][0] == told[-1][1] < 190 * 0.7
    assert contents(out) == reference


def swollen(root: Path) -> None:
    """Put another version of every picture in its place, of another size."""
    for path in root.rglob("*.jpg"):
        path.write_bytes(path.read_bytes() + b"\0")


@pytest.mark.parametrize("mode", Mode)
def test_two_versions_of_a_tree_are_never_mixed_in_a_pack(heavy, contents, tmp_path, mode):
    raw, out, options = tmp_path / "raw", tmp_path / "packed", Options(mode=mode, shard_mebibytes=1)
    shutil.copytree(heavy, raw)
    with pytest.raises(KeyboardInterrupt):
        pack(raw, out, options, show=stopping_at(0.6))
    swollen(raw)
    with pytest.raises(
        ValueError, match="not written yet, or not from the pictures that the raw tree has now"
    ):
        pack(raw, out, options, seal_only=True)
    pack(raw, out, options)
    pack(raw, tmp_path / "fresh", options)
    assert contents(out) == contents(tmp_path / "fresh")


@pytest.mark.parametrize("mode", Mode)
def test_a_finished_pack_of_pictures_that_have_changed_since_is_not_taken_for_one_of_them(
    raw, tmp_path, mode
):
    pack(raw, tmp_path / "packed", Options(mode=mode))
    picture = raw / "0003/rgb/D1/7.jpg"
    picture.write_bytes(picture.read_bytes() + b"\0")
    with pytest.raises(ValueError, match="holds the pack of other pictures"):
        pack(raw, tmp_path / "packed", Options(mode=mode))


@pytest.mark.parametrize("bad_frames", BadFrames)
def test_a_disk_that_goes_away_costs_no_pictures(heavy, reference, contents, tmp_path, bad_frames):
    raw, away = Path(shutil.copytree(heavy, tmp_path / "raw")), tmp_path / "away"

    def show(title: str, unit: str) -> AbstractContextManager[Progress]:
        return nullcontext(lambda done, total: unit == "frames" and not away.exists() and raw.rename(away))

    options = Options(shard_mebibytes=1, bad_frames=bad_frames)
    with pytest.raises(
        RuntimeError, match=r"No such file or directory, after it was found: the raw tree changes"
    ):
        pack(raw, tmp_path / "packed", options, show=show)
    away.rename(raw)
    packed = pack(raw, tmp_path / "packed", options)
    assert packed.description["source"]["skipped_frames"] == []
    assert bad_frames is BadFrames.SKIP or contents(packed.out) == reference


def test_a_tree_of_which_no_row_is_left_is_refused_and_leaves_nothing(raw, tmp_path):
    for split in ("train", "test"):
        names = raw / f"{split}_name.txt"
        lines = names.read_text().splitlines()
        rows = (raw / f"track_{split}_info.txt").read_text().splitlines()
        firsts = [int(row.split()[1]) - 1 for row in rows]
        others = [lines[first] for first in firsts[2:] + firsts[:2]]  # of another person or modality
        for first, other in zip(firsts, others, strict=True):
            lines[first] = other
        names.write_text("\n".join(lines) + "\n")
    with pytest.raises(BadTreeError, match=r"no row is left to pack with `--mixed drop`"):
        pack(raw, tmp_path / "packed", Options(mixed=Mixed.DROP))
    assert not list(tmp_path.glob("packed*"))


@pytest.mark.parametrize("mode", Mode)
def test_a_picture_that_changes_while_it_is_packed_is_an_error_that_names_it(heavy, tmp_path, mode):
    raw = Path(shutil.copytree(heavy, tmp_path / "raw"))
    picture = raw / read(raw).tracklets[-1].frames[-1]

    def show(title: str, unit: str) -> AbstractContextManager[Progress]:
        return nullcontext(lambda done, total: picture.write_bytes(b"x") if unit == "frames" else None)

    with pytest.raises(RuntimeError, match=f"{picture}: expected .* the raw tree changes while it is packed"):
        pack(raw, tmp_path / "packed", Options(mode=mode, shard_mebibytes=1), show=show)


def test_the_same_pack_again_is_no_work_and_another_one_is_refused(raw, contents, tmp_path):
    out = tmp_path / "packed"
    pack(raw, out, Options())
    before = contents(out)
    assert pack(raw, out, Options()).shards_written == 0
    with pytest.raises(ValueError, match="exists and holds the pack of another tree, of other options"):
        pack(raw, out, Options(minimum_frames=5))
    assert contents(out) == before


def test_a_folder_with_something_else_in_it_is_refused_and_an_empty_one_is_used(raw, tmp_path):
    out = tmp_path / "packed"
    out.mkdir()
    pack(raw, out, Options())
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter.txt").write_text("words")
    with pytest.raises(ValueError, match="exists and holds something else"):
        pack(raw, tmp_path / "thesis", Options())


def test_an_unfinished_pack_with_other_options_is_not_mixed_with_this_one(heavy, tmp_path):
    out = tmp_path / "packed"
    pack(heavy, out, SMALL_SHARDS, part=Part(1, 2))
    with pytest.raises(ValueError, match="holds an unfinished pack of another tree, with other options"):
        pack(heavy, out, Options(shard_mebibytes=1, minimum_frames=4), part=Part(2, 2))


def test_the_header_check_is_recorded_and_claims_no_grey(raw, tmp_path):
    pack(raw, tmp_path / "packed", Options(check=Check.HEADER))
    manifest = Manifest.open(tmp_path / "packed")
    assert not manifest.is_gray.any()
    assert manifest.description["options"]["check"] == "header"


def test_a_shard_that_is_not_on_disk_as_it_was_written_is_found_by_the_seal_and_written_anew(
    heavy, reference, contents, tmp_path
):
    out = tmp_path / "packed"
    pack(heavy, out, SMALL_SHARDS, part=Part(1, 1))
    tar = next((tmp_path / "packed.partial/packed/shards").glob("*.tar"))
    data = bytearray(tar.read_bytes())
    data[5_000] ^= 1
    tar.chmod(0o644)
    tar.write_bytes(data)
    with pytest.raises(RuntimeError, match="what lies on disk is not what was written"):
        pack(heavy, out, SMALL_SHARDS, seal_only=True)
    assert not out.exists()
    pack(heavy, out, SMALL_SHARDS)
    assert contents(out) == reference


def bytes_from_disks() -> int:
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["read_bytes"])


def test_shards_are_read_back_from_the_disk_and_not_from_memory(heavy, tmp_path):
    probe = tmp_path / "probe"
    with probe.open("wb") as file:
        file.write(bytes(1 << 20))
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    before = bytes_from_disks()
    probe.read_bytes()
    if bytes_from_disks() - before < 1 << 20:
        pytest.skip("no disk lies below the folder of the tests")
    pack(heavy, tmp_path / "packed", SMALL_SHARDS, part=Part(1, 1))
    before = bytes_from_disks()
    pack(heavy, tmp_path / "packed", SMALL_SHARDS, seal_only=True)
    size = sum(path.stat().st_size for path in (tmp_path / "packed/shards").glob("*.tar"))
    assert bytes_from_disks() - before >= size


def test_tracklets_with_the_same_numbers_get_keys_of_their_own(raw, tmp_path, edit):
    for line in range(15, 20):
        edit(raw / "train_name.txt", line, f"0001M1D2T1F{line}.jpg")
    pack(raw, tmp_path / "packed", Options())
    manifest = Manifest.open(tmp_path / "packed")
    keys = [manifest.key(row) for row in range(len(manifest))]
    assert keys[:2] == ["train/00001/infrared-c02-000001", "train/00001/infrared-c02-000001-2"]
    assert len(set(keys)) == len(keys)


def test_the_hash_order_mixes_identities_and_keeps_splits_apart(heavy, tmp_path):
    pack(heavy, tmp_path / "packed", Options(order=Order.HASH, shard_mebibytes=1))
    manifest = Manifest.open(tmp_path / "packed")
    train = manifest.identity[manifest.rows(Role.TRAIN, minimum_frames=1)].tolist()
    assert train != sorted(train)
    assert manifest.split.tolist() == sorted(manifest.split.tolist())
    assert all(shard.path.name.split("-")[-4] in set(Split) for shard in manifest.shards)


def test_the_order_of_rows_in_the_index_does_not_matter_for_labels_and_keys(raw, tmp_path):
    pack(raw, tmp_path / "one", Options())
    path = raw / "track_train_info.txt"
    path.write_text("\n".join(reversed(path.read_text().splitlines())) + "\n")
    pack(raw, tmp_path / "other", Options())
    one, other = Manifest.open(tmp_path / "one"), Manifest.open(tmp_path / "other")
    assert [one.key(row) for row in range(20)] == [other.key(row) for row in range(20)]
    assert one.label.tolist() == other.label.tolist()
    assert [shard.sha256 for shard in one.shards] == [shard.sha256 for shard in other.shards]


def test_a_synthetic_tree_says_so_in_its_pack(raw, tmp_path):
    (raw / "synthetic.json").write_text(json.dumps({"generator_version": 1, "seed": 3, "parameters": {}}))
    pack(raw, tmp_path / "packed", Options())
    manifest = Manifest.open(tmp_path / "packed")
    assert manifest.synthetic
    assert manifest.name == "synthetic-vcm"
    assert manifest.description["source"]["synthesis"]["seed"] == 3
    assert manifest.description["source"]["differences"] == []


def test_a_real_tree_is_compared_with_the_published_counts(raw, tmp_path):
    packed = pack(raw, tmp_path / "packed", Options(mixed=Mixed.DROP))
    assert not Manifest.open(tmp_path / "packed").synthetic
    differences = packed.description["source"]["differences"]
    assert differences[0].startswith("train infrared identities: 500 published, 3 found;")
    assert len(differences) == 14


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "a/b", "1/0", "-1/3", "1/3/5", "٣/٣"])
def test_a_part_that_is_none_is_refused(text):
    with pytest.raises(ValueError, match="expected I/N"):
        Part.parse(text)


def test_options_out_of_range_are_told_together():
    with pytest.raises(ValueError, match=r"quality must be 1 to 100, found 0; height must be"):
        Options(mode=Mode.RESIZE, quality=0, size=Size(0, 144))


@pytest.mark.parametrize(
    "fields",
    [{"size": Size(8, 4)}, {"quality": 92}, {"mode": Mode.RESIZE, "check": Check.HEADER}],
)
def test_an_option_that_the_mode_has_no_use_for_is_refused_and_not_ignored(fields):
    with pytest.raises(ValueError, match="has no meaning in mode"):
        Options(**fields)


def test_what_is_left_out_of_a_mode_is_filled_in():
    assert Options().check is Check.DECODE
    assert Options(mode=Mode.RESIZE).resizing == (Size(288, 144), 92)
