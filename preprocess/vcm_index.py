"""The index files of HITSZ-VCM, each read by itself: text -> names, rows, queries.

    train_name.txt, test_name.txt               one frame name a line, PPPPMmDdTtFf.jpg
    track_train_info.txt, track_test_info.txt   rows `modality start end identity camera`
    query_IDX.txt                               rows of track_test_info.txt

Rows and lines count from 1, ranges include their end. A name is taken apart by a pattern, so no path that is made of it
can lead out of the tree. All mistakes of a file are told at once, each with its line.
"""

import re
from pathlib import Path
from typing import NamedTuple

from preprocess.tree import BadTreeError, read_index
from reid.types import Modality, Split

NAME_FILES = {Split.TRAIN: "train_name.txt", Split.TEST: "test_name.txt"}
TRACK_FILES = {Split.TRAIN: "track_train_info.txt", Split.TEST: "track_test_info.txt"}
QUERY_FILE = "query_IDX.txt"
INDEX_FILES = (*NAME_FILES.values(), *TRACK_FILES.values(), QUERY_FILE)
BLANKS = " \t"  # around a name

_NAME = re.compile(r"([0-9]{4})M([12])D([0-9]{1,3})T([0-9]{1,6})F([0-9]{1,6})\.jpg", re.ASCII)
_INTEGER = re.compile(r"[0-9]{1,9}", re.ASCII)


class Name(NamedTuple):
    """A frame name taken apart."""

    identity: int
    modality: Modality
    camera: int
    tracklet: int
    frame: int
    path: str


class Row(NamedTuple):
    """A row of a track file. `first` and `last` are 1-based lines of the name file, both included."""

    number: int
    modality: Modality
    first: int
    last: int
    identity: int
    camera: int


def lines(path: Path) -> list[str]:
    """The lines of an index file, without line ends, byte order mark and empty lines at the end."""
    data = read_index(path, "index file")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise BadTreeError(f"{path}:{line}: not a text file: byte {error.start} is no UTF-8.") from error
    return [line.rstrip("\r") for line in text.rstrip("\r\n").split("\n")] if text.strip("\r\n") else []


def _integer(word: str) -> int | None:
    return int(word) if _INTEGER.fullmatch(word) else None


def read_names(info: Path, split: Split) -> list[Name]:
    """The frame names of a split. A picture may be named once only."""
    path = info / NAME_FILES[split]
    names: list[Name] = []
    mistakes: list[str] = []
    seen: dict[str, int] = {}
    for number, line in enumerate(lines(path), 1):
        match = _NAME.fullmatch(line.strip(BLANKS))
        if match is None:
            mistakes.append(
                f"{path}:{number}: expected a frame name like 0001M2D3T1F1.jpg, found {line[:80]!r}"
            )
            continue
        identity, modality, camera, tracklet, frame = map(int, match.groups())
        light = Modality(modality)
        picture = f"{match[1]}/{light.folder}/D{match[3]}/{match[5]}.jpg"
        if picture in seen:
            mistakes.append(
                f"{path}:{number}: {match[0]} is the picture {picture} of line {seen[picture]} again"
            )
        seen[picture] = number
        names.append(Name(identity, light, camera, tracklet, frame, picture))
    if mistakes:
        raise BadTreeError.listing(path, mistakes)
    return names


def read_rows(info: Path, split: Split) -> list[Row]:
    """The rows of a split's track file. Whether their ranges make sense is not looked at."""
    path = info / TRACK_FILES[split]
    rows: list[Row] = []
    mistakes: list[str] = []
    for number, line in enumerate(lines(path), 1):
        fields = [_integer(word) for word in line.split()]
        if len(fields) != 5 or None in fields or fields[0] not in (1, 2):
            mistakes.append(
                f"{path}:{number}: expected `modality start end identity camera`, five integers, the first 1 "
                f"(infrared) or 2 (visible); found {line[:80]!r}"
            )
            continue
        modality, first, last, identity, camera = (value for value in fields if value is not None)
        rows.append(Row(number, Modality(modality), first, last, identity, camera))
    if not rows and not mistakes:
        mistakes.append(f"{path}: the file has no rows")
    if mistakes:
        raise BadTreeError.listing(path, mistakes)
    return rows


def read_queries(info: Path) -> dict[int, int]:
    """Rows of the test split that are queries, each with the line that names it."""
    path = info / QUERY_FILE
    queries: dict[int, int] = {}
    mistakes: list[str] = []
    for number, line in enumerate(lines(path), 1):
        for word in line.split():
            row = _integer(word)
            if row is None:
                mistakes.append(f"{path}:{number}: expected integers, found {word[:40]!r}")
            elif row in queries:
                mistakes.append(f"{path}:{number}: row {row} is listed twice")
            else:
                queries[row] = number
    if not queries and not mistakes:
        mistakes.append(f"{path}: the file has no rows")
    if mistakes:
        raise BadTreeError.listing(path, mistakes)
    return queries
