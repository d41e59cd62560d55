"""A raw tree -> shards and manifest: plan, write, seal.

    plan    index files, sizes of pictures -> keys, order, and which tracklets share a shard
    write   pictures -> checked -> one tar and one sidecar a shard                OUT.partial/packed/shards/
    seal    shards read back -> tables -> dataset.json, last                      OUT.partial/packed -> OUT, by one rename

A shard is done when its sidecar is there; tar and sidecar are each published whole, the sidecar last. So a pack that was
killed goes on where it was, any number of processes and machines can write at once without talking to each other, and
the bytes depend on none of that. Whoever seals is alone (`stage.py`). OUT itself is complete or not there.
"""

import re
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from preprocess import buptcampus, vcm, workers
from preprocess.options import Options
from preprocess.plan import Plan, PlannedShard, identify, make_plan
from preprocess.progress import Show, hidden
from preprocess.publish import destination, is_free
from preprocess.records import read_finished
from preprocess.seal import not_written, seal, unwritten
from preprocess.stage import Stage
from preprocess.tree import MOST_BAD_PICTURES, BadTreeError, Tree
from preprocess.write import write_shard
from reid.data.description import DESCRIPTION, read_description


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
    """What a call of `pack` left behind. `sealed` says that the data set at `out` is complete, `id` which one it is."""

    out: Path
    sealed: bool
    shards_written: int
    shards_kept: int
    description: dict[str, Any]
    id: str


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

    Raises BadTreeError for a tree that cannot be packed, ValueError for a request that cannot be met, OSError and
    RuntimeError for a machine that fails: what is finished is then kept in `OUT.partial`, and the same call goes on from
    there. Nothing is written before the tree is read and its pictures are found.
    """
    workers.check(num_workers)
    stage = Stage(destination(out))
    tree = _read_tree(source, options)
    if not tree.tracklets:
        raise BadTreeError(f"{source}: no row is left to pack with `--mixed {options.mixed}`.")
    if not is_free(stage.out):
        _require_same(stage.out, {"plan": identify(tree, options)})
    with show("looking for", "tracklets") as progress:
        plan = make_plan(tree, options, progress)
    shards = plan.shards if part is None else plan.shards[part.number - 1 :: part.total]
    written = 0
    if is_free(stage.out) and not seal_only:
        written = _write(plan, shards, stage, num_workers, show)
    if is_free(stage.out) and part is None:
        _seal(plan, stage, tree, num_workers, show)
    if is_free(stage.out):
        return Packed(stage.out, False, written, len(shards) - written, {}, "")
    description, identifier = _require_same(stage.out, {"plan": plan.id, "pictures": plan.pictures})
    stage.discard()
    return Packed(stage.out, True, written, len(shards) - written, description, identifier)


def _read_tree(source: Path, options: Options) -> Tree:
    if buptcampus.is_here(source):
        return buptcampus.read(source, options.mixed, fake_infrared=options.fake_infrared)
    if options.fake_infrared:
        raise ValueError(
            f"{source} is no BUPTCampus tree, and only that has generated infrared pictures: leave --fake-infrared out."
        )
    return vcm.read(source, options.mixed)


def _require_same(out: Path, expected: dict[str, str]) -> tuple[dict[str, Any], str]:
    """The description and the id of what is at `out`. Raises ValueError unless it is the data set that would be made."""
    if not (out / DESCRIPTION).is_file():
        raise ValueError(f"{out} exists and holds something else. Name another folder, or remove it first.")
    description, identifier = read_description(out)
    for name, of_what in (
        ("plan", "another tree, of other options or by other libraries"),
        ("pictures", "other pictures"),
    ):
        if name in expected and description[name] != expected[name]:
            raise ValueError(
                f"{out} exists and holds the pack of {of_what}. Name another folder, or remove it first."
            )
    return description, identifier


def _write(plan: Plan, shards: list[PlannedShard], stage: Stage, num_workers: int, show: Show) -> int:
    """Write the shards that are not there as planned, and return how many those were."""
    folder = stage.content / "shards"
    mistakes: list[str] = []
    with stage.shared():
        if not is_free(stage.out):
            return 0
        stage.claim(plan.id)
        folder.mkdir(parents=True, exist_ok=True)
        missing = [shard for shard in shards if read_finished(folder, plan, shard) is None]
        total = sum(plan.num_frames_of(shard) for shard in missing)
        with show("packing", "frames") as progress:
            write = partial(write_shard, plan, folder)
            for found in workers.run(write, missing, num_workers, lambda done: progress(done, total)):
                mistakes += found
    if mistakes:
        listing = BadTreeError.listing(plan.root, sorted(mistakes), MOST_BAD_PICTURES)
        raise BadTreeError(
            f"{listing}\nRepair these; the same command then goes on with what {stage.folder} holds."
        )
    return len(missing)


def _seal(plan: Plan, stage: Stage, tree: Tree, num_workers: int, show: Show) -> None:
    missing = unwritten(plan, stage.content / "shards")
    if missing and is_free(stage.out):  # else somebody has sealed them in the meantime
        raise not_written(plan, missing)
    with stage.alone():
        if is_free(stage.out):
            with show("reading back", "shards") as progress:
                seal(plan, stage.content, tree, num_workers, progress)
            stage.publish()
