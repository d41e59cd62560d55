"""What the writer of a shard notes about it, and the tables that are made of these notes.

    PlannedTracklet, pictures -> TrackletRecord -> ShardRecord -> sidecar of a shard (JSON)
    sidecars, in order -> tables of the manifest -> dataset.json

A record has an attribute for every column of its table, so the columns are named in `reid.data.manifest` alone.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple, Self

import pyarrow as pa
import pyarrow.parquet as pq

from reid.data.manifest import FORMAT, FRAMES, SHARDS, TABLES, TRACKLETS, VERSION, sha256
from reid.types import Modality, Role, Split


class FrameRecord(NamedTuple):
    """One frame of a shard: its path in the raw tree, and the bytes [offset, offset + size) of the tar."""

    name: str
    offset: int
    size: int
    crc32: int


@dataclass(frozen=True, slots=True)
class TrackletRecord:
    """One tracklet of a shard; `shard` is the place of that among all shards."""

    key: str
    split: Split
    role: Role
    identity: int
    label: int
    modality: Modality
    camera: int
    tracklet: int
    source: str
    row: int
    shard: int
    offset: int
    nbytes: int
    width: int
    height: int
    is_gray: bool
    frames: tuple[FrameRecord, ...]

    @property
    def num_frames(self) -> int:
        return len(self.frames)


@dataclass(frozen=True, slots=True)
class ShardRecord:
    """The sidecar of a shard. `plan` says which plan it belongs to, `skipped` which pictures were left out, and why.

    `sidecar_sha256` is that of the file it was read from.
    """

    plan: str
    name: str
    nbytes: int
    sha256: str
    tracklets: tuple[TrackletRecord, ...]
    skipped: tuple[tuple[str, str], ...]
    sidecar_sha256: str = ""

    @property
    def num_tracklets(self) -> int:
        return len(self.tracklets)

    @property
    def num_frames(self) -> int:
        return sum(tracklet.num_frames for tracklet in self.tracklets)

    @property
    def first_key(self) -> str:
        return self.tracklets[0].key

    @property
    def last_key(self) -> str:
        return self.tracklets[-1].key

    def to_json(self) -> bytes:
        written = _fields(self) | {"tracklets": [_fields(tracklet) for tracklet in self.tracklets]}
        del written["sidecar_sha256"]
        return json.dumps(written, separators=(",", ":")).encode() + b"\n"

    @classmethod
    def read(cls, sidecar: Path) -> Self:
        """Raises ValueError if the file is not what `to_json` writes."""
        data = sidecar.read_bytes()
        try:
            read = json.loads(data)
            read["tracklets"] = tuple(_tracklet(each) for each in read["tracklets"])
            read["skipped"] = tuple((str(name), str(reason)) for name, reason in read["skipped"])
            return cls(**read, sidecar_sha256=hashlib.sha256(data).hexdigest())
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{sidecar}: not the sidecar of a shard: {error!r}") from error


def _fields(record: ShardRecord | TrackletRecord) -> dict[str, Any]:
    return {field.name: getattr(record, field.name) for field in fields(record)}


def _tracklet(read: dict[str, Any]) -> TrackletRecord:
    read["split"], read["role"] = Split(read["split"]), Role(read["role"])
    read["modality"] = Modality(read["modality"])
    read["frames"] = tuple(FrameRecord(*frame) for frame in read["frames"])
    return TrackletRecord(**read)


def read_finished(tar: Path, plan: str) -> ShardRecord | None:
    """The record of a shard of this plan, if it is there with its sidecar, which is published after it."""
    sidecar = tar.with_suffix(".json")
    if not (sidecar.is_file() and tar.is_file()):
        return None
    record = ShardRecord.read(sidecar)
    return record if (record.plan, record.nbytes) == (plan, tar.stat().st_size) else None


def write_tables(root: Path, shards: Iterable[ShardRecord]) -> None:
    """Write the tables of the manifest below `root`, from the shards in order.

    Holds one shard at a time, so the memory needed does not grow with the data set.
    """
    paths = [root / table for table in TABLES]
    paths[0].parent.mkdir(exist_ok=True)
    options = {"compression": "zstd", "write_page_checksum": True}
    with (
        pq.ParquetWriter(paths[0], SHARDS, **options) as shard_table,
        pq.ParquetWriter(paths[1], TRACKLETS, **options) as tracklet_table,
        pa.OSFile(str(paths[2]), "wb") as file,
        pa.ipc.new_file(file, FRAMES) as frame_table,
    ):
        for shard in shards:
            shard_table.write_batch(_batch(SHARDS, [shard]))
            tracklet_table.write_batch(_batch(TRACKLETS, shard.tracklets))
            frames = [frame for tracklet in shard.tracklets for frame in tracklet.frames]
            frame_table.write_batch(_batch(FRAMES, frames))


def _batch(schema: Any, records: Sequence[object]) -> Any:
    columns = [pa.array([getattr(record, field.name) for record in records], field.type) for field in schema]
    return pa.record_batch(columns, schema=schema)


def describe(root: Path, content: dict[str, Any]) -> bytes:
    """The bytes of `dataset.json` for the tables that are already below `root`."""
    files = {
        table: {"nbytes": (root / table).stat().st_size, "sha256": sha256(root / table)} for table in TABLES
    }
    return (
        json.dumps({"format": FORMAT, "version": VERSION, **content, "files": files}, indent=2).encode()
        + b"\n"
    )
