"""Raw trees of several sizes for the benchmarks of packing: copies of a synthetic one, under new identities.

A slice that takes a number of copies can be timed with few and with many, so that what it costs however small the set
is (reading libraries, the manifest) is told from what every frame costs.
"""

import shutil
from pathlib import Path

from preprocess import vcm
from preprocess.vcm import SYNTHETIC_FILE
from preprocess.vcm_index import NAME_FILES, QUERY_FILE, TRACK_FILES
from reid.types import Split

STRIDE = 100  # between the identities of two copies; the synthetic tree has fewer


class Trees:
    """Trees of a quarter of `most` copies of `raw`, and of `most`, with their pictures in the order of packing."""

    def __init__(self, raw: Path, folder: Path, most: int) -> None:
        self.most = most
        self.roots = {count: _copies(raw, folder / str(count), count) for count in (most // 4, most)}
        self.files = {
            count: [root / frame for each in vcm.read(root).tracklets for frame in each.frames]
            for count, root in self.roots.items()
        }
        self.frames_of_a_copy = len(self.files[most]) // most


def _copies(raw: Path, root: Path, count: int) -> Path:
    root.mkdir(parents=True)
    shutil.copy(raw / SYNTHETIC_FILE, root)
    for folder in (path for path in raw.iterdir() if path.is_dir()):
        for number in range(count):
            shutil.copytree(folder, root / f"{int(folder.name) + STRIDE * number:04d}")
    for split in Split:
        names = (raw / NAME_FILES[split]).read_text().split()
        rows = [[int(word) for word in line.split()] for line in (raw / TRACK_FILES[split]).open()]
        shifts = [(STRIDE * number, len(names) * number) for number in range(count)]
        (root / NAME_FILES[split]).write_text(
            "".join(f"{int(name[:4]) + who:04d}{name[4:]}\n" for who, _ in shifts for name in names)
        )
        (root / TRACK_FILES[split]).write_text(
            "".join(
                f"{modality} {first + lines} {last + lines} {identity + who:04d} {camera}\n"
                for who, lines in shifts
                for modality, first, last, identity, camera in rows
            )
        )
    queries = [int(word) for word in (raw / QUERY_FILE).read_text().split()]
    num_rows = len((raw / TRACK_FILES[Split.TEST]).read_text().splitlines())
    (root / QUERY_FILE).write_text(
        " ".join(str(query + num_rows * number) for number in range(count) for query in queries)
    )
    return root
