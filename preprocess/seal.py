"""The end of a pack: written shards -> tables -> `dataset.json`, which makes them a data set.

    sidecars in order -> tables -> every shard read back, compared with the tables -> counts -> dataset.json

Everything here can be done again: a pack that was killed while sealing is sealed from the beginning.
"""

import logging
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from preprocess import workers
from preprocess.plan import PLAN_FILE, Plan, decisive
from preprocess.progress import Progress
from preprocess.publish import sweep, sync, write_whole
from preprocess.records import ShardRecord, describe, read_finished, write_tables
from preprocess.statistics import count, differences
from preprocess.tree import Tree
from preprocess.vcm import DATASET
from preprocess.verify import content_damage
from reid.data.manifest import DESCRIPTION, TABLES, Manifest, read_description

log = logging.getLogger(__name__)


def seal(plan: Plan, stage: Path, tree: Tree, num_workers: int, progress: Progress) -> dict[str, Any]:
    """Turn the shards in `stage` into a data set, ready to be renamed. Returns what its `dataset.json` says.

    `progress` hears (shards read back, of all). Raises ValueError if shards are missing, and RuntimeError if one is not on disk as it was written.
    """
    sweep(stage)
    skipped: list[tuple[str, str]] = []
    write_tables(stage, _records(plan, stage / "shards", skipped))
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
    manifest = Manifest(stage, {**fields, "counts": {}}, digest="")
    _read_back(manifest, num_workers, progress)
    _remove_strangers(stage / "shards", plan)
    counted = count(manifest)
    published = tree.dataset == DATASET
    fields["source"]["differences"] = (
        differences(counted, tree, plan.options.minimum_frames) if published else []
    )
    write_whole(stage / DESCRIPTION, describe(stage, {**fields, "counts": counted}))
    (stage / PLAN_FILE).unlink(missing_ok=True)
    return read_description(stage)[0]


def _records(plan: Plan, folder: Path, skipped: list[tuple[str, str]]) -> Iterator[ShardRecord]:
    """The records of all shards, in order; skipped frames are added to `skipped` on the way."""
    missing = []
    for shard in plan.shards:
        record = read_finished(folder / shard.name, plan.id)
        if record is None:
            missing.append(shard.name)
        elif not missing:
            skipped += record.skipped
            yield record
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(plan.shards)} shards are not written yet, the first is {missing[0]}. Run the "
            "parts that write them, then seal again."
        )


def _read_back(manifest: Manifest, num_workers: int, progress: Progress) -> None:
    log.info("reading %d shards back", len(manifest.shards))
    total = len(manifest.shards)
    check = partial(_check_shard, manifest)
    for _ in workers.run(check, range(total), num_workers, lambda done: progress(done, total)):
        pass


def _check_shard(manifest: Manifest, number: int, advance: Callable[[int], None]) -> None:
    """Compare what lies on disk with what was written. A shard that differs is forgotten, and an error."""
    for damage in content_damage(manifest, number, False, lambda _: None):
        manifest.shards[number].path.with_suffix(".json").unlink()
        raise RuntimeError(
            f"{manifest.root / damage.file}: what lies on disk is not what was written: byte {damage.offset}, "
            f"{damage.reason}. Check the disk, and run the same command again: it writes this shard anew."
        )
    advance(1)


def _remove_strangers(folder: Path, plan: Plan) -> None:
    expected = {name for shard in plan.shards for name in (shard.name, f"{Path(shard.name).stem}.json")}
    for path in folder.iterdir():
        if path.name not in expected:
            path.unlink()
