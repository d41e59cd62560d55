"""The manifest: columns, frames, digests, damage, and twenty million frames."""

import hashlib
import json
import multiprocessing
import pickle
import random
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from preprocess.records import describe
from reid.data.description import DESCRIPTION, TABLES, sealed, unsealed
from reid.data.manifest import FRAMES, SHARDS, TRACKLETS, Manifest, sha256
from reid.data.shards import DamagedFrameError, ShardReader
from reid.types import Modality, Role


@pytest.fixture
def copy(painted_root: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(painted_root, tmp_path / "copy"))


def change_description(root: Path, **fields: object) -> None:
    """Change fields, and the digest with them, as a forger would."""
    path = root / DESCRIPTION
    path.write_bytes(sealed(json.dumps(unsealed(path.read_bytes()) | fields)))


def sign(root: Path) -> None:
    """Write the digests of the tables as they are now into dataset.json."""
    files = {
        table: {"nbytes": (root / table).stat().st_size, "sha256": sha256(root / table)} for table in TABLES
    }
    change_description(root, files=files)


def forge(root: Path, table: str, column: str, values: list[object]) -> None:
    path = root / table
    content = pq.read_table(path)
    place = content.schema.get_field_index(column)
    pq.write_table(
        content.set_column(place, column, pa.array(values, content.schema.field(column).type)), path
    )
    sign(root)


def test_columns_agree_with_the_table_read_by_stock_pyarrow(painted):
    table = pq.read_table(painted.root / TABLES[1])
    for name in (
        "identity",
        "label",
        "modality",
        "camera",
        "tracklet",
        "num_frames",
        "width",
        "height",
        "is_gray",
    ):
        assert getattr(painted, name).tolist() == table[name].to_pylist()
    assert [painted.key(row) for row in range(len(painted))] == table["key"].to_pylist()
    assert [list(Role)[code].value for code in painted.role] == table["role"].to_pylist()


def test_rows_are_those_of_role_modality_and_length_in_manifest_order(painted):
    assert painted.rows(Role.TRAIN, Modality.INFRARED).tolist() == [
        row
        for row in range(len(painted))
        if painted.key(row).startswith("train/")
        and "infrared" in painted.key(row)
        and painted.num_frames[row] >= 12
    ]
    short = np.setdiff1d(painted.rows(Role.TRAIN, minimum_frames=1), painted.rows(Role.TRAIN))
    assert painted.num_frames[short].tolist() == [5]
    assert painted.rows(Role.QUERY, Modality.VISIBLE).size == 0
    assert painted.rows(Role.TRAIN).dtype == np.int64


def test_frames_are_views_of_the_mapped_table(painted):
    frames = painted.frames(3)
    assert len(frames.offset) == len(frames.size) == len(frames.crc32) == painted.num_frames[3]
    assert frames.offset.base is not None
    assert not frames.offset.flags.writeable
    assert (np.diff(frames.offset) >= frames.size[:-1] + 512).all()


def test_the_id_of_a_data_set_is_the_digest_of_its_description(painted):
    assert painted.digest == hashlib.sha256((painted.root / DESCRIPTION).read_bytes()).hexdigest()


def test_a_pickled_manifest_is_opened_again(painted):
    again = pickle.loads(pickle.dumps(painted))
    assert again.digest == painted.digest
    assert again.frames(2).offset.tolist() == painted.frames(2).offset.tolist()


def crc_sum(manifest: Manifest, queue: "multiprocessing.SimpleQueue[int]") -> None:
    queue.put(sum(int(manifest.frames(row).crc32.sum()) for row in range(len(manifest))))


def test_a_forked_worker_reads_the_manifest_of_its_parent(painted):
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    worker = context.Process(target=crc_sum, args=(painted, queue))
    worker.start()
    found = queue.get()
    worker.join()
    assert found == sum(int(painted.frames(row).crc32.sum()) for row in range(len(painted)))


def test_a_folder_that_is_no_data_set_is_told_how_to_become_one(tmp_path):
    with pytest.raises(
        ValueError, match=r"not a packed data set: there is no dataset\.json.*preprocess pack"
    ):
        Manifest.open(tmp_path)


@pytest.mark.parametrize("table", TABLES)
def test_a_missing_or_cut_table_is_named(copy, table):
    data = (copy / table).read_bytes()
    (copy / table).write_bytes(data[:-1])
    with pytest.raises(
        ValueError, match=f"{table}: expected {len(data):,} bytes, but it has {len(data) - 1:,}"
    ):
        Manifest.open(copy)
    (copy / table).unlink()
    with pytest.raises(ValueError, match=f"{table}: .* it is missing"):
        Manifest.open(copy)


@pytest.mark.parametrize("table", TABLES[:2])
def test_a_changed_byte_in_a_table_is_found_when_it_is_opened(copy, table):
    data = bytearray((copy / table).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / table).write_bytes(data)
    with pytest.raises(ValueError, match=f"{table}: its sha256"):
        Manifest.open(copy)


