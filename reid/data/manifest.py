"""The manifest of a packed data set: what was packed, and where every frame lies. The only file that spells a column.

    ROOT/dataset.json                 the root of trust: name, counts, protocol, digests of the tables below
    ROOT/manifest/shards.parquet      a row a shard
    ROOT/manifest/tracklets.parquet   a row a tracklet, grouped by shard
    ROOT/manifest/frames.arrow        a row a frame, one record batch a shard, mapped into memory and never loaded
    ROOT/shards/NAME.tar, NAME.json   the frames, and what the writer of that shard noted about it

`Manifest.open` -> numpy columns, one entry a tracklet, and `frames(row)`, a view of the mapped file. There is no Python
object per tracklet or frame. Packers fill the schemas below from records whose attributes have the columns' names.
"""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from reid.data.description import DESCRIPTION, SHA256, TABLES, DamagedManifestError, read_description
from reid.data.sources import ByteRanges, LocalFolder, Place, Source
from reid.types import Modality, Role, Split

SHARD_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*-(train|test)-[0-9]{6}-of-[0-9]{6}\.tar", re.ASCII)
KEY = "^[A-Za-z0-9_/-]{1,88}$"  # no dot, which ends a key; with the index of a frame it must fit a plain tar header

_word = pa.dictionary(pa.int8(), pa.string())
# label is -1 outside the training split; width and height are 0 where the frames of a tracklet differ; offset and nbytes
# span all members of a tracklet, headers included; is_gray: every frame was decoded and has R = G = B; source and row
# say which row of which index file it was, and the name of a frame its path in the raw tree, for people who compare
SHARDS = pa.schema(
    [
        ("name", pa.string()),
        ("nbytes", pa.int64()),
        ("sha256", pa.string()),
        ("sidecar_sha256", pa.string()),
        ("num_tracklets", pa.int32()),
        ("num_frames", pa.int32()),
    ]
)
TRACKLETS = pa.schema(
    [
        ("key", pa.string()),
        ("split", _word),
        ("role", _word),
        ("identity", pa.int32()),
        ("label", pa.int32()),
        ("modality", pa.int8()),
        ("camera", pa.int16()),
        ("tracklet", pa.int32()),
        ("source", _word),
        ("row", pa.int32()),
        ("shard", pa.int32()),
        ("offset", pa.int64()),
        ("nbytes", pa.int64()),
        ("num_frames", pa.int32()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("is_gray", pa.bool_()),
    ]
)
FRAMES = pa.schema(
    [("offset", pa.int64()), ("size", pa.int32()), ("crc32", pa.uint32()), ("name", pa.string())]
)


def sha256(path: Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class FrameTable(NamedTuple):
    """Where the n frames of a tracklet lie: bytes [offset, offset + size) of `shard`, with their checksums."""

    shard: Path
    offset: NDArray[np.int64]
    size: NDArray[np.int32]
    crc32: NDArray[np.uint32]


class ShardInfo(NamedTuple):
    """A shard as the manifest knows it. Its tracklets are the rows [first_row, first_row + num_tracklets)."""

    path: Path
    nbytes: int
    sha256: str
    sidecar_sha256: str
    first_row: int
    num_tracklets: int
    num_frames: int


class Manifest:
    """A packed data set, opened for reading.

    Columns have one entry a tracklet: `identity`, `label` (0..M-1 over the sorted identities of the training split, -1
    outside it), `modality`, `camera`, `tracklet`, `num_frames`, `width` and `height` in pixels (0 where frames differ),
    `is_gray`, `shard`, `offset`, `nbytes`, and `split` and `role` as positions in `list(Split)` and `list(Role)`.

    Safe to use in forked workers; pickled, it is opened again from its root.
    """

    def __init__(
        self,
        root: Path,
        description: dict[str, Any],
        digest: str,
        source: Source | None = None,
        tables: Sequence[Path] | None = None,
    ) -> None:
        self.root = root
        self._source = source or LocalFolder(root)
        self.description = description
        self.digest = digest
        self.name: str = description["name"]
        self.synthetic: bool = description["synthetic"]
        self.counts: dict[str, Any] = description["counts"]
        self.minimum_frames: int = description["protocol"]["minimum_frames"]
        of_shards, of_tracklets, self._of_frames = tables or [root / table for table in TABLES]
        self.shards = _read_shards(of_shards, root)
        table = _read_table(of_tracklets, TRACKLETS)
        self._key = table["key"]
        self.split = _codes(table["split"], [split.value for split in Split], of_tracklets)
        self.role = _codes(table["role"], [role.value for role in Role], of_tracklets)
        self.identity: NDArray[np.int32] = table["identity"].to_numpy()
        self.label: NDArray[np.int32] = table["label"].to_numpy()
        self.modality: NDArray[np.int8] = table["modality"].to_numpy()
        self.camera: NDArray[np.int16] = table["camera"].to_numpy()
        self.tracklet: NDArray[np.int32] = table["tracklet"].to_numpy()
        self.shard: NDArray[np.int32] = table["shard"].to_numpy()
        self.offset: NDArray[np.int64] = table["offset"].to_numpy()
        self.nbytes: NDArray[np.int64] = table["nbytes"].to_numpy()
        self.num_frames: NDArray[np.int32] = table["num_frames"].to_numpy()
        self.width: NDArray[np.int32] = table["width"].to_numpy()
        self.height: NDArray[np.int32] = table["height"].to_numpy()
        self.is_gray: NDArray[np.bool_] = table["is_gray"].to_numpy(zero_copy_only=False)
        self.num_identities = int(self.label.max(initial=-1)) + 1
        self._first_frame = self._place_frames()
        self._check_rows(of_tracklets)
        self._frames = _map_frames(self._of_frames, len(self.shards))
        self._views: dict[int, tuple[Any, ...]] = {}

    @classmethod
    def open(cls, root: Path, source: Source | None = None) -> Self:
        """Open the packed data set at `root`; the small tables are checked against their digests.

        The shards are those of `source`, by default those below `root`.

        Raises ValueError if there is none, or one of another version, DamagedManifestError if it is damaged.
        """
        root = Path(root)
        return cls.described(root, *read_description(root), source)

    @classmethod
    def described(
        cls,
        root: Path,
        description: dict[str, Any],
        digest: str,
        source: Source | None = None,
        tables: Sequence[Path] | None = None,
    ) -> Self:
        """The same, by a description that was read already, and with `tables` that need not be below `root`."""
        tables = tables or [root / table for table in TABLES]
        for name, path in zip(TABLES, tables, strict=True):
            expected = description["files"][name]
            size = path.stat().st_size if path.is_file() else None
            if size != expected["nbytes"]:
                found = "it is missing" if size is None else f"it has {size:,}"
                raise DamagedManifestError(path, f"expected {expected['nbytes']:,} bytes, but {found}")
            if name != TABLES[2] and sha256(path) != expected["sha256"]:
                raise DamagedManifestError(path, f"its sha256 is not the one {DESCRIPTION} names")
        return cls(root, description, digest, source, tables)

    def __reduce__(self) -> tuple[Any, ...]:
        return Manifest.open, (self.root, self._source)

    def __len__(self) -> int:
        return len(self.identity)

    def rows(
        self, role: Role, modality: Modality | None = None, minimum_frames: int | None = None
    ) -> NDArray[np.int64]:
        """The rows of a role, in manifest order, that have at least `minimum_frames` frames (None: the manifest's)."""
        minimum = self.minimum_frames if minimum_frames is None else minimum_frames
        chosen = (self.role == list(Role).index(role)) & (self.num_frames >= minimum)
        if modality is not None:
            chosen &= self.modality == modality
        return np.flatnonzero(chosen)

    @property
    def place(self) -> Place:
        """Where the data set is: a path or an address."""
        return self._source.place

    def open_shard(self, number: int) -> ByteRanges:
        """Open a shard for reading by ranges, from wherever this data set has it. Raises SourceError."""
        shard = self.shards[number]
        return self._source.open(f"shards/{shard.path.name}", shard.nbytes, shard.sha256)

    def key(self, row: int) -> str:
        """The key of a tracklet: the name of its members up to the first dot."""
        return str(self._key[int(row)].as_py())

    def frames(self, row: int) -> FrameTable:
        """Where the frames of a tracklet lie: views of the mapped table, in O(1). Raises DamagedManifestError."""
        number = int(self.shard[row])
        if number not in self._views:
            self._views[number] = self._view(number)
        first = int(self._first_frame[row])
        part = slice(first, first + int(self.num_frames[row]))
        offset, size, crc32 = self._views[number]
        return FrameTable(self.shards[number].path, offset[part], size[part], crc32[part])

    def _view(self, number: int) -> tuple[Any, ...]:
        """Offsets, sizes and checksums of all frames of a shard."""
        shard = self.shards[number]
        try:
            batch = self._frames.get_batch(number)
            batch.validate()
            offset, size, crc32 = (batch[name].to_numpy() for name in FRAMES.names[:3])
        except (pa.ArrowException, OSError, ValueError) as error:
            raise _unreadable(self._of_frames, error) from error
        if batch.num_rows != shard.num_frames:
            raise DamagedManifestError(
                self._of_frames,
                f"expected {shard.num_frames} frames of {shard.path.name}, found {batch.num_rows}",
            )
        within = (offset >= 0) & (size > 0) & (size <= shard.nbytes - offset)
        if not within.all():
            place = int(within.argmin())
            raise DamagedManifestError(
                self._of_frames,
                f"a frame of {size[place]} bytes at byte {offset[place]} of {shard.path.name}, which has {shard.nbytes:,}",
            )
        return offset, size, crc32

    def _place_frames(self) -> NDArray[np.int64]:
        """The place of each tracklet's first frame in the record batch of its shard. (rows,)"""
        num_tracklets = [shard.num_tracklets for shard in self.shards]
        ends = np.cumsum(self.num_frames, dtype=np.int64)
        starts = ends - self.num_frames
        agree = sum(num_tracklets) == len(self) > 0 and (self.num_frames > 0).all()
        if agree:
            owner = np.repeat(np.arange(len(self.shards)), num_tracklets)
            firsts = starts[[shard.first_row for shard in self.shards]]
            claimed = [shard.num_frames for shard in self.shards]
            agree = (
                np.array_equal(self.shard, owner) and np.diff(firsts, append=ends[-1:]).tolist() == claimed
            )
        if not agree:
            raise DamagedManifestError(self.root, "the tables of the manifest contradict each other")
        return starts - firsts[self.shard]

    def _check_rows(self, table: Path) -> None:
        """Whether the columns hold what they can hold. Raises DamagedManifestError that names the first row which does not."""
        room = np.array([shard.nbytes for shard in self.shards])[self.shard] - self.offset
        checks = {
            "key": pc.match_substring_regex(self._key, KEY).to_numpy(zero_copy_only=False),
            "modality": np.isin(self.modality, list(Modality)),
            "label": (self.label >= -1) & (self.label < len(self)),
            "width or height": (self.width >= 0) & (self.height >= 0),
            "offset or nbytes": (self.offset >= 0) & (self.nbytes > 0) & (self.nbytes <= room),
        }
        for column, holds in checks.items():
            if not holds.all():
                raise DamagedManifestError(table, f"row {int(holds.argmin())}: its {column} cannot be")


def _unreadable(table: Path, error: Exception) -> DamagedManifestError:
    reason, *_ = str(error).split("\n")
    return DamagedManifestError(table, f"cannot be read: {reason}")


def _read_table(path: Path, schema: Any) -> dict[str, Any]:
    try:
        # read_table takes half as long again
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            table = file.read().combine_chunks()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    if not table.schema.equals(schema, check_metadata=False):
        raise DamagedManifestError(path, f"expected the columns {schema.names}, found {table.schema.names}")
    columns = {name: table[name].combine_chunks() for name in schema.names}
    empty = [name for name, column in columns.items() if column.null_count]
    if empty:
        raise DamagedManifestError(path, f"values are missing in {', '.join(empty)}")
    return columns


def _read_shards(path: Path, root: Path) -> list[ShardInfo]:
    columns = {name: array.to_pylist() for name, array in _read_table(path, SHARDS).items()}
    shards: list[ShardInfo] = []
    first_row = 0
    for number, name in enumerate(columns["name"]):
        of_shard = {column: values[number] for column, values in columns.items()}
        if not SHARD_NAME.fullmatch(name):
            raise DamagedManifestError(path, f"{name!r} is not the name of a shard")
        for digest in (of_shard["sha256"], of_shard["sidecar_sha256"]):
            if not SHA256.fullmatch(digest):
                raise DamagedManifestError(path, f"{digest!r} is not a sha256")
        if min(of_shard["nbytes"], of_shard["num_tracklets"], of_shard["num_frames"]) < 1:
            raise DamagedManifestError(path, f"{name} is said to hold nothing")
        place = root / "shards" / of_shard.pop("name")
        shards.append(ShardInfo(path=place, first_row=first_row, **of_shard))
        first_row += of_shard["num_tracklets"]
    return shards


def _codes(column: Any, words: list[str], table: Path) -> NDArray[np.int8]:
    """A column of words as positions in `words`."""
    strange = set(column.dictionary.to_pylist()) - set(words)
    if strange:
        raise DamagedManifestError(table, f"expected only {words}, found {sorted(map(str, strange))}")
    positions = np.array([words.index(word) for word in column.dictionary.to_pylist()], dtype=np.int8)
    codes: NDArray[np.int8] = positions[column.indices.to_numpy()]
    return codes


def _map_frames(path: Path, num_shards: int) -> Any:
    try:
        reader = pa.ipc.open_file(pa.memory_map(str(path), "r"))
        as_expected = reader.num_record_batches == num_shards and reader.schema == FRAMES
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    if not as_expected:
        raise DamagedManifestError(path, f"expected a batch of frames for each of {num_shards} shards")
    return reader
