"""Frames by offset: every kind of damage is named before a frame is used, and by whoever compares the whole shard."""

import multiprocessing
import pickle
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from preprocess.contents import content_damage
from reid.data import shards as shards_module
from reid.data.manifest import FrameTable, Manifest
from reid.data.shards import DamagedFrameError, DamagedShardError, ShardReader, frame_members
from reid.data.ustar import BLOCK
from tests.impostors import make_device, make_fifo, make_folder


@pytest.fixture
def damaged(painted_root: Path, tmp_path: Path) -> Manifest:
    """A copy that may be damaged."""
    root = Path(shutil.copytree(painted_root, tmp_path / "copy"))
    manifest = Manifest.open(root)
    for shard in manifest.shards:
        shard.path.chmod(0o644)
    return manifest


@pytest.fixture
def reader(painted):
    reader = ShardReader(painted)
    yield reader
    reader.close()


def test_chosen_frames_come_in_the_order_asked_for(painted, reader):
    frames = reader.read(2, range(12))
    assert reader.read(2, [7, 0, 7]) == [frames[7], frames[0], frames[7]]
    assert reader.read(2, np.array([3])) == [frames[3]]


def test_telling_what_comes_next_changes_nothing_that_is_read(painted, reader):
    expected = reader.read(1, [0, 2])
    reader.will_need([(1, [0, 2]), (5, np.array([1]))])
    assert reader.read(1, [0, 2]) == expected


