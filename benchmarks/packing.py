"""Packing and verifying against what they cannot do without: reading files, checksums, codecs, sha256, writing.

A slice takes some copies of a synthetic tree (`trees.py`), and the time of its later copies counts; what a pack takes
however small it is has a row of its own. Two trees:

    originals   512 x 256, to be resized
    crops       328 x 164, JPEGs of about 14 KB, to be kept as they are
"""

import hashlib
import os
import shutil
import signal
import statistics
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from zlib import crc32

import numpy as np
import simplejpeg
from PIL import Image

from benchmarks import writing
from benchmarks.timing import Row, Slice, cpu_seconds, per_batch, ratio, seconds, shared_seconds, wall_seconds
from benchmarks.trees import Trees
from benchmarks.writing import by_processes
from preprocess.images import pil_backend
from preprocess.options import Check, Mode, Options
from preprocess.pack import Part, pack
from preprocess.synthetic import synthesize
from preprocess.synthetic_options import SyntheticConfig
from preprocess.verify import verify
from preprocess.write import read_ahead
from reid.data.manifest import Manifest

CROPS = SyntheticConfig(
    num_identities=12, num_train_identities=10, tracklets_per_modality=3, height=328, width=164
)
COPY = Options(check=Check.HEADER, shard_mebibytes=16)
DECODE = Options(shard_mebibytes=8)
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


class Packing:
    """Packing some copies of a tree, and loops that do nothing but what packing cannot do without."""

    def __init__(self, trees: Trees, scratch: Path) -> None:
        self.trees = trees
        self.scratch = scratch

    def pack(self, options: Options, num_workers: int = 1) -> Slice:
        def run(count: int) -> None:
            shutil.rmtree(self.scratch, ignore_errors=True)
            pack(self.trees.roots[count], self.scratch, options, num_workers=num_workers)

        return run

    def read(self, count: int) -> None:
        for path in self.trees.files[count]:
            path.read_bytes()

    def copy(self, count: int) -> None:
        """Read, checksum and hash once, write, read back, checksum again."""
        digest = hashlib.sha256()
        sizes = []
        with self.scratch.with_suffix(".bin").open("wb+") as file:
            for path in self.trees.files[count]:
                data = path.read_bytes()
                sizes.append(len(data))
                crc32(data)
                digest.update(data)
                file.write(data)
            file.seek(0)
            for size in sizes:
                crc32(file.read(size))

    def resize(self, count: int) -> None:
        """Read, decode, resize, encode."""
        (height, width), quality = RESIZE.resizing
        for path in self.trees.files[count]:
            picture = Image.fromarray(simplejpeg.decode_jpeg(path.read_bytes(), "RGB"))
            resized = np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR))
            simplejpeg.encode_jpeg(resized, quality, colorsubsampling="420")

    def decode(self, num_workers: int) -> Slice:
        """Work of several processes that share nothing but the machine."""

        def decode_some(paths: list[Path]) -> None:
            for path in paths:
                simplejpeg.decode_jpeg(path.read_bytes(), "RGB")

        def run(count: int) -> None:
            files = self.trees.files[count]
            pieces = [files[first : first + 200] for first in range(0, len(files), 200)]
            by_processes(decode_some, pieces, num_workers)

        return run


