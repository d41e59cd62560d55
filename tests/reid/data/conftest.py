"""A tiny packed data set whose pictures say what they show.

Every frame is a plain colour: red tells the identity, green the tracklet, blue the frame. So a test can look at a pixel
and know whether the right frame of the right tracklet has arrived.
"""

from collections.abc import Callable, Iterator
from multiprocessing import active_children
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
import pytest
import simplejpeg

from preprocess.options import Options
from preprocess.pack import pack
from reid.data.manifest import Manifest
from reid.types import Modality, Split

HEIGHT, WIDTH = 32, 16
STEP = 10  # between two neighbouring colours: far more than a JPEG errs


class Painted(NamedTuple):
    split: Split
    identity: int
    modality: Modality
    number: int
    num_frames: int


def _painted() -> list[Painted]:
    """Identities 1..6 train, 7..8 test; identity 5 has one infrared tracklet, 6 has none, 4 has a short one more."""
    tracklets = []
    for identity in range(1, 9):
        split = Split.TRAIN if identity < 7 else Split.TEST
        for modality in Modality:
            lengths = [24, 13, 12]
            if modality is Modality.INFRARED:
                lengths = {4: [24, 13, 12, 5], 5: [14], 6: []}.get(identity, lengths)
            for number, length in enumerate(lengths, 1):
                tracklets.append(Painted(split, identity, modality, number, length))
    return tracklets


def colour(identity: int, number: int, frame: int) -> tuple[int, int, int]:
    return STEP * identity, STEP * number, STEP * frame


def _write_tree(root: Path) -> None:
    names: dict[Split, list[str]] = {split: [] for split in Split}
    rows: dict[Split, list[str]] = {split: [] for split in Split}
    queries = []
    taken: dict[Path, int] = {}
    for split, identity, modality, number, num_frames in _painted():
        camera = 3 - modality.value  # visible 1, infrared 2
        folder = root / f"{identity:04d}" / modality.folder / f"D{camera}"
        folder.mkdir(parents=True, exist_ok=True)
        first = len(names[split]) + 1
        for frame in range(num_frames):
            place = taken[folder] = taken.get(folder, 0) + 1
            picture = np.full((HEIGHT, WIDTH, 3), colour(identity, number, frame), dtype=np.uint8)
            (folder / f"{place}.jpg").write_bytes(simplejpeg.encode_jpeg(picture, 95))
            names[split].append(f"{identity:04d}M{modality.value}D{camera}T{number}F{place}.jpg")
        rows[split].append(f"{modality.value} {first} {len(names[split])} {identity:04d} {camera}")
        if split is Split.TEST and modality is Modality.INFRARED:
            queries.append(str(len(rows[split])))
    for split in Split:
        (root / f"{split}_name.txt").write_text("\n".join(names[split]) + "\n")
        (root / f"track_{split}_info.txt").write_text("\n".join(rows[split]) + "\n")
    (root / "query_IDX.txt").write_text(" ".join(queries) + "\n")


@pytest.fixture(scope="session")
def painted_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of the packed set. Read only: whoever damages it, damages a copy."""
    folder = tmp_path_factory.mktemp("painted")
    _write_tree(folder / "raw")
    pack(folder / "raw", folder / "packed", Options())
    return folder / "packed"


@pytest.fixture(scope="session")
def painted(painted_root: Path) -> Manifest:
    return Manifest.open(painted_root)


@pytest.fixture
def workers() -> Iterator[Callable[[], list[psutil.Process]]]:
    """The processes that a test has begun so far and that still live; none may be left at its end.

    Other children of this process are not touched: those of a fixture that outlives the test, for one.
    """
    before = set(active_children())

    def begun() -> list[psutil.Process]:
        return [psutil.Process(child.pid) for child in active_children() if child not in before]

    yield begun
    assert begun() == []
