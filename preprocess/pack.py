"""A raw tree -> shards and manifest: plan, write, seal.

    plan    index files -> keys, order, and which tracklets share a shard         OUT.partial/plan.json
    write   pictures -> checked -> one tar and one sidecar a shard                OUT.partial/shards/
    seal    shards read back -> tables -> dataset.json, last                      OUT.partial -> OUT, by one rename

A shard is done when its sidecar is there; tar and sidecar are each published whole, the sidecar last. So a pack that was
killed goes on where it was, any number of processes and machines can write at once without talking to each other, and
the bytes depend on none of that. OUT itself is complete or not there.
"""

import re
import shutil
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from preprocess import buptcampus, vcm, workers
from preprocess.options import Options
from preprocess.plan import PLAN_FILE, Plan, PlannedShard, identify, make_plan
from preprocess.progress import Progress, Show, hidden
from preprocess.publish import sync
from preprocess.seal import seal
from preprocess.tree import BadTreeError, Tree
from preprocess.write import write_shard
from reid.data.manifest import DESCRIPTION, read_description


class Part(NamedTuple):
    """The share of one process of several: every `total`-th shard, from the `number`-th."""

    number: int
    total: int

    @classmethod
    def parse(cls, text: str) -> "Part":
        match = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text, re.ASCII)
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            raise ValueError(f"--part: expected I/N with I from 1 to N, found {text!r}.")
        return cls(int(match[1]), int(match[2]))


class Packed(NamedTuple):
    """What a call of `pack` left behind. `sealed` says that the data set at `out` is complete."""

    out: Path
    sealed: bool
    shards_written: int
    shards_kept: int
    description: dict[str, Any]


def pack(
    source: Path,
    out: Path,
    options: Options,
    *,
    num_workers: int = 1,
    part: Part | None = None,
    seal_only: bool = False,
    show: Show = hidden,
) -> Packed:
    """Pack the raw tree `source` into `out`, or a part of it, or seal what the parts have written.

    Raises BadTreeError for a tree that cannot be packed (nothing is left behind but what an earlier call or another
    part wrote), ValueError for a request that cannot be met, OSError and RuntimeError for a machine that fails: what
    is finished is then kept in `OUT.partial`, and the same call goes on from there.
    """
    if num_workers < 1:
        raise ValueError(f"The number of workers must be 1 or more, found {num_workers}.")
    out = Path(out)
    source = Path(source)
    tree = _read_tree(source, options)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        return _already_packed(out, identify(tree, options))
    stage = out.with_name(f"{out.name}.partial")
    is_first = part is None and not seal_only and not stage.exists()
    try:
        plan = make_plan(tree, options, stage / PLAN_FILE)
        shards = [] if seal_only else _share(plan, part)
        with show("packing", "frames") as progress:
            written = _write(plan, shards, stage, num_workers, progress)
    except BadTreeError:
        if is_first:
            shutil.rmtree(stage, ignore_errors=True)
        raise
    if part is not None:
        return Packed(out, False, written, len(shards) - written, {})
    with show("reading back", "shards") as progress:
        description = seal(plan, stage, tree, num_workers, progress)
    stage.rename(out)
    sync(out.parent)
    return Packed(out, True, written, len(plan.shards) - written, description)


def _read_tree(source: Path, options: Options) -> Tree:
    if buptcampus.is_here(source):
        return buptcampus.read(source, options.mixed, fake_infrared=options.fake_infrared)
    if options.fake_infrared:
        raise ValueError(
            f"{source} is no BUPTCampus tree, and only that has generated infrared pictures: leave --fake-infrared out."
        )
    return vcm.read(source, options.mixed)


def _already_packed(out: Path, identifier: str) -> Packed:
    """The same pack again is no work; anything else in the way is a mistake."""
    description: dict[str, Any] = {}
    if (out / DESCRIPTION).is_file():
        description, _ = read_description(out)
    if description.get("plan") != identifier:
        what = "the pack of another tree or of other options" if description else "something else"
        raise ValueError(f"{out} exists and holds {what}. Name another folder, or remove it first.")
    return Packed(out, True, 0, len(list((out / "shards").glob("*.tar"))), description)


def _share(plan: Plan, part: Part | None) -> list[PlannedShard]:
    return plan.shards if part is None else plan.shards[part.number - 1 :: part.total]


def _write(plan: Plan, shards: list[PlannedShard], stage: Path, num_workers: int, progress: Progress) -> int:
    """Write the shards that are not there yet, and return how many those were."""
    (stage / "shards").mkdir(parents=True, exist_ok=True)
    total = sum(plan.num_frames_of(shard) for shard in shards)
    write = partial(write_shard, plan, stage / "shards")
    return sum(workers.run(write, shards, num_workers, lambda done: progress(done, total)))