@pytest.mark.parametrize(
    "name",
    [
        "../../../etc/passwd",
        "/etc/passwd",
        "pipe:touch /tmp/pwned",
        "http://host/x-train-000000-of-000001.tar",
        "a.tar",
        "",
    ],
)
def test_a_shard_is_never_opened_by_a_name_that_leads_elsewhere(copy, name):
    forge(copy, TABLES[0], "name", [name, *pq.read_table(copy / TABLES[0])["name"].to_pylist()[1:]])
    with pytest.raises(ValueError, match="is not the name of a shard"):
        Manifest.open(copy)


@pytest.mark.parametrize("digest", ["", "../../../tmp/x", "A" * 64, "0" * 63])
def test_a_digest_that_is_none_is_refused_because_copies_are_named_by_it(copy, digest):
    forge(copy, TABLES[0], "sha256", [digest, *pq.read_table(copy / TABLES[0])["sha256"].to_pylist()[1:]])
    with pytest.raises(ValueError, match="is not a sha256"):
        Manifest.open(copy)


@pytest.mark.parametrize("table", TABLES[:2])
def test_a_missing_value_is_refused(copy, table):
    for column in pq.read_schema(copy / table).names:
        root = Path(shutil.copytree(copy, copy.parent / column, dirs_exist_ok=True))
        forge(root, table, column, [None, *pq.read_table(root / table)[column].to_pylist()[1:]])
        with pytest.raises(ValueError, match=f"{table}: values are missing in {column}"):
            Manifest.open(root)


@pytest.mark.parametrize(
    ("column", "value", "told"),
    [
        ("key", "train/a.b", "key"),
        ("key", "k" * 89, "key"),
        ("key", "", "key"),
        ("modality", 3, "modality"),
        ("label", -2, "label"),
        ("label", 2**31 - 1, "label"),
        ("height", -1, "width or height"),
        ("offset", -1, "offset or nbytes"),
        ("offset", 2**62, "offset or nbytes"),
        ("nbytes", 0, "offset or nbytes"),
        ("nbytes", 2**40, "offset or nbytes"),
    ],
)
def test_a_value_that_cannot_be_is_refused_with_its_row(copy, column, value, told):
    values = pq.read_table(copy / TABLES[1])[column].to_pylist()
    forge(copy, TABLES[1], column, [*values[:3], value, *values[4:]])
    with pytest.raises(ValueError, match=rf"{TABLES[1]}: row 3: its {told} cannot be"):
        Manifest.open(copy)


@pytest.mark.parametrize("column", ["nbytes", "num_tracklets", "num_frames"])
def test_a_shard_that_holds_nothing_is_refused(copy, column):
    forge(copy, TABLES[0], column, [0, *pq.read_table(copy / TABLES[0])[column].to_pylist()[1:]])
    with pytest.raises(ValueError, match="is said to hold nothing"):
        Manifest.open(copy)


def test_a_word_that_is_no_split_is_refused(copy):
    splits = pq.read_table(copy / TABLES[1])["split"].to_pylist()
    forge(copy, TABLES[1], "split", ["training", *splits[1:]])
    with pytest.raises(ValueError, match=rf"{TABLES[1]}: expected only .*, found \['training'\]"):
        Manifest.open(copy)


@pytest.mark.slow
def test_a_bit_of_the_frames_that_flips_ends_reading_with_the_name_of_the_table_or_of_a_frame(copy):
    """The digest of this table is not looked at when it is opened, because it may be large."""
    path, places = copy / TABLES[2], random.Random(0)
    whole = path.read_bytes()
    edges = [*range(700), *range(len(whole) - 900, len(whole))]
    outcomes = Counter()
    for _ in range(300):
        data = bytearray(whole)
        data[places.choice([*edges, places.randrange(len(whole))])] ^= 1 << places.randrange(8)
        path.unlink()  # what is mapped of the file before stays as it was
        path.write_bytes(data)
        outcomes[outcome_of_reading(copy)] += 1
    assert outcomes.keys() == {str(path), "frame", "read as packed"}


def outcome_of_reading(root: Path) -> str:
    try:
        reader = ShardReader(Manifest.open(root))
        for row in range(len(reader.manifest)):
            reader.read(row, range(int(reader.manifest.num_frames[row])))
    except ValueError as error:
        return str(error).partition(": ")[0]
    except DamagedFrameError:
        return "frame"
    return "read as packed"


@pytest.mark.parametrize("value", [-1, 1, 99])
def test_tracklets_in_a_shard_that_is_not_theirs_are_refused(copy, value):
    shards = pq.read_table(copy / TABLES[1])["shard"].to_pylist()
    forge(copy, TABLES[1], "shard", [value, *shards[1:]])
    with pytest.raises(ValueError, match="contradict each other"):
        Manifest.open(copy)


