"""Verification names all damage of a packed set in one run."""

import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from zlib import crc32

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from preprocess.options import Options
from preprocess.pack import pack
from preprocess.records import ShardRecord, describe, write_tables
from preprocess.verify import Damage, verify
from reid.data.manifest import DESCRIPTION, TABLES, Manifest, sha256


@pytest.fixture(scope="module")
def packed(tmp_path_factory, write_tree) -> Path:
    folder = tmp_path_factory.mktemp("packed")
    pack(write_tree(folder / "raw"), folder / "packed", Options())
    return folder / "packed"


@pytest.fixture
def copy(packed, tmp_path) -> Path:
    return Path(shutil.copytree(packed, tmp_path / "copy"))


def shard_of(root: Path, number: int = 0) -> Path:
    return Manifest.open(root).shards[number].path


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 0x10
    path.write_bytes(data)


@pytest.mark.parametrize("quick", [False, True])
def test_a_whole_data_set_has_no_damage_and_is_counted(packed, quick):
    told: list[tuple[int, int]] = []
    found = verify(packed, quick=quick, progress=lambda *done: told.append(done))
    assert found.damages == []
    assert (found.shards, found.tracklets, found.frames, found.decoded) == (2, 20, 190, not quick)
    assert found.nbytes == sum(path.stat().st_size for path in (packed / "shards").glob("*.tar"))
    assert 0 < told[-1][0] <= told[-1][1] == found.nbytes


def test_all_damages_are_named_in_one_run_by_any_number_of_workers(copy):
    manifest = Manifest.open(copy)
    places = {
        3: int(manifest.frames(3).offset[1]) + 200,
        7: int(manifest.frames(7).offset[0]) - 500,
    }
    for place in places.values():
        flip(manifest.shards[0].path, place)
    test_row = manifest.shards[1].first_row
    flip(manifest.shards[1].path, int(manifest.frames(test_row).offset[0]) + 100)
    manifest.shards[1].path.with_suffix(".json").unlink()
    (copy / "shards/notes.txt").write_text("mine")
    found = verify(copy, num_workers=2)
    assert found == verify(copy, num_workers=1)
    train, test = (f"shards/{shard.path.name}" for shard in manifest.shards)
    assert (
        Damage(
            train,
            manifest.key(3),
            places[3] - 200,
            f"the content of {manifest.key(3)}.001.jpg has changed: its checksum is wrong",
        )
        in found.damages
    )
    assert (
        Damage(train, manifest.key(7), places[7] - 12, f"the header of {manifest.key(7)}.000.jpg is damaged")
        in found.damages
    )
    assert any(damage.file == test and damage.key == manifest.key(test_row) for damage in found.damages)
    assert Damage(test.replace(".tar", ".json"), "", 0, "is missing, or no regular file") in found.damages
    assert Damage("shards/notes.txt", "", 0, "a file that the manifest does not know") in found.damages
    assert sum("its sha256 is not the one" in damage.reason for damage in found.damages) == 2


def test_a_damage_is_printed_with_file_tracklet_and_byte():
    assert (
        str(Damage("shards/x.tar", "train/1", 512, "cut")) == "shards/x.tar, tracklet train/1, byte 512: cut"
    )
    assert str(Damage("dataset.json", "", 0, "cut")) == "dataset.json, byte 0: cut"


def remove_shard(root: Path) -> None:
    shard_of(root).unlink()


def link_shard(root: Path) -> None:
    shard = shard_of(root)
    shard.symlink_to(shard.rename(root.parent / "elsewhere.tar"))


def cut_shard(root: Path) -> None:
    shard = shard_of(root)
    shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])


def swap_shards(root: Path) -> None:
    one, other = shard_of(root, 0), shard_of(root, 1)
    one_bytes, other_bytes = one.read_bytes(), other.read_bytes()
    one.write_bytes(other_bytes)
    other.write_bytes(one_bytes)


def double_shard(root: Path) -> None:
    shard = shard_of(root)
    shutil.copy(shard, shard.with_name(shard.name.replace("000000-of", "000001-of")))


def stray_link(root: Path) -> None:
    (root / "shards/link").symlink_to("/etc")


def change_sidecar(root: Path) -> None:
    flip(shard_of(root).with_suffix(".json"), 100)


def remove_table(root: Path) -> None:
    (root / TABLES[2]).unlink()


