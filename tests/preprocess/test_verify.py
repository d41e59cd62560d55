"""Verification names all damage of a packed set in one run."""

import io
import json
import random
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from zlib import crc32

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from preprocess.__main__ import main
from preprocess.contents import Damage
from preprocess.options import Options
from preprocess.pack import pack
from preprocess.records import ShardRecord, describe, write_tables
from preprocess.verify import verify
from reid.data.description import DESCRIPTION, TABLES, sealed, unsealed
from reid.data.manifest import Manifest, sha256


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
    assert Damage(test.replace(".tar", ".json"), "", 0, "is missing") in found.damages
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


def describing(**changes: object) -> Callable[[Path], None]:
    """Changes fields of the description, and its digest with them, as somebody would who corrects it by hand."""

    def change(root: Path) -> None:
        fields = unsealed((root / DESCRIPTION).read_bytes())
        (root / DESCRIPTION).write_bytes(sealed(json.dumps(fields | changes)))

    return change


def flip_description(root: Path) -> None:
    data = (root / DESCRIPTION).read_bytes()
    (root / DESCRIPTION).write_bytes(data.replace(b'"synthetic": false', b'"synthetic": true'))


def remove_description(root: Path) -> None:
    (root / DESCRIPTION).unlink()


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
        (flip_description, DESCRIPTION, "the digest at its end is not that of its content"),
        (remove_description, DESCRIPTION, "there is no dataset.json"),
        (describing(counts={}), DESCRIPTION, "its counts are not those of the tables"),
        (describing(synthetic=True), DESCRIPTION, "its field synthetic is not that of the shards"),
        (describing(plan="0" * 64), DESCRIPTION, "its field plan is not that of the shards"),
        (describing(name="mine"), DESCRIPTION, "its name is not that of the shards"),
    ],
)
@pytest.mark.parametrize("quick", [False, True])
def test_damage_outside_the_members_is_named(copy, damage, file, reason, quick):
    damage(copy)
    damages = verify(copy, quick=quick).damages
    assert any(found.file == file and reason in found.reason for found in damages), damages


@pytest.mark.parametrize("damage", [change_tracklets, change_frames, remove_table, flip_description])
def test_shards_are_compared_with_their_sidecars_when_description_or_tables_are_damaged(copy, damage):
    damage(copy)
    flip(copy / "shards/hitsz-vcm-test-000000-of-000001.tar", 5_000)
    flip(copy / "shards/hitsz-vcm-train-000000-of-000001.json", 300)
    damages = verify(copy).damages
    assert (
        Damage(
            "shards/hitsz-vcm-test-000000-of-000001.tar", "", 0, "its sha256 is not the one in its sidecar"
        )
        in damages
    )
    assert {found.file for found in damages} >= {"shards/hitsz-vcm-train-000000-of-000001.json"}
    assert any(found.file in {DESCRIPTION, *TABLES} for found in damages)


@pytest.mark.parametrize("damage", [change_tracklets, flip_description])
def test_damage_is_told_where_there_are_no_shards_either(copy, damage):
    damage(copy)
    shutil.rmtree(copy / "shards")
    damages = verify(copy).damages
    assert Damage("shards", "", 0, "cannot be read: No such file or directory") in damages
    assert any(found.file in {DESCRIPTION, *TABLES} for found in damages)


@pytest.mark.slow
def test_any_bit_of_the_description_and_of_the_tables_that_flips_is_damage(copy, capsys):
    """Near both ends of a table, where its structure lies, and anywhere else."""
    places = random.Random(0)
    for name in (DESCRIPTION, *TABLES):
        path = copy / name
        whole = path.read_bytes()
        edges = [*range(700), *range(len(whole) - 900, len(whole))]
        for _ in range(60):
            place = places.choice([places.choice(edges), places.randrange(len(whole))]) % len(whole)
            data = bytearray(whole)
            data[place] ^= 1 << places.randrange(8)
            path.unlink()  # what is mapped of the file before stays as it was
            path.write_bytes(data)
            assert main(["verify", str(copy), "--num-workers", "1", "--quick"]) == 1, (name, place)
            assert name in capsys.readouterr().out
        path.write_bytes(whole)
    assert verify(copy).damages == []