@pytest.mark.parametrize("claimed", [10**6, 0, -3])
def test_tracklets_that_claim_other_numbers_of_frames_than_there_are_are_refused(copy, claimed):
    counts = pq.read_table(copy / TABLES[1])["num_frames"].to_pylist()
    forge(copy, TABLES[1], "num_frames", [*counts[:-1], claimed])
    with pytest.raises(ValueError, match="contradict each other"):
        Manifest.open(copy)


def test_columns_of_another_kind_are_refused(copy):
    table = pq.read_table(copy / TABLES[1])
    pq.write_table(table.drop_columns(["camera"]), copy / TABLES[1])
    sign(copy)
    with pytest.raises(ValueError, match="expected the columns"):
        Manifest.open(copy)


def write_large(root: Path, num_shards: int, tracklets: int, frames: int) -> None:
    """A manifest of `num_shards * tracklets * frames` frames, without their pixels."""
    (root / "manifest").mkdir(parents=True)
    size = np.full(tracklets * frames, 14_000, dtype=np.int32)
    place = np.arange(tracklets * frames, dtype=np.int64) * 14_848
    names = pa.array(np.char.add("0001/rgb/D1/", np.arange(tracklets * frames).astype(str)).tolist())
    columns = {
        "offset": np.arange(tracklets, dtype=np.int64) * frames * 14_848,
        "nbytes": np.full(tracklets, frames * 14_848, dtype=np.int64),
        "num_frames": np.full(tracklets, frames, dtype=np.int32),
        "width": np.full(tracklets, 144, dtype=np.int32),
        "height": np.full(tracklets, 288, dtype=np.int32),
        "modality": 1 + np.arange(tracklets, dtype=np.int8) % 2,
        "is_gray": np.zeros(tracklets, dtype=bool),
    }
    shard_names = [f"huge-train-{number:06d}-of-{num_shards:06d}.tar" for number in range(num_shards)]
    shard_columns = {
        "name": shard_names,
        "num_tracklets": [tracklets] * num_shards,
        "sha256": ["0" * 64] * num_shards,
        "sidecar_sha256": ["0" * 64] * num_shards,
        "nbytes": [14_848 * tracklets * frames + 10_240] * num_shards,
    }
    shard_columns["num_frames"] = [tracklets * frames] * num_shards
    pq.write_table(filled(SHARDS, num_shards, shard_columns), root / TABLES[0])
    with (
        pq.ParquetWriter(root / TABLES[1], TRACKLETS) as table,
        pa.OSFile(str(root / TABLES[2]), "wb") as file,
        pa.ipc.new_file(file, FRAMES) as of_frames,
    ):
        batch = pa.record_batch(
            [pa.array(place), pa.array(size), pa.array(size.astype(np.uint32)), names], schema=FRAMES
        )
        for number in range(num_shards):
            first = number * tracklets
            rows = columns | {
                "key": [f"train/{first + each:07d}/x" for each in range(tracklets)],
                "identity": np.arange(first, first + tracklets, dtype=np.int32) // 20,
                "shard": np.full(tracklets, number, dtype=np.int32),
            }
            table.write_table(filled(TRACKLETS, tracklets, rows))
            of_frames.write_batch(batch)
    digests = dict.fromkeys(("plan", "pictures"), "0" * 64)
    lists = {name: [] for name in ("notes", "differences", "skipped_frames", "lost_tracklets")}
    content = {
        "name": "huge",
        "synthetic": True,
        "protocol": {"minimum_frames": 12, "mixed": "keep"},
        "source": {"layout": "", "mixed_rows": {}, **lists},
        "options": {},
        "counts": {},
        **digests,
    }
    (root / DESCRIPTION).write_bytes(describe(content, {}))
    sign(root)


def filled(schema: pa.Schema, length: int, columns: dict[str, object]) -> pa.Table:
    """A table of a schema; columns that are not given hold zeros or the first word."""
    words = {"split": "train", "role": "train", "source": "index"}
    arrays = [
        pa.array(columns[field.name], field.type)
        if field.name in columns
        else pa.array(
            [words.get(field.name, "0" if pa.types.is_string(field.type) else 0)] * length, field.type
        )
        for field in schema
    ]
    return pa.table(arrays, schema=schema)


def open_and_measure(root: Path, queue: "multiprocessing.SimpleQueue[tuple[int, float]]") -> None:
    before = private_mebibytes()
    manifest = Manifest.open(root)
    rows = np.random.default_rng(0).integers(0, len(manifest), 2_000)
    total = sum(int(manifest.frames(row).size.sum()) for row in rows)
    queue.put((total, private_mebibytes() - before))


def private_mebibytes() -> float:
    """Memory of this process that is not a mapped file."""
    fields = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["RssAnon"].split()[0]) / 1024


@pytest.mark.slow
def test_twenty_million_frames_open_in_bounded_memory(tmp_path):
    write_large(tmp_path / "huge", num_shards=200, tracklets=5_000, frames=20)
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    worker = context.Process(target=open_and_measure, args=(tmp_path / "huge", queue))
    worker.start()
    total, mebibytes = queue.get()
    worker.join()
    assert total == 2_000 * 20 * 14_000
    assert mebibytes < 400
