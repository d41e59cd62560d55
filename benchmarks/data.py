"""The data plane against its floors: the ratios that it is held to, in one run.

    OMP_NUM_THREADS=1 python -m benchmarks.data [--rounds 15] [--part PART] [--stock-pillow FOLDER]    (about six minutes)

It draws a small synthetic set of 512 x 256 pixels and packs it as it is and at 288 x 144. How things are measured says
`timing.py`. FOLDER holds a stock pillow to compare with:

    pip install --no-deps --require-hashes --target FOLDER -r launch/locks/pillow.lock
"""

import argparse
import os
import platform
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from benchmarks import loader, packing, reading
from benchmarks.timing import Row, per_batch
from preprocess.images import pil_backend
from preprocess.options import Mode, Options
from preprocess.pack import pack
from preprocess.synthetic import SyntheticConfig, synthesize
from reid.data.batches import BatchPlan

SIZE = SyntheticConfig(
    num_identities=12, num_train_identities=10, tracklets_per_modality=3, height=512, width=256
)


def planning(rounds: int) -> Iterator[Row]:
    for num_tracklets, num_identities, target in (
        (20_000, 500, "<= 100 us"),
        (20_000_000, 50_000, "<= 150 us"),
    ):
        rows = np.arange(num_tracklets)
        plan = BatchPlan((rows // 2 % num_identities).astype(np.int32), rows[::2], rows[1::2])

        def run(steps: int, plan: BatchPlan = plan) -> None:
            for step in range(steps):
                plan.batch(step)

        found = statistics.median(per_batch(run, 1000) for _ in range(rounds))
        yield Row(f"planning a batch of {num_tracklets:,} tracklets", f"{1e6 * found:.0f} us", target)


def table(folder: Path, part: str, rounds: int, stock_pillow: Path | None) -> Iterator[Row]:
    raw, originals, packed = folder / "raw", folder / "originals", folder / "packed"
    synthesize(SIZE, raw)
    pack(raw, originals, Options())
    pack(raw, packed, Options(mode=Mode.RESIZE))
    if part in {"loading", "all"}:
        yield from loader.rows(packed, originals, rounds)
        yield from planning(rounds)
    if part in {"reading", "all"}:
        yield from reading.rows(packed, folder / "reading", rounds)
    if part in {"packing", "all"}:
        yield from packing.rows(raw, folder / "packing", rounds, stock_pillow)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15, help="slices between two of the reference")
    parser.add_argument("--part", choices=["loading", "reading", "packing", "all"], default="all")
    parser.add_argument("--stock-pillow", type=Path, help="a folder that holds a stock pillow")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, {pil_backend().describe()}\n")
    print("| what | measured | target |")
    print("| :-- | --: | --: |")
    with tempfile.TemporaryDirectory() as folder:
        for row in table(Path(folder), arguments.part, arguments.rounds, arguments.stock_pillow):
            print(f"| {row.what} | {row.measured} | {row.target} |", flush=True)


if __name__ == "__main__":
    main()
