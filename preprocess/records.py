"""What the writer of a shard notes about it, and the tables that are made of these notes.

    PlannedTracklet, pictures -> TrackletRecord -> ShardRecord -> sidecar of a shard (JSON, with a digest of itself)
    sidecars, in order -> tables of the manifest -> dataset.json

A record has an attribute for every column of its table, so the columns are named in `reid.data.manifest` alone.
"""

import hashlib
import json
import logging
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple, Self

import pyarrow as pa
import pyarrow.parquet as pq

from preprocess.plan import Plan, PlannedShard
from preprocess.publish import whole_file
from reid.data.description import FORMAT, TABLES, VERSION, sealed, unsealed
from reid.data.manifest import FRAMES, SHARDS, TRACKLETS
from reid.types import Modality, Role, Split

ROW_GROUP = 1 << 20

log = logging.getLogger(__name__)


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
    """The sidecar of a shard. `plan` and `pictures` say which plan it belongs to, and of which paths and sizes it was made,
    `skipped` which pictures were left out, and why.

    `sidecar_sha256` is that of the file it was read from.
    """

    plan: str
    synthetic: bool
    pictures: str
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

    def to_json(self) -> bytes:
        written = _fields(self) | {"tracklets": [_fields(tracklet) for tracklet in self.tracklets]}
        del written["sidecar_sha256"]
        return sealed(json.dumps(written, separators=(",", ":")))

    @classmethod
    def read(cls, sidecar: Path) -> Self:
        """Raises ValueError if the file cannot be read, or is not what `to_json` writes."""
        try:
            data = sidecar.read_bytes()
            read = unsealed(data)
            read["tracklets"] = tuple(_tracklet(each) for each in read["tracklets"])
            read["skipped"] = tuple((str(name), str(reason)) for name, reason in read["skipped"])
            return cls(**read, sidecar_sha256=hashlib.sha256(data).hexdigest())
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{sidecar}: not the sidecar of a shard: {error}") from error


def _fields(record: ShardRecord | TrackletRecord) -> dict[str, Any]:
    return {field.name: getattr(record, field.name) for field in fields(record)}


def _tracklet(read: dict[str, Any]) -> TrackletRecord:
    read["split"], read["role"] = Split(read["split"]), Role(read["role"])
    read["modality"] = Modality(read["modality"])
    read["frames"] = tuple(FrameRecord(*frame) for frame in read["frames"])
    return TrackletRecord(**read)


def read_finished(folder: Path, plan: Plan, shard: PlannedShard) -> ShardRecord | None:
    """The record of a shard, if it is there as planned, with its sidecar, which is published after it.

    A sidecar that cannot be read is none.
    """
    tar = folder / shard.name
    sidecar = tar.with_suffix(".json")
    if not (sidecar.is_file() and tar.is_file()):
        return None
    try:
        record = ShardRecord.read(sidecar)
    except ValueError as error:
        log.warning("%s. The shard is written anew.", error)
        return None
    planned = (plan.id, shard.pictures, tar.stat().st_size)
    return record if (record.plan, record.pictures, record.nbytes) == planned else None


def write_tables(root: Path, shards: Iterable[ShardRecord]) -> dict[str, dict[str, Any]]:
    """Write the tables of the manifest below `root`, from the shards in order. Returns what `dataset.json` says of them.

    Holds the frames of one shard and the tracklets of a row group at a time, so the memory needed hardly grows with the
    data set. Row groups are few, because opening takes a while for each.
    """
    (root / TABLES[0]).parent.mkdir(exist_ok=True)
    options = {"compression": "zstd", "write_page_checksum": True}
    with ExitStack() as stack:
        files = [stack.enter_context(whole_file(root / table)) for table in TABLES]
        with (
            pq.ParquetWriter(files[0], SHARDS, **options) as shard_table,
            pq.ParquetWriter(files[1], TRACKLETS, **options) as tracklet_table,
            pa.ipc.new_file(files[2], FRAMES) as frame_table,
        ):
            of_shards: list[Any] = []
            of_tracklets: list[Any] = []
            for shard in shards:
                frames = [frame for tracklet in shard.tracklets for frame in tracklet.frames]
                frame_table.write_batch(_batch(FRAMES, frames))
                of_shards.append(_batch(SHARDS, [shard]))
                of_tracklets.append(_batch(TRACKLETS, shard.tracklets))
                if sum(batch.num_rows for batch in of_tracklets) >= ROW_GROUP:
                    tracklet_table.write_table(pa.Table.from_batches(of_tracklets))
                    of_tracklets.clear()
            shard_table.write_table(pa.Table.from_batches(of_shards))
            if of_tracklets:
                tracklet_table.write_table(pa.Table.from_batches(of_tracklets))
        return {
            name: {"nbytes": file.nbytes, "sha256": file.sha256}
            for name, file in zip(TABLES, files, strict=True)
        }


def _batch(schema: Any, records: Sequence[object]) -> Any:
    columns = [pa.array([getattr(record, field.name) for record in records], field.type) for field in schema]
    return pa.record_batch(columns, schema=schema)


def describe(content: dict[str, Any], files: dict[str, dict[str, Any]]) -> bytes:
    """The bytes of `dataset.json`, for tables as `write_tables` has written them."""
    fields = {"format": FORMAT, "version": VERSION, **content, "files": files}
    return sealed(json.dumps(fields, indent=2))
