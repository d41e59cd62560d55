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
import json
import re
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from reid.data.sources import ByteRanges, LocalFolder, Place, Source
from reid.types import Modality, Role, Split

FORMAT = "reid-video packed data set"
VERSION = 1
DESCRIPTION = "dataset.json"
TABLES = ("manifest/shards.parquet", "manifest/tracklets.parquet", "manifest/frames.arrow")
SHARD_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*-(train|test)-[0-9]{6}-of-[0-9]{6}\.tar", re.ASCII)
SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
LARGEST_DESCRIPTION = 64 << 20

_word = pa.dictionary(pa.int8(), pa.string())
# label is -1 outside the training split; width and height are 0 where the frames of a tracklet differ; offset and nbytes
# span all members of a tracklet, headers included; is_gray: every frame was decoded and has R = G = B
SHARDS = pa.schema(
    [
        ("name", pa.string()),
        ("nbytes", pa.int64()),
        ("sha256", pa.string()),
        ("sidecar_sha256", pa.string()),
        ("num_tracklets", pa.int32()),
        ("num_frames", pa.int32()),
        ("first_key", pa.string()),
        ("last_key", pa.string()),
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
        self, root: Path, description: dict[str, Any], digest: str, source: Source | None = None
    ) -> None:
        self.root = root
        self._source = source or LocalFolder(root)
        self.description = description
        self.digest = digest
        self.name: str = description["name"]
        self.synthetic: bool = description["synthetic"]
        self.counts: dict[str, Any] = description["counts"]
        self.minimum_frames: int = description["protocol"]["minimum_frames"]
        self.shards = _read_shards(root)
        table = _read_table(root / TABLES[1], TRACKLETS)
        self._key = table["key"]
        self.split = _codes(table["split"], [split.value for split in Split])
        self.role = _codes(table["role"], [role.value for role in Role])
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
        self._row_table = table
        self._first_frame = self._place_frames()
        self._frames = _map_frames(root / TABLES[2], len(self.shards))
        self._views: dict[int, tuple[Any, ...]] = {}

    @classmethod
    def open(cls, root: Path, source: Source | None = None) -> Self:
        """Open the packed data set at `root`; the small tables are checked against their digests.

        The shards are those of `source`, by default those below `root`.

        Raises ValueError if there is none, if it is of another version, or if a table is damaged.
        """
        root = Path(root)
        description, digest = read_description(root)
        for table in TABLES:
            expected = description["files"][table]
            size = (root / table).stat().st_size if (root / table).is_file() else None
            if size != expected["nbytes"]:
                found = "it is missing" if size is None else f"it has {size:,}"
                raise ValueError(
                    f"{root / table}: expected {expected['nbytes']:,} bytes, but {found}. {_REMEDY}"
                )
            if table != TABLES[2] and sha256(root / table) != expected["sha256"]:
                raise ValueError(f"{root / table}: its sha256 is not the one {DESCRIPTION} names. {_REMEDY}")
        try:
            return cls(root, description, digest, source)
        except (pa.ArrowException, KeyError, IndexError) as error:
            raise ValueError(f"{root}: the manifest cannot be read: {error}. {_REMEDY}") from error

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

    def origin(self, row: int) -> tuple[str, int]:
        """The index file of the raw tree that a tracklet was read from, and its 1-based row there."""
        return self._row_table["source"][int(row)].as_py(), self._row_table["row"][int(row)].as_py()

    def frames(self, row: int) -> FrameTable:
        """Where the frames of a tracklet lie: views of the mapped table, in O(1)."""
        offset, size, crc32, _, part = self._frames_of(row)
        return FrameTable(self.shards[int(self.shard[row])].path, offset[part], size[part], crc32[part])

    def frame_names(self, row: int) -> list[str]:
        """The paths that the frames of a tracklet had in the raw tree."""
        *_, names, part = self._frames_of(row)
        return list(names[part].to_pylist())

    def _frames_of(self, row: int) -> tuple[Any, ...]:
        number = int(self.shard[row])
        if number not in self._views:
            batch = self._frames.get_batch(number)
            if batch.num_rows != self.shards[number].num_frames:
                raise ValueError(
                    f"{self.root / TABLES[2]}: expected {self.shards[number].num_frames} frames of "
                    f"{self.shards[number].path.name}, found {batch.num_rows}. {_REMEDY}"
                )
            offset, size, crc32 = (batch[name].to_numpy() for name in FRAMES.names[:3])
            self._views[number] = (offset, size, crc32, batch["name"])
        first = int(self._first_frame[row])
        return *self._views[number], slice(first, first + int(self.num_frames[row]))

    def _place_frames(self) -> NDArray[np.int64]:
        """The place of each tracklet's first frame in the record batch of its shard. (rows,)"""
        owner = np.repeat(np.arange(len(self.shards)), [shard.num_tracklets for shard in self.shards])
        ends = np.cumsum(self.num_frames, dtype=np.int64)
        starts = ends - self.num_frames
        firsts = starts[[shard.first_row for shard in self.shards]]
        claimed = [shard.num_frames for shard in self.shards]
        agree = np.array_equal(self.shard, owner) and np.diff(firsts, append=ends[-1:]).tolist() == claimed
        if not agree or (self.num_frames < 1).any():
            raise ValueError(f"{self.root}: the tables of the manifest contradict each other. {_REMEDY}")
        return starts - firsts[self.shard]


_REMEDY = "Run `python -m preprocess verify` on it, and pack it again if it is damaged."


def read_description(root: Path) -> tuple[dict[str, Any], str]:
    """The content of `dataset.json` and its sha256. Raises ValueError if `root` is no packed data set."""
    path = root / DESCRIPTION
    if not path.is_file():
        raise ValueError(
            f"{root} is not a packed data set: there is no {DESCRIPTION}. Make one from a raw tree with "
            f"`python -m preprocess pack SOURCE {root}`."
        )
    if path.stat().st_size > LARGEST_DESCRIPTION:
        raise ValueError(f"{path}: larger than {LARGEST_DESCRIPTION:,} bytes; this is not a packed data set.")
    data = path.read_bytes()
    try:
        fields = json.loads(data)
        known = fields["format"] == FORMAT
        version = fields["version"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path}: not the description of a packed data set ({error!r}). {_REMEDY}"
        ) from error
    if not known or version != VERSION:
        raise ValueError(
            f"{path}: expected format {FORMAT!r} version {VERSION}, found {fields['format']!r} version {version}. "
            "Pack the raw tree again with this version of the program."
        )
    try:
        _check_description(fields)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path}: a field is missing or of a wrong kind ({error!r}). {_REMEDY}") from error
    return fields, hashlib.sha256(data).hexdigest()


