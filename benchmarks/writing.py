"""Writing shards of pictures that are in memory already, as we do it and as webdataset does."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from webdataset import TarWriter

from benchmarks.timing import Row, Slice, per_batch, ratio, shared_seconds, wall_seconds
from benchmarks.trees import Trees
from preprocess import vcm, workers
from preprocess.options import Options
from preprocess.plan import Plan, PlannedShard, make_plan
from preprocess.publish import NewFile
from preprocess.write import ShardWriter

Item = TypeVar("Item")
Write = Callable[[Plan, PlannedShard, Iterator[bytes], Path], None]


def by_processes(work: Callable[[Item], None], items: Sequence[Item], num_workers: int) -> None:
    def work_and_tell(item: Item, advance: workers.Report) -> None:
        work(item)
        advance(1)

    told: list[int] = []
    for _ in workers.run(work_and_tell, items, num_workers, told.append):
        pass


def by_us(plan: Plan, shard: PlannedShard, pictures: Iterator[bytes], path: Path) -> None:
    """With bounds of every picture, sha256, checksums, offsets, and the sidecar."""
    with path.open("wb") as file:
        writer = ShardWriter(plan, shard, NewFile(file))
        for planned in plan.tracklets_of(shard):
            writer.add(planned, pictures)
        writer.close().to_json()


def by_webdataset(plan: Plan, shard: PlannedShard, pictures: Iterator[bytes], path: Path) -> None:
    with path.open("wb") as file:
        tar = TarWriter(file, user="", group="", mode=0o444, mtime=0, encoder=False, compress=False)
        for planned in plan.tracklets_of(shard):
            num_frames = len(planned.tracklet.frames)
            members = {f"{index:03d}.jpg": next(pictures) for index in range(num_frames)}
            tar.write({"__key__": planned.key, "json": planned.description(num_frames), **members})
        tar.close()


class Bench:
    def __init__(self, trees: Trees, options: Options, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.plans = {count: make_plan(vcm.read(root), options) for count, root in trees.roots.items()}
        self.pictures = {
            count: {
                shard: [
                    (plan.root / frame).read_bytes()
                    for planned in plan.tracklets_of(shard)
                    for frame in planned.tracklet.frames
                ]
                for shard in plan.shards
            }
            for count, plan in self.plans.items()
        }

    def write(self, how: Write, num_workers: int) -> Slice:
        def run(count: int) -> None:
            def write_one(shard: PlannedShard) -> None:
                pictures = iter(self.pictures[count][shard])
                how(self.plans[count], shard, pictures, self.folder / shard.name)

            by_processes(write_one, self.plans[count].shards, num_workers)

        return run


def rows(trees: Trees, options: Options, folder: Path, rounds: int) -> Iterator[Row]:
    bench, most = Bench(trees, options, folder), trees.most
    ours, theirs, both = bench.write(by_us, 1), bench.write(by_webdataset, 1), bench.write(by_us, 2)
    found = ratio(lambda: per_batch(theirs, most), lambda: per_batch(ours, most), rounds)
    yield Row("writing shards from memory, of the speed of TarWriter alone", f"{found:.2f}", ">= 0.80")
    found = ratio(
        lambda: per_batch(ours, most, wall_seconds), lambda: per_batch(both, most, wall_seconds), rounds
    )
    yield Row("writing shards from memory, 2 processes over 1, on the wall", f"{found:.2f} x", ">= 1.8 x")
    found = ratio(lambda: per_batch(ours, most), lambda: per_batch(both, most, shared_seconds), rounds)
    yield Row("the same by CPU time, as if both cores were free", f"{found:.2f} x")