def read_in_child(reader: ShardReader, queue: "multiprocessing.SimpleQueue[list[bytes]]") -> None:
    for _ in range(50):
        frames = reader.read(4, range(12))
    queue.put(frames)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_read_with_the_reader_of_their_parent(painted, reader, method):
    context = multiprocessing.get_context(method)
    expected = reader.read(4, range(12))
    queue = context.SimpleQueue()
    workers = [context.Process(target=read_in_child, args=(reader, queue)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for _ in range(50):
        assert reader.read(4, range(12)) == expected
    assert [queue.get() for _ in workers] == [expected, expected]
    for worker in workers:
        worker.join()


def num_open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_open_shards_are_bounded_and_closed(painted, monkeypatch):
    monkeypatch.setattr(shards_module, "OPEN_SHARDS", 1)
    before = num_open_files()
    reader = ShardReader(painted)
    for row in (0, len(painted) - 1, 0, len(painted) - 1):
        reader.read(row, [0])
        assert num_open_files() <= before + 1
    reader.close()
    assert num_open_files() == before


def test_member_names_sort_in_the_order_of_filming():
    for num_frames in (1, 24, 1_000, 1_001, 12_345):
        names = frame_members("key", num_frames)
        assert names == sorted(names)
        assert len(names) == num_frames
    assert frame_members("key", 24)[7] == "key.007.jpg"


def change(path: Path, edit: Callable[[bytearray], bytes | bytearray | None]) -> None:
    data = bytearray(path.read_bytes())
    path.write_bytes(edit(data) or data)


def header_of(manifest: Manifest, row: int, index: int) -> int:
    """Where the header of a frame begins."""
    return int(manifest.frames(row).offset[index]) - BLOCK


def flip(place: int) -> Callable[[bytearray], None]:
    def edit(data: bytearray) -> None:
        data[place] ^= 0x10

    return edit


def zero(start: int, length: int) -> Callable[[bytearray], None]:
    def edit(data: bytearray) -> None:
        data[start : start + length] = bytes(length)

    return edit


def cut(length: int) -> Callable[[bytearray], bytearray]:
    return lambda data: data[:length]


def evil_header(**fields: object) -> bytes:
    info = tarfile.TarInfo("train/00001/visible-c01-000001.002.jpg")
    for name, value in fields.items():
        setattr(info, name, value)
    return info.tobuf(tarfile.GNU_FORMAT)[-BLOCK:]


def replaced(place: int, header: bytes) -> Callable[[bytearray], None]:
    def edit(data: bytearray) -> None:
        data[place : place + BLOCK] = header

    return edit


def inserted(place: int, data_in: bytes) -> Callable[[bytearray], bytearray]:
    return lambda data: data[:place] + data_in + data[place:]


def pax_record() -> bytes:
    """A PAX header that renames the member after it, as an attack would."""
    info = tarfile.TarInfo("x" * 20)
    info.pax_headers = {"path": "../../../../tmp/escaped"}
    return info.tobuf(tarfile.PAX_FORMAT)[: 2 * BLOCK]


def doubled(start: int, end: int) -> Callable[[bytearray], bytearray]:
    return lambda data: data[:end] + data[start:end] + data[end:]


def removed(start: int, end: int) -> Callable[[bytearray], bytearray]:
    return lambda data: data[:start] + data[end:] + bytes(end - start)


def swapped(start: int, middle: int, end: int) -> Callable[[bytearray], bytearray]:
    return lambda data: data[:start] + data[middle:end] + data[start:middle] + data[end:]


ROW = 3


def damages(manifest: Manifest) -> dict[str, Callable[[bytearray], bytes | bytearray | None]]:
    """All kinds of damage to a tar, each put at frame 2 of row 3, or next to it."""
    here, following = header_of(manifest, ROW, 2), header_of(manifest, ROW, 3)
    sample = int(manifest.offset[ROW])
    end = sample + int(manifest.nbytes[ROW])
    size = int(manifest.frames(ROW).size[2])
    return {
        "cut in a header": cut(here + 100),
        "cut between members": cut(here),
        "cut at the boundary of a sample": cut(end),
        "cut inside a payload": cut(here + BLOCK + size // 2),
        "flipped byte in a payload": flip(here + BLOCK + size // 2),
        "flipped byte in a header": flip(here + 3),
        "flipped byte in a checksum": flip(here + 150),
        "flipped byte in the padding": flip(here + BLOCK + size),
        "PAX record": inserted(here, pax_record()),
        "zeroed block": zero(here, BLOCK),
        "zeroed page": zero(here // 4096 * 4096 + 4096, 4096),
        "missing member": removed(here, following),
        "doubled member": doubled(here, following),
        "swapped members": swapped(here, following, header_of(manifest, ROW, 4)),
        "description of another tracklet": flip(sample + BLOCK + 20),
        "path out of the archive": replaced(here, evil_header(name="../../../../tmp/escaped", size=size)),
        "absolute path": replaced(here, evil_header(name="/tmp/escaped", size=size)),
        "symbolic link": replaced(here, evil_header(type=tarfile.SYMTYPE, linkname="/etc/passwd")),
        "hard link": replaced(here, evil_header(type=tarfile.LNKTYPE, linkname="/etc/passwd")),
        "device": replaced(here, evil_header(type=tarfile.CHRTYPE, devmajor=1, devminor=5)),
        "pipe": replaced(here, evil_header(type=tarfile.FIFOTYPE)),
        "sparse file": replaced(here, evil_header(type=tarfile.GNUTYPE_SPARSE, size=size)),
        "size that lies": replaced(here, evil_header(size=1 << 60)),
        "pickle by extension": replaced(
            here, evil_header(name="train/00001/visible-c01-000001.pyd", size=size)
        ),
        "goes on behind its end": lambda data: data + b"\0" * BLOCK,
        "something behind the last member": lambda data: data[:-BLOCK] + b"\1" + data[-BLOCK + 1 :],
    }


KINDS = [
    *("cut in a header", "cut between members", "cut at the boundary of a sample", "cut inside a payload"),
    *("flipped byte in a payload", "flipped byte in a header", "flipped byte in a checksum"),
    *("flipped byte in the padding", "PAX record", "zeroed block", "zeroed page"),
    *("missing member", "doubled member", "swapped members", "description of another tracklet"),
    *(
        "path out of the archive",
        "absolute path",
        "symbolic link",
        "hard link",
        "device",
        "pipe",
        "sparse file",
    ),
    *("size that lies", "pickle by extension", "goes on behind its end", "something behind the last member"),
]


def test_all_kinds_of_damage_are_listed(painted):
    assert list(damages(painted)) == KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_comparing_a_whole_shard_names_every_damage_where_it_is(damaged, kind):
    shard = damaged.shards[0]
    assert list(content_damage(damaged, 0, False, lambda _: None)) == []
    change(shard.path, damages(damaged)[kind])
    first, *_ = content_damage(damaged, 0, False, lambda _: None)
    assert first.file == f"shards/{shard.path.name}"
    assert first.reason
    if "behind" not in kind:
        assert first.key in {damaged.key(ROW), damaged.key(ROW + 1)}
    assert first.offset >= damaged.offset[ROW]


@pytest.mark.parametrize(
    "kind", ["cut inside a payload", "flipped byte in a payload", "zeroed page", "PAX record"]
)
def test_a_reader_by_offset_names_shard_tracklet_and_byte(damaged, kind):
    shard = damaged.shards[0].path
    change(shard, damages(damaged)[kind])
    reader = ShardReader(damaged)
    with pytest.raises(DamagedShardError, match="tracklet train/") as caught:
        list(map(reader.read, (ROW, ROW + 1), (range(12), range(12))))
    assert caught.value.shard == shard
    assert caught.value.key in {damaged.key(ROW), damaged.key(ROW + 1)}
    assert caught.value.offset in {
        *damaged.frames(ROW).offset.tolist(),
        *damaged.frames(ROW + 1).offset.tolist(),
    }
    reader.close()


HARMS_FRAMES = ("cut", "payload", "PAX", "page", "missing", "doubled", "swapped")


@pytest.mark.parametrize("kind", KINDS)
def test_a_reader_by_offset_gives_the_bytes_that_were_packed_or_none(painted, damaged, reader, kind):
    """Headers and padding it never looks at, so damage there costs it nothing."""
    shard = damaged.shards[0]
    change(shard.path, damages(damaged)[kind])
    of_damaged = ShardReader(damaged)
    harmed, told = [], []
    for row in range(shard.num_tracklets):
        for index, offset in enumerate(painted.frames(row).offset.tolist()):
            try:
                assert of_damaged.read(row, [index]) == reader.read(row, [index])
            except DamagedFrameError as error:
                harmed.append((shard.path, painted.key(row), offset))
                told.append((error.shard, error.key, error.offset))
    of_damaged.close()
    assert told == harmed
    assert (len(harmed) > 0) == any(word in kind for word in HARMS_FRAMES)


def test_damage_survives_the_way_from_a_worker_to_its_parent():
    error = DamagedShardError(Path("x.tar"), "train/1", 512, "because")
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error)
    assert (again.shard, again.key, again.offset, again.reason) == (Path("x.tar"), "train/1", 512, "because")


@pytest.mark.timeout(30)
@pytest.mark.parametrize("replace", [Path.unlink, make_fifo, make_folder, make_device])
def test_a_shard_that_is_no_file_is_an_error_and_not_a_wait(damaged, replace):
    replace(damaged.shards[0].path)
    reader = ShardReader(damaged)
    with pytest.raises(DamagedShardError, match=r"cannot be opened|not a regular file"):
        reader.read(0, [0])


@pytest.mark.parametrize(("size", "offset"), [(2**31 - 1, 512), (0, 512), (-5, 512), (100, -1)])
def test_a_manifest_that_lies_about_a_frame_costs_no_memory(damaged, monkeypatch, size, offset):
    honest = damaged.frames(0)
    lie = FrameTable(honest.shard, np.array([offset]), np.array([size], dtype=np.int32), honest.crc32[:1])
    monkeypatch.setattr(damaged, "frames", lambda row: lie)
    reader = ShardReader(damaged)
    with pytest.raises(DamagedShardError, match="the manifest claims a frame of"):
        reader.read(0, [0])
    reader.close()
