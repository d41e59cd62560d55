"""The lists of BUPTCampus become tracklets; bad lines are named with file and line."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from preprocess.buptcampus import read
from preprocess.options import Options
from preprocess.pack import pack
from preprocess.tree import BadTreeError
from preprocess.verify import verify
from reid.data.description import TABLES
from reid.data.manifest import Manifest
from reid.types import Modality, Role, Split


@pytest.fixture
def campus(tmp_path, jpeg) -> Path:
    """Two identities to train on, seen in both lights at once, and two to test on."""
    root = tmp_path / "campus"
    table: dict[str, dict[str, dict[str, dict[str, list[str]]]]] = {}
    for identity, camera in ((3, "LS3"), (3, "W4"), (11, "G25"), (7, "CQ1"), (7, "TSG2"), (8, "LS3")):
        for light in ("RGB", "IR", "FakeIR"):
            frames = [f"{identity}/{light}/{camera}/1/{number:05d}.jpg" for number in range(13)]
            for number, frame in enumerate(frames):
                path = root / "DATA" / frame
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(jpeg(20 * identity, 10 * number, 5))
            table.setdefault(str(identity), {}).setdefault(light, {})[camera] = {"1": frames}
    (root / "data_paths.json").write_text(json.dumps(table))
    (root / "train.txt").write_text("3 RGB/IR LS3 1\n3 RGB/IR W4 1\n11 RGB/IR G25 1\n")
    (root / "train_auxiliary.txt").write_text("99 RGB/IR LS3 1\n")
    (root / "query.txt").write_text("7 RGB/IR CQ1 1\n8 IR LS3 1\n")
    (root / "gallery.txt").write_text("7 RGB/IR TSG2 1\n8 RGB LS3 1\n")
    return root


def test_a_line_of_both_lights_becomes_a_tracklet_of_each(campus):
    visible, infrared = read(campus).tracklets[:2]
    assert (visible.identity, visible.modality, visible.camera, visible.tracklet) == (
        3,
        Modality.VISIBLE,
        1,
        1,
    )
    assert infrared.modality is Modality.INFRARED
    assert visible.frames[0] == "DATA/3/RGB/LS3/1/00000.jpg"
    assert infrared.frames[12] == "DATA/3/IR/LS3/1/00012.jpg"
    assert (infrared.source, infrared.row) == ("train.txt", 1)


def test_lists_give_roles_and_nothing_generated_or_auxiliary_is_read(campus):
    tracklets = read(campus).tracklets
    assert [each.role for each in tracklets] == [Role.TRAIN] * 6 + [Role.QUERY] * 2 + [Role.GALLERY] * 2
    assert {each.identity for each in tracklets if each.split is Split.TRAIN} == {3, 11}
    assert not any("FakeIR" in frame for each in tracklets for frame in each.frames)


def test_infrared_queries_ask_a_visible_gallery_and_what_neither_needs_is_noted(campus):
    tree = read(campus)
    test = [(each.role, each.modality, each.identity) for each in tree.tracklets if each.split is Split.TEST]
    assert test == [
        (Role.QUERY, Modality.INFRARED, 7),
        (Role.QUERY, Modality.INFRARED, 8),
        (Role.GALLERY, Modality.VISIBLE, 7),
        (Role.GALLERY, Modality.VISIBLE, 8),
    ]
    assert [note for note in tree.notes if "light" in note] == [
        "query.txt: 1 tracklets of the light that our protocol does not ask for",
        "gallery.txt: 1 tracklets of the light that our protocol does not ask for",
    ]


def test_it_is_packed_and_verified_like_vcm(campus, tmp_path):
    packed = pack(campus, tmp_path / "packed", Options())
    manifest = Manifest.open(tmp_path / "packed")
    assert manifest.name == "buptcampus"
    assert (manifest.num_identities, len(manifest)) == (2, 10)
    assert manifest.rows(Role.QUERY, Modality.INFRARED).size == 2
    assert packed.description["source"]["layout"].startswith("BUPTCampus")
    assert packed.description["source"]["notes"][0] == "train.txt: 3,574 lines published, 3 found"
    assert verify(tmp_path / "packed").damages == []


def test_generated_infrared_joins_the_training_split_when_it_is_named(campus, tmp_path):
    without, named = tmp_path / "without", tmp_path / "named"
    pack(campus, without, Options())
    packed = pack(campus, named, Options(fake_infrared=True))
    before, after = Manifest.open(without), Manifest.open(named)
    keys = [after.key(row) for row in range(len(after))]
    sources = pq.read_table(named / TABLES[1])["source"].to_pylist()
    names = pa.ipc.open_file(named / TABLES[2]).read_all()["name"].to_pylist()
    generated = [row for row, source in enumerate(sources) if source == "train.txt (FakeIR)"]
    assert [keys[row] for row in generated] == [
        "train/00003/infrared-c01-000001-2",
        "train/00003/infrared-c04-000001-2",
        "train/00011/infrared-c02-000001-2",
    ]
    assert sum("/FakeIR/" in name for name in names) == after.num_frames[generated].sum()
    assert {after.modality[row] for row in generated} == {Modality.INFRARED}
    real = [key for row, key in enumerate(keys) if row not in generated]
    assert real == [before.key(row) for row in range(len(before))]
    assert (
        "train.txt: 3 tracklets of FakeIR join it, which no camera has seen"
        in packed.description["source"]["notes"]
    )
    assert verify(named).damages == []


def test_a_pack_without_generated_pictures_is_not_taken_for_one_with_them(campus, tmp_path):
    pack(campus, tmp_path / "packed", Options())
    with pytest.raises(ValueError, match="the pack of another tree, of other options"):
        pack(campus, tmp_path / "packed", Options(fake_infrared=True))


def test_generated_pictures_that_are_missing_are_a_mistake_of_their_line(campus):
    table = json.loads((campus / "data_paths.json").read_bytes())
    del table["11"]["FakeIR"]
    (campus / "data_paths.json").write_text(json.dumps(table))
    assert len(read(campus).tracklets) == 10
    with pytest.raises(BadTreeError, match=r"train\.txt:3: .* has no frames at 11 -> FakeIR -> G25 -> 1"):
        read(campus, fake_infrared=True)


def test_a_tree_that_has_no_generated_pictures_is_not_asked_for_them(raw, tmp_path):
    with pytest.raises(ValueError, match=r"no BUPTCampus tree, .* leave --fake-infrared out"):
        pack(raw, tmp_path / "packed", Options(fake_infrared=True))
    assert not (tmp_path / "packed.partial").exists()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("train.txt", "3 RGB/IR LS3\n", r"train\.txt:1: expected `identity modality camera tracklet`"),
        ("train.txt", "3 RGB/IR LS9 1\n", r"train\.txt:1: expected .* camera one of LS3"),
        ("train.txt", "3 FakeIR LS3 1\n", r"train\.txt:1: expected"),
        ("train.txt", "3 RGB LS3 1\n\n3 RGB W4 1\n", r"train\.txt:2: expected"),
        ("train.txt", "3 RGB LS3 1\n3 RGB LS3 1\n", r"train\.txt:2: line 1 again"),
        (
            "train.txt",
            "3 RGB LS3 2\n",
            r"train\.txt:1: data_paths\.json has no frames at 3 -> RGB -> LS3 -> 2",
        ),
        ("train.txt", "", r"train\.txt: the file has no lines"),
        ("train.txt", "\udcff".encode("utf-8", "surrogateescape"), "cannot be read as text"),
        ("gallery.txt", "3 RGB LS3 1\n", r"gallery\.txt:1: identity 3 is also in the training split"),
        ("data_paths.json", "[]", r"data_paths\.json: expected an object"),
        ("data_paths.json", "{", r"data_paths\.json: not JSON"),
        ("data_paths.json", "[" * 100_000, r"data_paths\.json: not JSON"),
    ],
)
def test_a_mistake_is_named_with_file_and_line(campus, name, text, message):
    (campus / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(BadTreeError, match=message):
        read(campus)


@pytest.mark.parametrize(
    "frame",
    [
        "../../etc/passwd.jpg",
        "/etc/x.jpg",
        "3/RGB/../../../x.jpg",
        "3/FakeIR/LS3/1/0.jpg",
        "3/RGB/x.png",
        7,
        None,
    ],
)
def test_a_frame_that_leads_out_of_the_data_or_to_a_generated_picture_is_refused(campus, frame):
    table = json.loads((campus / "data_paths.json").read_bytes())
    table["3"]["RGB"]["LS3"]["1"][4] = frame
    (campus / "data_paths.json").write_text(json.dumps(table))
    with pytest.raises(BadTreeError, match=r"train\.txt:1: data_paths\.json names .* which is no frame of"):
        read(campus)
