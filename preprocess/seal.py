"""The end of a pack: written shards -> tables -> `dataset.json`, which makes them a data set.

    shards on disk -> read back, compared with their sidecars -> sidecars in order -> tables -> counts -> dataset.json

Everything here can be done again: a pack that was killed while sealing is sealed from the beginning.
"""

import logging
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from preprocess import workers
from preprocess.plan import PLAN_FILE, Plan, PlannedShard, decisive
from preprocess.progress import Progress
from preprocess.publish import sweep, sync, write_whole
from preprocess.records import ShardRecord, describe, is_finished, write_tables
from preprocess.statistics import count, differences
from preprocess.tree import Tree
from preprocess.vcm import DATASET
from reid.data.manifest import DESCRIPTION, TABLES, Manifest, read_description, sha256

log = logging.getLogger(__name__)


def seal(plan: Plan, stage: Path, tree: Tree, num_workers: int, progress: Progress) -> dict[str, Any]:
    """Turn the shards in `stage` into a data set, ready to be renamed. Returns what its `dataset.json` says.

    `progress` hears (shards read back, of all). Raises ValueError if shards are missing, and RuntimeError if one is not on disk as it was written.
    """
    folder = stage / "shards"
    sweep(stage)
    missing = [shard.name for shard in plan.shards if not is_finished(folder / shard.name, plan.id)]
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(plan.shards)} shards are not written yet, the first is {missing[0]}. Run the "
            "parts that write them, then seal again."
        )
    log.info("reading %d shards back", len(plan.shards))
    check, total = partial(_check_shard, folder), len(plan.shards)
    for _ in workers.run(check, plan.shards, num_workers, lambda done: progress(done, total)):
        pass
    expected = {name for shard in plan.shards for name in (shard.name, f"{Path(shard.name).stem}.json")}
    for path in folder.iterdir():
        if path.name not in expected:
            path.unlink()
    skipped: list[tuple[str, str]] = []
    write_tables(stage, _records(folder, plan.shards, skipped))
    for table in TABLES:
        sync(stage / table)
    sync((stage / TABLES[0]).parent)
    fields: dict[str, Any] = {
        "name": plan.dataset,
        "synthetic": tree.synthesis is not None,
        "plan": plan.id,
        "protocol": {"minimum_frames": plan.options.minimum_frames, "mixed": plan.options.mixed},
        "options": decisive(plan.options),
        "source": {
            "layout": tree.layout,
            "mixed_rows": tree.num_mixed,
            "notes": tree.notes,
            "skipped_frames": skipped,
            "synthesis": tree.synthesis,
        },
    }
    counted = count(Manifest(stage, {**fields, "counts": {}}, digest=""))
    published = tree.dataset == DATASET
    fields["source"]["differences"] = (
        differences(counted, tree, plan.options.minimum_frames) if published else []
    )
    write_whole(stage / DESCRIPTION, describe(stage, {**fields, "counts": counted}))
    (stage / PLAN_FILE).unlink(missing_ok=True)
    return read_description(stage)[0]


def _check_shard(folder: Path, shard: PlannedShard, advance: Callable[[int], None]) -> None:
    """Compare what lies on disk with what was written. A shard that differs is forgotten, and an error."""
    sidecar = (folder / shard.name).with_suffix(".json")
    if sha256(folder / shard.name) != ShardRecord.read(sidecar).sha256:
        sidecar.unlink()
        raise RuntimeError(
            f"{folder / shard.name}: what lies on disk is not what was written. Check the disk, and run the same "
            "command again: it writes this shard anew."
        )
    advance(1)


def _records(
    folder: Path, shards: list[PlannedShard], skipped: list[tuple[str, str]]
) -> Iterator[ShardRecord]:
    """The records of the shards, in order; skipped frames are added to `skipped` on the way."""
    for shard in shards:
        record = ShardRecord.read((folder / shard.name).with_suffix(".json"))
        skipped += record.skipped
        yield record
