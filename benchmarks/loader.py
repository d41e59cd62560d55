"""How near the loader comes to what it cannot do without: reading and decoding.

    OMP_NUM_THREADS=1 python benchmarks/loader.py [--root PACKED] [--rounds 15]

Without a packed data set it makes a synthetic one of 288 x 144 pixels. Each measurement stands between two of its
reference; a line shows the median of the ratios. Times are CPU seconds of this process and its workers, because other
programs disturb those less. Of a stream, the time of its later batches counts: it starts once in a run.
"""

import argparse
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import simplejpeg
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from preprocess.options import Options
from preprocess.pack import pack
from preprocess.synthetic import SyntheticConfig, synthesize
from reid.data.batches import BatchPlan
from reid.data.clips import IMAGENET_MEAN, IMAGENET_STD, Augmentation, ClipShape, Pixels, test_indices
from reid.data.loader import training_batches
from reid.data.manifest import Manifest
from reid.data.shards import ShardReader
from reid.data.workers import Crew

SHAPE = ClipShape()
STEPS = 12  # batches of a slice

Slice = Callable[[int], None]  # runs a number of batches


class Bench:
    def __init__(self, root: Path) -> None:
        self.manifest = Manifest.open(root)
        self.plan = BatchPlan.of(self.manifest)
        self.reader = ShardReader(self.manifest)
        self.memory = np.empty((2 * self.plan.num_pairs, *SHAPE, 3), dtype=np.uint8)
        self.in_memory = [self.frames(step) for step in range(STEPS)]
        self.classic_transform = transforms.Compose(
            [
                transforms.ToPILImage(),
                transforms.Resize((SHAPE.height, SHAPE.width)),
                transforms.Pad(10),
                transforms.RandomCrop((SHAPE.height, SHAPE.width)),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
            ]
        )

    def frames(self, step: int) -> list[list[bytes]]:
        """The JPEG bytes of each clip of a batch, read by offset and checked."""
        batch = self.plan.batch(step)
        rows = np.concatenate([batch.visible, batch.infrared]).tolist()
        return [self.reader.read(row, test_indices(self.manifest.num_frames[row], 6)) for row in rows]

    def decode(self, batch: list[list[bytes]]) -> None:
        for jpegs, clip in zip(batch, self.memory, strict=True):
            for jpeg, picture in zip(jpegs, clip, strict=True):
                simplejpeg.decode_jpeg(jpeg, "RGB", buffer=picture)

    def decode_only(self, steps: int) -> None:
        for step in range(steps):
            self.decode(self.in_memory[step % STEPS])

    def read_and_decode(self, steps: int) -> None:
        for step in range(steps):
            self.decode(self.frames(step))

    def loader(self, augmentation: Augmentation | None, num_workers: int) -> Slice:
        def run(steps: int) -> None:
            with training_batches(
                self.manifest,
                self.plan,
                first=0,
                last=steps,
                shape=SHAPE,
                augmentation=augmentation,
                num_workers=num_workers,
            ) as stream:
                for _ in stream:
                    pass

        return run

    def classic(self, steps: int) -> None:
        """What research code does: picture by picture through arrays, pictures and floats, by a worker of torch."""
        for _ in DataLoader(_Classic(self, steps), batch_size=None, num_workers=1):
            pass

    def transport(self, steps: int) -> None:
        crew = Crew(_nothing, self.memory.shape, range(steps), 1)
        for _ in crew:
            pass
        crew.close()

    def planning(self, steps: int) -> None:
        for step in range(steps):
            self.plan.batch(step)


def _nothing(index: int, pixels: Pixels) -> None:
    """What a worker does while only the transport is measured."""


class _Classic(Dataset[Tensor]):
    def __init__(self, bench: Bench, steps: int) -> None:
        self.bench = bench
        self.steps = steps

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> Tensor:
        transform = self.bench.classic_transform
        clips = [
            torch.stack([transform(np.array(Image.open(BytesIO(jpeg)).convert("RGB"))) for jpeg in jpegs])
            for jpegs in self.bench.frames(step)
        ]
        return torch.stack(clips)


def cpu_seconds() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def per_batch(run: Slice, clock: Callable[[], float], steps: int) -> float:
    """Seconds of a batch, without what the run takes however short it is."""
    times = []
    for count in (steps // 4, steps):
        started = clock()
        run(count)
        times.append(clock() - started)
    return (times[1] - times[0]) / (steps - steps // 4)


def speed(measured: Slice, reference: Slice, rounds: int) -> float:
    """How often `measured` makes a batch while `reference` makes one: median of slices between two of the reference."""
    ratios = []
    before = per_batch(reference, cpu_seconds, STEPS)
    for _ in range(rounds):
        mine = per_batch(measured, cpu_seconds, 4 * STEPS)
        after = per_batch(reference, cpu_seconds, STEPS)
        ratios.append((before + after) / 2 / mine)
        before = after
    return statistics.median(ratios)


def wall(run: Slice, steps: int, rounds: int) -> float:
    return statistics.median(per_batch(run, time.perf_counter, steps) for _ in range(rounds))


def report(bench: Bench, rounds: int) -> None:
    floor, augmentation = bench.read_and_decode, Augmentation()
    print("| what | measured | target |")
    print("|---|---|---|")
    print(f"| read + decode, over decode | {1 / speed(floor, bench.decode_only, rounds):.2f} | <= 1.05 |")
    for name, changes, num_workers, target in (
        ("not augmented, in process", None, 0, ""),
        ("not augmented, 1 worker", None, 1, ">= 0.92"),
        ("augmented, 1 worker", augmentation, 1, ""),
    ):
        found = speed(bench.loader(changes, num_workers), floor, rounds)
        print(f"| loader, of the speed of read + decode ({name}) | {found:.2f} | {target} |")
    slower = speed(bench.classic, bench.loader(augmentation, 1), max(3, rounds // 3))
    print(f"| loader, over the classic path (augmented, 1 worker each) | {1 / slower:.1f} x | >= 5 x |")
    print(f"| transport of a batch, wall | {1e3 * wall(bench.transport, 1000, rounds):.2f} ms | <= 0.5 ms |")
    print(f"| planning a batch, wall | {1e6 * wall(bench.planning, 1000, rounds):.0f} us | <= 100 us |")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, help="a packed data set of 288 x 144 pixels")
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        root = arguments.root
        if root is None:
            config = SyntheticConfig(
                num_identities=20, num_train_identities=16, tracklets_per_modality=4, height=288, width=144
            )
            synthesize(config, Path(folder, "raw"))
            pack(Path(folder, "raw"), root := Path(folder, "packed"), Options())
        report(Bench(root), arguments.rounds)


if __name__ == "__main__":
    main()
