"""Small raw trees in the official layout, made of pictures of one colour, so that damage can be put into them."""

import hashlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import simplejpeg

from preprocess.options import Options
from preprocess.pack import pack
from reid.types import Modality, Split

FRAMES = (14, 5)  # of the tracklets of an identity, in each modality
SIZE = (16, 8)
IDENTITIES = {Split.TRAIN: (1, 2, 4), Split.TEST: (3, 7)}
FOLDERS = {
    "flat": ("", "", ""),
    "info": ("info", "", ""),
    "split": ("info", "Train", "Test"),
    "nested": ("info", "Train/Train", "Test/Test"),
}


def jpeg(red: int, green: int, blue: int, size: tuple[int, int] = SIZE) -> bytes:
    pixels = np.full((*size, 3), (red, green, blue), dtype=np.uint8)
    return bytes(simplejpeg.encode_jpeg(pixels, 90))


def write_tree(root: Path, layout: str = "flat") -> Path:
    """3 identities to train on and 2 to test on, each with 2 tracklets of 14 and 5 frames in each modality."""
    info, *picture_folders = (root / folder for folder in FOLDERS[layout])
    info.mkdir(parents=True, exist_ok=True)
    queries = []
    for (split, identities), pictures in zip(IDENTITIES.items(), picture_folders, strict=True):
        names: list[str] = []
        rows: list[str] = []
        for identity, modality in ((identity, modality) for identity in identities for modality in Modality):
            camera = 3 - modality.value
            folder = pictures / f"{identity:04d}" / modality.folder / f"D{camera}"
            folder.mkdir(parents=True)
            frame = 0
            for tracklet, num_frames in enumerate(FRAMES, 1):
                start = len(names) + 1
                for _ in range(num_frames):
                    frame += 1
                    (folder / f"{frame}.jpg").write_bytes(
                        jpeg(30 * identity + 5, 10 * frame, 90 * modality.value)
                    )
                    names.append(f"{identity:04d}M{modality.value}D{camera}T{tracklet}F{frame}.jpg")
                rows.append(f"{modality.value} {start} {len(names)} {identity:04d} {camera}")
                if split is Split.TEST and modality is Modality.INFRARED:
                    queries.append(str(len(rows)))
        (info / f"{split}_name.txt").write_text("\n".join(names) + "\n")
        (info / f"track_{split}_info.txt").write_text("\n".join(rows) + "\n")
    (info / "query_IDX.txt").write_text(" ".join(queries) + "\n")
    return root


def edit(path: Path, line: int, text: str) -> None:
    """Replace a line, counted from 1."""
    lines = path.read_text().splitlines()
    lines[line - 1] = text
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return write_tree(tmp_path / "raw")


@pytest.fixture(scope="session", name="write_tree")
def _write_tree() -> Callable[..., Path]:
    return write_tree


@pytest.fixture(scope="session", name="edit")
def _edit() -> Callable[[Path, int, str], None]:
    return edit


@pytest.fixture(scope="session", name="jpeg")
def _jpeg() -> Callable[..., bytes]:
    return jpeg


def contents(root: Path) -> dict[str, str]:
    """The sha256 of every file below a folder."""
    files = [path for path in root.rglob("*") if path.is_file()]
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="session", name="contents")
def _contents() -> Callable[[Path], dict[str, str]]:
    return contents


@pytest.fixture(scope="session")
def heavy(tmp_path_factory) -> Path:
    """A tree whose pictures of noise fill several shards of a mebibyte. Read only: whoever changes it, changes a copy."""
    root = write_tree(tmp_path_factory.mktemp("heavy") / "raw")
    noise = np.random.default_rng(0)
    for path in sorted(root.rglob("*.jpg")):
        pixels = noise.integers(0, 256, (96, 64, 3), dtype=np.uint8)
        path.write_bytes(simplejpeg.encode_jpeg(pixels, 97, colorsubsampling="444"))
    return root


@pytest.fixture(scope="session")
def reference(heavy, tmp_path_factory) -> dict[str, str]:
    """What one undisturbed process makes of the heavy tree."""
    out = tmp_path_factory.mktemp("reference") / "packed"
    assert pack(heavy, out, Options(shard_mebibytes=1)).shards_written >= 3
    return contents(out)


@pytest.fixture
def on_failing_disk(tmp_path: Path) -> Callable[[Path, list[str]], subprocess.CompletedProcess[str]]:
    """Runs a command of ours while every reading of a file fails."""

    def run(file: Path, arguments: list[str]) -> subprocess.CompletedProcess[str]:
        strace = [
            "strace",
            "-f",
            "-o",
            str(tmp_path / "strace.txt"),
            "-P",
            str(file),
            "-e",
            "trace=read,pread64",
        ]
        fault = ["-e", "inject=read,pread64:error=EIO"]
        command = [*strace, *fault, sys.executable, "-m", "preprocess", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    return run