def cold(paths: list[Path], read: Callable[[], object]) -> float:
    """Seconds on the wall of reading files whose pages the kernel was asked to forget; it remembers their names."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)
    return seconds(read, wall_seconds)


def hash_shards(root: Path) -> None:
    for shard in Manifest.open(root).shards:
        with shard.path.open("rb") as file:
            hashlib.file_digest(file, "sha256")


def contents(root: Path) -> dict[str, str]:
    files = [path for path in root.rglob("*") if path.is_file()]
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def differing(raw: Path, folder: Path) -> list[str]:
    """Ways of packing whose bytes are not those of one undisturbed process."""

    def in_parts(out: Path) -> None:
        for number in (3, 1, 2):
            pack(raw, out, DECODE, part=Part(number, 3))
        pack(raw, out, DECODE, seal_only=True)

    def killed(out: Path) -> None:
        def die_half_way(done: int, total: int) -> None:
            if 2 * done > total:
                os.kill(os.getpid(), signal.SIGKILL)

        child = os.fork()
        if child == 0:
            pack(raw, out, DECODE, show=lambda *_: nullcontext(die_half_way))
        os.waitpid(child, 0)
        pack(raw, out, DECODE)

    pack(raw, folder / "one", DECODE)
    expected = contents(folder / "one")
    ways: dict[str, Callable[[Path], object]] = {
        "2 processes": lambda out: pack(raw, out, DECODE, num_workers=2),
        "3 parts": in_parts,
        "killed and continued": killed,
    }
    found = []
    for name, way in ways.items():
        way(folder / name)
        if contents(folder / name) != expected:
            found.append(name)
    return found


def resizing(stock_pillow: Path | None) -> float:
    """CPU seconds of some resizing, by the PIL in a folder, or by the one of this environment."""
    program = [sys.executable, "-c", RESIZING, "300"]
    environment = {} if stock_pillow is None else {"PYTHONPATH": str(stock_pillow)}
    return float(subprocess.run(program, env=environment, capture_output=True, text=True, check=True).stdout)


def rows(raw: Path, folder: Path, rounds: int, stock_pillow: Path | None) -> Iterator[Row]:
    """`raw` holds the originals; everything else is made in `folder`, which must not exist."""
    folder.mkdir()
    synthesize(CROPS, folder / "crops")
    crops = Packing(Trees(folder / "crops", folder / "copies-of-crops", 8), folder / "scratch")
    yield from copying(crops, rounds)
    yield from writing.rows(crops.trees, COPY, folder / "written", rounds)
    yield from verifying(crops, folder / "packed-crops", rounds)
    originals = Packing(Trees(raw, folder / "copies-of-originals", 4), folder / "scratch")
    found = growth(originals, originals.pack(RESIZE), originals.resize, max(1, rounds // 3))
    yield Row("pack --mode resize, over read + decode + resize + encode", f"{found:.2f}", "<= 1.1")
    yield from two_processes(crops, originals, max(1, rounds // 3))
    yield stock(rounds, stock_pillow)
    different = differing(raw, folder / "ways")
    answer = "no: " + ", ".join(different) if different else "yes"
    yield Row("the same bytes from 1 process, 2 processes, 3 parts, kill -9 and again", answer, "yes")


def growth(
    packing: Packing, measured: Slice, reference: Slice, rounds: int, clock: Callable[[], float] = cpu_seconds
) -> float:
    """What a copy more takes, over what it takes the reference."""
    most = packing.trees.most
    return ratio(lambda: per_batch(measured, most, clock), lambda: per_batch(reference, most, clock), rounds)


def copying(crops: Packing, rounds: int) -> Iterator[Row]:
    copy, most = crops.pack(COPY), crops.trees.most
    copy(most)
    found = 1 / growth(crops, copy, crops.read, rounds)
    yield Row("pack --mode copy --check header, of the speed of reading the files", f"{found:.2f}", ">= 0.25")
    found = 1 / growth(crops, crops.copy, crops.read, rounds)
    yield Row("the same of a loop: read, crc32, sha256, write, read back, crc32", f"{found:.2f}")
    alone = statistics.median(
        seconds(lambda: copy(most // 4)) - most // 4 * per_batch(copy, most) for _ in range(rounds)
    )
    yield Row("what a pack takes however small it is, of CPU time", f"{1e3 * alone:.0f} ms")
    files = crops.trees.files[most]
    shards = sum(path.stat().st_size for path in (crops.scratch / "shards").glob("*.tar"))
    payload = sum(path.stat().st_size for path in files)
    size = f"{payload / len(files) / 1e3:.1f} KB"
    yield Row(f"what tars add to frames of {size}", f"{100 * (shards / payload - 1):.1f} %", "<= 6 %")
    root = crops.trees.roots[most]
    ahead = [(path.relative_to(root).as_posix(), path.stat().st_size) for path in files]
    found = ratio(
        lambda: cold(files, partial(crops.read, most)),
        lambda: cold(files, lambda: deque(read_ahead(root, ahead), maxlen=0)),
        max(1, rounds // 3),
    )
    yield Row("cold files: a plain loop, over reading ahead, on the wall", f"{found:.1f} x", ">= 3 x")


def verifying(crops: Packing, folder: Path, rounds: int) -> Iterator[Row]:
    roots = {count: folder / str(count) for count in crops.trees.roots}
    for count, root in roots.items():
        pack(crops.trees.roots[count], root, COPY)
    found = 1 / growth(
        crops, lambda count: verify(roots[count], quick=True), lambda count: hash_shards(roots[count]), rounds
    )
    yield Row("verify --quick, of the speed of sha256", f"{found:.2f}", ">= 0.9")


def two_processes(crops: Packing, originals: Packing, rounds: int) -> Iterator[Row]:
    for name, packing, slices in (
        ("pack --mode copy", crops, partial(crops.pack, DECODE)),
        ("pack --mode resize", originals, partial(originals.pack, RESIZE)),
        ("decoding and nothing else", originals, originals.decode),
    ):
        one, two, most = slices(1), slices(2), packing.trees.most
        target = ">= 1.8 x" if name.startswith("pack") else ""
        found = growth(packing, one, two, rounds, wall_seconds)
        yield Row(f"{name}, 2 processes over 1, on the wall", f"{found:.2f} x", target)
        found = ratio(partial(per_batch, one, most), partial(per_batch, two, most, shared_seconds), rounds)
        yield Row("the same by CPU time, as if both cores were free", f"{found:.2f} x")


def stock(rounds: int, stock_pillow: Path | None) -> Row:
    what, target = "resizing 512 x 256 to 288 x 144, pillow-simd over pillow", ">= 1.7 x"
    if stock_pillow is None or not pil_backend().simd:
        missing = "--stock-pillow FOLDER" if pil_backend().simd else "pillow-simd"
        return Row(what, f"not measured without {missing}", target)
    found = ratio(lambda: resizing(stock_pillow), lambda: resizing(None), rounds)
    return Row(what, f"{found:.1f} x", target)