def _check_description(fields: dict[str, Any]) -> None:
    kinds = {"name": str, "synthetic": bool, "counts": dict, "protocol": dict, "files": dict}
    for name, kind in kinds.items():
        if not isinstance(fields[name], kind):
            raise TypeError(f"{name} is not a {kind.__name__}")
    if not isinstance(fields["protocol"]["minimum_frames"], int):
        raise TypeError("protocol.minimum_frames is not an int")
    for table in TABLES:
        if not isinstance(fields["files"][table]["nbytes"], int):
            raise TypeError(f"files.{table}.nbytes is not an int")


def _read_table(path: Path, schema: Any) -> dict[str, Any]:
    with pq.ParquetFile(path, page_checksum_verification=True) as file:  # read_table takes half as long again
        table = file.read().combine_chunks()
    if not table.schema.equals(schema, check_metadata=False):
        raise ValueError(
            f"{path}: expected the columns {schema.names}, found {table.schema.names}. {_REMEDY}"
        )
    return {name: table[name].combine_chunks() for name in schema.names}


def _read_shards(root: Path) -> list[ShardInfo]:
    columns = {name: array.to_pylist() for name, array in _read_table(root / TABLES[0], SHARDS).items()}
    shards: list[ShardInfo] = []
    first_row = 0
    for number, name in enumerate(columns["name"]):
        if not SHARD_NAME.fullmatch(name):
            raise ValueError(f"{root / TABLES[0]}: {name!r} is not the name of a shard. {_REMEDY}")
        if not SHA256.fullmatch(columns["sha256"][number]):
            raise ValueError(f"{root / TABLES[0]}: {columns['sha256'][number]!r} is not a sha256. {_REMEDY}")
        num_tracklets = columns["num_tracklets"][number]
        shards.append(
            ShardInfo(
                root / "shards" / name,
                columns["nbytes"][number],
                columns["sha256"][number],
                columns["sidecar_sha256"][number],
                first_row,
                num_tracklets,
                columns["num_frames"][number],
            )
        )
        first_row += num_tracklets
    return shards


def _codes(column: Any, words: list[str]) -> NDArray[np.int8]:
    """A column of words as positions in `words`."""
    positions = np.array([words.index(word) for word in column.dictionary.to_pylist()], dtype=np.int8)
    codes: NDArray[np.int8] = positions[column.indices.to_numpy()]
    return codes


def _map_frames(path: Path, num_shards: int) -> Any:
    reader = pa.ipc.open_file(pa.memory_map(str(path), "r"))
    if reader.num_record_batches != num_shards or not reader.schema.equals(FRAMES):
        raise ValueError(f"{path}: expected a batch of frames for each of {num_shards} shards. {_REMEDY}")
    return reader