def change_frames(root: Path) -> None:
    flip(root / TABLES[2], (root / TABLES[2]).stat().st_size // 2)


def change_tracklets(root: Path) -> None:
    flip(root / TABLES[1], 200)


def change_counts(root: Path) -> None:
    fields = json.loads((root / DESCRIPTION).read_bytes())
    fields["counts"]["frames"] += 1
    (root / DESCRIPTION).write_text(json.dumps(fields))


@pytest.mark.parametrize(
    ("damage", "file", "reason"),
    [
        (remove_shard, "shards/hitsz-vcm-train-000000-of-000001.tar", "is missing"),
        (link_shard, "shards/hitsz-vcm-train-000000-of-000001.tar", "is a link"),
        (cut_shard, "shards/hitsz-vcm-train-000000-of-000001.tar", "is cut: the shard ends here"),
        (swap_shards, "shards/hitsz-vcm-test-000000-of-000001.tar", "expected test/00003/infrared"),
        (
            double_shard,
            "shards/hitsz-vcm-train-000001-of-000001.tar",
            "a file that the manifest does not know",
        ),
        (stray_link, "shards/link", "a link that no packer made"),
        (change_sidecar, "shards/hitsz-vcm-train-000000-of-000001.json", "its sha256"),
        (remove_table, TABLES[2], "is missing"),
        (change_frames, TABLES[2], "its sha256"),
        (change_tracklets, TABLES[1], "its sha256"),
        (change_counts, DESCRIPTION, "its counts are not those of the tables"),
    ],
)
@pytest.mark.parametrize("quick", [False, True])
def test_damage_outside_the_members_is_named(copy, damage, file, reason, quick):
    damage(copy)
    damages = verify(copy, quick=quick).damages
    assert any(found.file == file and reason in found.reason for found in damages), damages


def test_shards_are_compared_with_their_sidecars_when_the_tables_are_damaged(copy):
    change_tracklets(copy)
    flip(copy / "shards/hitsz-vcm-test-000000-of-000001.tar", 5_000)
    damages = verify(copy).damages
    assert (
        Damage(
            "shards/hitsz-vcm-test-000000-of-000001.tar", "", 0, "its sha256 is not the one in its sidecar"
        )
        in damages
    )
    assert any(damage.file == TABLES[1] for damage in damages)


def resealed(root: Path, change: Callable[[bytes], bytes]) -> str:
    """Put a changed picture of the same length into the first shard, with all checksums made right, as a forger would."""
    manifest = Manifest.open(root)
    shard = manifest.shards[0].path
    frames = manifest.frames(0)
    start, size = int(frames.offset[4]), int(frames.size[4])
    data = bytearray(shard.read_bytes())
    picture = change(bytes(data[start : start + size]))
    assert len(picture) == size
    data[start : start + size] = picture
    shard.write_bytes(data)
    sidecars = [each.path.with_suffix(".json") for each in manifest.shards]
    fields = json.loads(sidecars[0].read_bytes())
    fields["sha256"] = sha256(shard)
    fields["tracklets"][0]["frames"][4][3] = crc32(picture)
    sidecars[0].write_text(json.dumps(fields, separators=(",", ":")) + "\n")
    write_tables(root, [ShardRecord.read(sidecar) for sidecar in sidecars])
    description = {
        name: value
        for name, value in manifest.description.items()
        if name not in {"format", "version", "files"}
    }
    (root / DESCRIPTION).write_bytes(describe(root, description))
    return manifest.key(0)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda picture: picture[:-60] + bytes(60), "frame 4: the JPEG"),
        (lambda picture: bytes(len(picture)), "frame 4: not a JPEG"),
        (lambda picture: b"\x80\x04cos\nsystem\n".ljust(len(picture), b"\0"), "frame 4: not a JPEG"),
        (
            lambda picture: picture.replace(b"\x00\x10\x00\x08", b"\x00\x08\x00\x10", 1),
            "the manifest claims 16x8",
        ),
    ],
)
def test_a_picture_that_was_never_good_is_found_by_decoding_though_all_checksums_are_right(
    copy, change, reason
):
    key = resealed(copy, change)
    assert verify(copy, quick=True).damages == []
    damages = verify(copy).damages
    assert [(damage.key, reason in damage.reason) for damage in damages] == [(key, True)], damages


def test_a_colourful_frame_that_the_manifest_calls_grey_is_found(copy):
    table = pq.read_table(copy / TABLES[1])
    place = table.schema.get_field_index("is_gray")
    pq.write_table(table.set_column(place, "is_gray", pa.array([True] * len(table))), copy / TABLES[1])
    fields = json.loads((copy / DESCRIPTION).read_bytes())
    files = {name: {"nbytes": (copy / name).stat().st_size, "sha256": sha256(copy / name)} for name in TABLES}
    (copy / DESCRIPTION).write_text(json.dumps(fields | {"files": files}))
    damages = verify(copy).damages
    assert len(damages) == 190
    assert all("has colour, but the manifest claims grey" in damage.reason for damage in damages)


def test_a_shard_swapped_for_an_archive_bomb_is_named_and_not_unpacked(copy):
    with shard_of(copy).open("wb") as file, tarfile.open(fileobj=file, mode="w") as tar:
        for number in range(3_000):
            tar.addfile(tarfile.TarInfo(f"../../{number}.jpg"), io.BytesIO())
    found = verify(copy)
    assert any("expected train/00001/infrared-c02-000001.json" in damage.reason for damage in found.damages)
    assert sorted(path.name for path in copy.parent.iterdir()) == ["copy"]


def test_what_is_no_data_set_is_a_mistake_and_not_a_damage(tmp_path):
    with pytest.raises(ValueError, match="not a packed data set"):
        verify(tmp_path)