def sign(root: Path) -> None:
    files = {name: {"nbytes": (root / name).stat().st_size, "sha256": sha256(root / name)} for name in TABLES}
    describing(files=files)(root)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("table", "column", "value"),
    [
        (0, "nbytes", 2**40),
        (0, "nbytes", -1),
        (0, "num_tracklets", 2**31 - 1),
        (0, "num_frames", -4),
        (0, "sha256", None),
        (0, "name", None),
        (1, "nbytes", 2**40),
        (1, "nbytes", -5),
        (1, "nbytes", 0),
        (1, "offset", -512),
        (1, "offset", 2**62),
        (1, "modality", 7),
        (1, "label", 2**31 - 1),
        (1, "key", None),
        (1, "key", "train/a.b"),
        (1, "key", "k" * 90),
        (1, "key", "train/\x1b[2J"),
        (1, "split", "training"),
        (1, "role", None),
        (1, "width", -1),
    ],
)
def test_a_forged_table_is_damage_and_costs_no_memory(copy, capsys, table, column, value):
    types = pq.read_schema(copy / TABLES[table])
    path = copy / TABLES[table]
    content = pq.read_table(path)
    values = pa.array([value, *content[column].to_pylist()[1:]], types.field(column).type)
    pq.write_table(content.set_column(types.get_field_index(column), types.field(column), values), path)
    sign(copy)
    assert main(["verify", str(copy), "--num-workers", "1"]) == 1
    said = capsys.readouterr()
    assert said.err == ""
    assert "manifest" in said.out or "shards/" in said.out


@pytest.mark.parametrize(
    ("column", "value"), [("offset", -1), ("offset", 2**60), ("size", 0), ("size", 2**31 - 1)]
)
def test_a_frame_that_cannot_lie_in_its_shard_is_damage(copy, column, value):
    path = copy / TABLES[2]
    batches = pa.ipc.open_file(path.read_bytes())
    changed = []
    for number in range(batches.num_record_batches):
        batch = batches.get_batch(number)
        place = batch.schema.get_field_index(column)
        values = pa.array([value, *batch[column].to_pylist()[1:]], batch.schema.field(column).type)
        changed.append(batch.set_column(place, batch.schema.field(column), values))
    with path.open("wb") as file, pa.ipc.new_file(file, batches.schema) as writer:
        for batch in changed:
            writer.write_batch(batch)
    sign(copy)
    damages = verify(copy).damages
    assert [damage.file for damage in damages] == [TABLES[2]] * 2
    assert all("a frame of" in damage.reason for damage in damages)


@pytest.mark.strace
@pytest.mark.parametrize("end", [*TABLES, "shards/hitsz-vcm-train-000000-of-000001.json"])
def test_a_file_that_the_disk_cannot_read_is_damage_and_hides_no_other(copy, on_failing_disk, end):
    flip(copy / "shards/hitsz-vcm-test-000000-of-000001.tar", 5_000)
    ran = on_failing_disk(copy / end, ["verify", str(copy), "--num-workers", "1"])
    assert ran.returncode == 1, ran.stderr
    assert "Traceback" not in ran.stderr
    assert f"{end}, byte 0: cannot be read: Input/output error" in ran.stdout
    assert "test-000000-of-000001.tar" in ran.stdout


@pytest.mark.strace
def test_every_tracklet_that_the_disk_cannot_read_is_named_and_hides_no_other(copy, on_failing_disk):
    flip(copy / "shards/hitsz-vcm-test-000000-of-000001.tar", 5_000)
    manifest = Manifest.open(copy)
    shard = manifest.shards[0]
    ran = on_failing_disk(shard.path, ["verify", str(copy), "--num-workers", "1", "--json"])
    damages = [Damage(**damage) for damage in json.loads(ran.stdout)["damages"]]
    unread = {damage.key for damage in damages if damage.reason == "cannot be read: Input/output error"}
    assert unread == {manifest.key(row) for row in range(shard.num_tracklets)}
    assert any("test-000000-of-000001.tar" in damage.file for damage in damages)


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
    fields = unsealed(sidecars[0].read_bytes())
    fields["sha256"] = sha256(shard)
    fields["tracklets"][0]["frames"][4][3] = crc32(picture)
    sidecars[0].write_bytes(sealed(json.dumps(fields)))
    files = write_tables(root, [ShardRecord.read(sidecar) for sidecar in sidecars])
    (root / DESCRIPTION).write_bytes(describe(manifest.description, files))
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
    sign(copy)
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
