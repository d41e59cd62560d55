"""Packing and verifying against what they cannot do without: reading files, codecs, resizing, sha256.

A slice is a whole data set.
"""

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import simplejpeg
from PIL import Image

from benchmarks.timing import Row, ratio, seconds, wall_seconds
from preprocess.images import pil_backend
from preprocess.options import Check, Mode, Options
from preprocess.pack import pack
from preprocess.verify import verify
from reid.data.manifest import Manifest

COPY = Options(check=Check.HEADER, shard_mebibytes=4)
RESIZE = Options(mode=Mode.RESIZE, shard_mebibytes=4)
RESIZING = """
import sys, time
from PIL import Image
picture = Image.effect_noise((256, 512), 80).convert("RGB")
started = time.process_time()
for _ in range(int(sys.argv[1])):
    picture.resize((144, 288), Image.Resampling.BILINEAR)
print(time.process_time() - started)
"""


class Bench:
    def __init__(self, raw: Path, scratch: Path) -> None:
        self.raw = raw
        self.scratch = scratch
        self.files = sorted(path for path in raw.rglob("*.jpg") if path.parent.name.startswith("D"))

    def pack(self, options: Options, num_workers: int = 1) -> Callable[[], None]:
        def run() -> None:
            shutil.rmtree(self.scratch, ignore_errors=True)
            pack(self.raw, self.scratch, options, num_workers=num_workers)

        return run

    def read(self) -> None:
        for path in self.files:
            path.read_bytes()

    def transcode(self) -> None:
        """The parts of resizing, and nothing else."""
        size = RESIZE.size.width, RESIZE.size.height
        for path in self.files:
            picture = Image.fromarray(simplejpeg.decode_jpeg(path.read_bytes(), "RGB"))
            resized = np.asarray(picture.resize(size, Image.Resampling.BILINEAR))
            simplejpeg.encode_jpeg(resized, RESIZE.quality, colorsubsampling="420")


def hash_shards(root: Path) -> None:
    for shard in Manifest.open(root).shards:
        with shard.path.open("rb") as file:
            hashlib.file_digest(file, "sha256")


def resizing(stock_pillow: Path | None) -> float:
    """CPU seconds of some resizing, by the PIL in a folder, or by the one of this environment."""
    program = [sys.executable, "-c", RESIZING, "300"]
    environment = {} if stock_pillow is None else {"PYTHONPATH": str(stock_pillow)}
    return float(subprocess.run(program, env=environment, capture_output=True, text=True, check=True).stdout)


def rows(raw: Path, packed: Path, scratch: Path, rounds: int, stock_pillow: Path | None) -> Iterator[Row]:
    bench = Bench(raw, scratch)
    few = max(1, rounds // 3)
    found = 1 / ratio(lambda: seconds(bench.pack(COPY)), lambda: seconds(bench.read), rounds)
    yield Row("pack --mode copy --check header, of the speed of reading the files", f"{found:.2f}", ">= 0.25")
    found = ratio(lambda: seconds(bench.pack(RESIZE)), lambda: seconds(bench.transcode), few)
    yield Row("pack --mode resize, over read + decode + resize + encode", f"{found:.2f}", "<= 1.1")
    for name, options in (("copy", Options(shard_mebibytes=4)), ("resize", RESIZE)):
        one, two = bench.pack(options, 1), bench.pack(options, 2)
        found = 1 / ratio(
            lambda two=two: seconds(two, wall_seconds), lambda one=one: seconds(one, wall_seconds), few
        )
        yield Row(f"pack --mode {name}, 2 processes over 1, on the wall", f"{found:.2f} x", ">= 1.8 x")
    backend = pil_backend()
    what = "resizing 512 x 256 to 288 x 144, pillow-simd over pillow"
    if stock_pillow is None or not backend.simd:
        missing = "--stock-pillow FOLDER" if backend.simd else "pillow-simd"
        yield Row(what, f"not measured without {missing}", ">= 1.7 x")
    else:
        found = ratio(lambda: resizing(stock_pillow), lambda: resizing(None), rounds)
        yield Row(what, f"{found:.1f} x", ">= 1.7 x")
    quick = lambda: verify(packed, quick=True, num_workers=1)  # noqa: E731
    found = 1 / ratio(lambda: seconds(quick), lambda: seconds(lambda: hash_shards(packed)), rounds)
    yield Row("verify --quick, of the speed of sha256", f"{found:.2f}", ">= 0.9")
