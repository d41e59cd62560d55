"""The loader against what it cannot do without, reading and decoding, and against the usual way of research code.

A slice is some batches. Of a stream, the time of its later batches counts: it starts once in a run.
"""

import statistics
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from zlib import crc32

import numpy as np
import simplejpeg
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from benchmarks.timing import Row, Slice, per_batch, ratio, seconds, wall_seconds
from reid.data.augmentation import Augmentation
from reid.data.batches import BatchPlan
from reid.data.clips import IMAGENET_MEAN, IMAGENET_STD, ClipShape, Pixels, test_indices
from reid.data.loader import training_batches
from reid.data.manifest import Manifest
from reid.data.shards import ShardReader
from reid.data.workers import Crew

SHAPE = ClipShape()
STEPS = 12  # batches of a slice


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

    def offsets(self) -> None:
        """Six frames of every tracklet, by their offsets."""
        for row, num_frames in enumerate(self.manifest.num_frames.tolist()):
            self.reader.read(row, test_indices(num_frames, SHAPE.frames))

    def streaming(self) -> None:
        """The same frames, from whole tracklets, each read in one piece."""
        for shard in self.manifest.shards:
            with shard.path.open("rb") as file:
                for row in range(shard.first_row, shard.first_row + shard.num_tracklets):
                    frames = self.manifest.frames(row)
                    first = file.tell()
                    sample = file.read(int(self.manifest.nbytes[row]))
                    for offset, size, checksum in zip(*(each.tolist() for each in frames[1:]), strict=True):
                        assert crc32(sample[offset - first : offset - first + size]) == checksum


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


def of_speed(measured: Slice, reference: Slice, rounds: int, steps: int = 2 * STEPS) -> float:
    """How many batches `measured` makes while `reference` makes one."""
    return 1 / ratio(lambda: per_batch(measured, steps), lambda: per_batch(reference, STEPS), rounds)


def rows(root: Path, originals: Path, rounds: int) -> Iterator[Row]:
    """`root` is packed at the size that the network takes, `originals` at the size of the camera."""
    bench, augmentation = Bench(root), Augmentation()
    floor, loader = bench.read_and_decode, bench.loader(augmentation, 1)
    few = max(1, rounds // 2)
    yield Row(
        "read + decode, over decode",
        f"{1 / of_speed(floor, bench.decode_only, rounds, STEPS):.2f}",
        "<= 1.05",
    )
    for name, changes, num_workers, times, target in (
        ("not augmented, 1 worker", None, 1, rounds, ">= 0.92"),
        ("not augmented, in process", None, 0, few, ""),
        ("augmented, 1 worker", augmentation, 1, few, ""),
    ):
        found = of_speed(bench.loader(changes, num_workers), floor, times)
        yield Row(f"loader, of the speed of read + decode ({name})", f"{found:.2f}", target)
    usual = of_speed(bench.classic, loader, few, STEPS)
    yield Row("loader, over the classic path (augmented, 1 worker each)", f"{1 / usual:.1f} x", ">= 5 x")
    usual = of_speed(Bench(originals).classic, loader, few, STEPS)
    yield Row("loader, over the classic path that resizes 512 x 256", f"{1 / usual:.1f} x", ">= 9 x")
    transport = statistics.median(per_batch(bench.transport, 1000, wall_seconds) for _ in range(rounds))
    yield Row("transport of a batch", f"{1e3 * transport:.2f} ms", "<= 0.5 ms")
    whole = ratio(lambda: seconds(bench.streaming), lambda: seconds(bench.offsets), rounds)
    yield Row("streaming whole tracklets, over reading 6 frames by offset", f"{whole:.1f} x")
