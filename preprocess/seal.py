"""The end of a pack: written shards -> tables -> `dataset.json`, which makes them a data set.

    sidecars in order -> tables -> every shard read back from its disk, compared with the tables -> counts -> dataset.json

One process does this, while nobody writes. Everything here can be done again: a pack that was killed while sealing is
sealed from the beginning.
"""

import logging
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from preprocess import workers
from preprocess.contents import content_damage
from preprocess.plan import Plan, PlannedShard, decisive
from preprocess.progress import Progress
from preprocess.publish import sweep, write_whole
from preprocess.records import ShardRecord, describe, read_finished, write_tables
from preprocess.statistics import count, differences
from preprocess.tree import Tree
from preprocess.vcm import DATASET
from reid.data.description import DESCRIPTION, LARGEST_DESCRIPTION, TABLES
from reid.data.manifest import SHARD_NAME, Manifest

log = logging.getLogger(__name__)


def seal(plan: Plan, root: Path, tree: Tree, num_workers: int, progress: Progress) -> None:
    """Turn the shards below `root` into a data set, ready to be renamed.

    `progress` hears (shards read back, of all). Raises ValueError if shards are missing, if anything lies there that no pack
    makes, or if too much was left out to be told; RuntimeError if a shard is not on disk as it was written.
    """
    skipped: list[tuple[str, str]] = []
    lost: list[str] = []
    files = write_tables(root, _records(plan, root / "shards", skipped, lost))
    sweep(root)
    _clear(root, plan)
    fields: dict[str, Any] = {
        "name": plan.dataset,
        "synthetic": plan.synthetic,
        "plan": plan.id,
        "pictures": plan.pictures,
        "protocol": {"minimum_frames": plan.options.minimum_frames, "mixed": plan.options.mixed},
        "options": decisive(plan.options),
        "source": {
            "layout": tree.layout,
            "mixed_rows": tree.num_mixed,
            "notes": tree.notes,
            "skipped_frames": skipped,
            "lost_tracklets": lost,
            "synthesis": tree.synthesis,
        },
    }
    manifest = Manifest(root, {**fields, "counts": {}}, digest="")
    _read_back(manifest, num_workers, progress)
    counted = count(manifest)
    published = tree.dataset == DATASET
    fields["source"]["differences"] = (
        differences(counted, tree, plan.options.minimum_frames) if published else []
    )
    described = describe({**fields, "counts": counted}, files)
    if len(described) > LARGEST_DESCRIPTION:
        raise ValueError(
            f"{DESCRIPTION} would have {len(described):,} bytes, and more than {LARGEST_DESCRIPTION:,} are never read: "
            f"{len(skipped):,} pictures were left out. This tree is not fit to be packed."
        )
    write_whole(root / DESCRIPTION, described)


def unwritten(plan: Plan, folder: Path) -> list[str]:
    """The shards that have no sidecar yet."""
    return [shard.name for shard in plan.shards if not (folder / shard.name).with_suffix(".json").is_file()]


def not_written(plan: Plan, missing: list[str]) -> ValueError:
    return ValueError(
        f"{len(missing)} of {len(plan.shards)} shards are not written yet, or not from the pictures that the raw tree has "
        f"now; the first is {missing[0]}. Run the parts that write them, then seal again."
    )


def _records(
    plan: Plan, folder: Path, skipped: list[tuple[str, str]], lost: list[str]
) -> Iterator[ShardRecord]:
    """The records of all shards, in order; what was left out is added to `skipped` and `lost` on the way."""
    missing = []
    for shard in plan.shards:
        record = read_finished(folder, plan, shard)
        if record is None:
            missing.append(shard.name)
        elif not missing:
            skipped += record.skipped
            lost += _lost(plan, shard, record)
            yield record
    if missing:
        raise not_written(plan, missing)


def _lost(plan: Plan, shard: PlannedShard, record: ShardRecord) -> Iterator[str]:
    """The tracklets that unreadable pictures cost, or made too short for the protocol."""
    packed = {tracklet.key: tracklet.num_frames for tracklet in record.tracklets}
    minimum = plan.options.minimum_frames
    for planned in plan.tracklets_of(shard):
        left, frames = packed.get(planned.key, 0), len(planned.tracklet.frames)
        who = f"{planned.tracklet.source}:{planned.tracklet.row} ({planned.tracklet.role}, {planned.key})"
        if not left:
            yield f"{who}: none of its {frames} frames can be read, so it is left out"
        elif left < minimum <= frames:
            yield f"{who}: {left} of its {frames} frames are left, fewer than the {minimum} of the protocol"


def _read_back(manifest: Manifest, num_workers: int, progress: Progress) -> None:
    log.info("reading %d shards back", len(manifest.shards))
    total = len(manifest.shards)
    check = partial(_check_shard, manifest)
    for _ in workers.run(check, range(total), num_workers, lambda done: progress(done, total)):
        pass


def _check_shard(manifest: Manifest, number: int, advance: Callable[[int], None]) -> None:
    """Compare what lies on disk with what was written. A shard that differs is forgotten, and an error."""
    _forget_pages(manifest.shards[number].path)
    for damage in content_damage(manifest, number, False, lambda _: None):
        manifest.shards[number].path.with_suffix(".json").unlink()
        raise RuntimeError(
            f"{manifest.root / damage.file}: what lies on disk is not what was written: byte {damage.offset}, "
            f"{damage.reason}. Check the disk, and run the same pack again, without --seal: it writes this shard anew."
        )
    advance(1)


def _forget_pages(path: Path) -> None:
    """Let the kernel drop a file from its memory, so that it is read from the disk: it was synchronised when written."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _clear(root: Path, plan: Plan) -> None:
    """Remove shards of an earlier cut of the tree. Raises ValueError if anything lies there that no pack makes."""
    shards = root / "shards"
    expected = {root / name for name in (DESCRIPTION, *TABLES)}
    for shard in plan.shards:
        expected |= {shards / shard.name, (shards / shard.name).with_suffix(".json")}
    for path in root.rglob("*"):
        if path in expected or (path.is_dir() and not path.is_symlink()):
            continue
        if path.parent != shards or not SHARD_NAME.fullmatch(path.with_suffix(".tar").name):
            raise ValueError(f"{path}: no pack made this. Move it elsewhere, and run the same command again.")
        path.unlink()
