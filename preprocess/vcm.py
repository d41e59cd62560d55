"""The official layout of HITSZ-VCM: index files -> tracklets, or an error that names the file and the line.

    root -> find_layout -> Layout -> names, rows and queries (`vcm_index.py`), each a list of its own
         -> what the lists say about each other: ranges, overlaps, identities of both splits
         -> Tree: tracklets with the paths of their frames, and what was odd about them

Pictures are found by their names alone; folders are never listed, because stray files lie in them.
"""

import json
from collections.abc import Iterator
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any, NamedTuple

from preprocess.options import Mixed
from preprocess.tree import BadTreeError, Tree
from preprocess.vcm_index import (
    BLANKS,
    INDEX_FILES,
    NAME_FILES,
    QUERY_FILE,
    TRACK_FILES,
    Name,
    Row,
    lines,
    read_names,
    read_queries,
    read_rows,
)
from reid.types import Modality, Role, Split, Tracklet

DATASET = "hitsz-vcm"
INFO_FOLDERS = (".", "info")
PICTURE_FOLDERS = {Split.TRAIN: (".", "Train", "Train/Train"), Split.TEST: (".", "Test", "Test/Test")}
LAYOUT_NAMES = {
    (".", ".", "."): "identities and index files in the root",
    ("info", ".", "."): "identities in the root, index files in info/",
    ("info", "Train", "Test"): "Train/, Test/ and info/",
    ("info", "Train/Train", "Test/Test"): "Train/Train, Test/Test and info/",
}
SYNTHETIC_FILE = "synthetic.json"


class Layout(NamedTuple):
    """Where a raw tree keeps its index files and the folders of its identities, and what to call that."""

    name: str
    info: Path
    pictures: dict[Split, Path]


def read(root: Path, mixed: Mixed = Mixed.KEEP) -> Tree:
    """Read the index files of a raw tree. Pictures are not touched. Raises BadTreeError."""
    layout = find_layout(root)
    synthesis = _synthesis(root)
    dataset = DATASET if synthesis is None else "synthetic-vcm"
    tree = Tree(root, dataset, layout.name, mixed, synthesis=synthesis)
    queries = read_queries(layout.info)
    rows = {split: read_rows(layout.info, split) for split in Split}
    names = {split: read_names(layout.info, split) for split in Split}
    folders = {
        split: "".join(f"{part}/" for part in layout.pictures[split].relative_to(root).parts)
        for split in Split
    }
    mistakes = [*_query_mistakes(queries, rows[Split.TEST]), *_overlap_of_identities(rows)]
    for split in Split:
        mistakes += _range_mistakes(split, rows[split], names[split])
    if mistakes:
        raise BadTreeError.listing(root, mistakes)
    for split in Split:
        tree.notes += _unused_lines(split, rows[split], len(names[split]))
        tree.notes += _disorder(split, rows[split], names[split])
        for row in rows[split]:
            role = (
                Role.TRAIN if split is Split.TRAIN else Role.QUERY if row.number in queries else Role.GALLERY
            )
            _add(tree, split, role, row, names[split][row.first - 1 : row.last], folders[split])
    infrared = {row.number for row in rows[Split.TEST] if row.modality is Modality.INFRARED}
    if infrared - queries.keys():
        tree.notes.append(
            f"{QUERY_FILE}: {len(infrared - queries.keys())} infrared rows of {TRACK_FILES[Split.TEST]} are no "
            f"queries, the first is row {min(infrared - queries.keys())}; they join the gallery"
        )
    return tree


def _synthesis(root: Path) -> dict[str, Any] | None:
    """What `synthesize` says about a tree of its own; None for a real one."""
    path = root / SYNTHETIC_FILE
    if not path.is_file():
        return None
    try:
        return dict(json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError) as error:
        raise BadTreeError(f"{path}: not the description of a synthetic tree: {error}") from error


def find_layout(root: Path) -> Layout:
    """Recognise how a raw tree is laid out. Raises BadTreeError that says what was looked for and what was found."""
    if not root.is_dir():
        raise BadTreeError(f"{root}: not a folder; give the folder that holds the raw VCM tree.")
    found = {
        folder: [name for name in INDEX_FILES if (root / folder / name).is_file()] for folder in INFO_FOLDERS
    }
    info = max(INFO_FOLDERS, key=lambda folder: len(found[folder]))
    missing = [name for name in INDEX_FILES if name not in found[info]]
    if missing:
        raise BadTreeError(
            f"{root}: not a raw VCM tree: {', '.join(missing)} missing (looked in {root} and {root / 'info'}). "
            f"All of {', '.join(INDEX_FILES)} must lie in one of the two."
        )
    pictures: dict[Split, str] = {}
    for split in Split:
        first = next(iter(lines(root / info / NAME_FILES[split])), "")
        identity = first.strip(BLANKS)[:4]
        candidates = [folder for folder in PICTURE_FOLDERS[split] if (root / folder / identity).is_dir()]
        if not identity or not candidates:
            looked = ", ".join(str(root / folder / (identity or "PPPP")) for folder in PICTURE_FOLDERS[split])
            raise BadTreeError(
                f"{root / info / NAME_FILES[split]}:1: no folder for the identity of its first name {first!r}; "
                f"looked for {looked}."
            )
        pictures[split] = candidates[0]
    name = LAYOUT_NAMES.get(
        (info, pictures[Split.TRAIN], pictures[Split.TEST]),
        f"train in {pictures[Split.TRAIN]}, test in {pictures[Split.TEST]}, index files in {info}",
    )
    return Layout(name, root / info, {split: root / folder for split, folder in pictures.items()})


def _query_mistakes(queries: dict[int, int], rows: list[Row]) -> Iterator[str]:
    for query, line in queries.items():
        if not 1 <= query <= len(rows):
            yield f"{QUERY_FILE}:{line}: row {query} is not one of the {len(rows)} of {TRACK_FILES[Split.TEST]}"
        elif rows[query - 1].modality is not Modality.INFRARED:
            yield f"{QUERY_FILE}:{line}: row {query} is visible, but all queries must be infrared"


def _overlap_of_identities(rows: dict[Split, list[Row]]) -> Iterator[str]:
    train = {row.identity for row in rows[Split.TRAIN]}
    for row in rows[Split.TEST]:
        if row.identity in train:
            yield f"{TRACK_FILES[Split.TEST]}:{row.number}: identity {row.identity} is also in the training split"


def _range_mistakes(split: Split, rows: list[Row], names: list[Name]) -> Iterator[str]:
    """Ranges that cannot be meant: out of bounds, reversed, shared by two rows, or about somebody else altogether."""
    inside = []
    for row in rows:
        where = f"{TRACK_FILES[split]}:{row.number}"
        if not 1 <= row.first <= row.last <= len(names):
            yield (
                f"{where}: the range {row.first} to {row.last} is not within lines 1 to {len(names)} of "
                f"{NAME_FILES[split]}"
            )
            continue
        inside.append(row)
        if not any(_agrees(row, name) for name in names[row.first - 1 : row.last]):
            yield (
                f"{where}: is about identity {row.identity}, {row.modality.name.lower()}, camera {row.camera}, but no "
                f"name in lines {row.first} to {row.last} of {NAME_FILES[split]} is"
            )
    for before, after in pairwise(sorted(inside, key=lambda row: (row.first, row.last))):
        if after.first <= before.last:
            yield (
                f"{TRACK_FILES[split]}:{after.number}: line {after.first} of {NAME_FILES[split]} already belongs to "
                f"row {before.number}"
            )


def _agrees(row: Row, name: Name) -> bool:
    return (name.identity, name.modality, name.camera) == (row.identity, row.modality, row.camera)


def _unused_lines(split: Split, rows: list[Row], num_lines: int) -> Iterator[str]:
    covered = sorted((row.first, row.last) for row in rows)
    edges = [0, *(edge for first, last in covered for edge in (first, last)), num_lines + 1]
    gaps = [
        (last + 1, first - 1) for last, first in zip(edges[::2], edges[1::2], strict=True) if first - last > 1
    ]
    if gaps:
        total = sum(last - first + 1 for first, last in gaps)
        yield (
            f"{NAME_FILES[split]}: {total} lines belong to no row of {TRACK_FILES[split]}, the first is line {gaps[0][0]}"
        )


def _disorder(split: Split, rows: list[Row], names: list[Name]) -> Iterator[str]:
    """Frames are taken in the order of the name file; it should be that of their numbers."""
    disordered = [
        row.number
        for row in rows
        if any(
            after.frame <= before.frame and after[:4] == before[:4]
            for before, after in pairwise(names[row.first - 1 : row.last])
        )
    ]
    if disordered:
        yield (
            f"{TRACK_FILES[split]}: {len(disordered)} rows list frames in another order than their numbers, the first "
            f"is row {disordered[0]}"
        )


def _add(tree: Tree, split: Split, role: Role, row: Row, names: list[Name], folder: str) -> None:
    """Add the tracklet of a row, or the tracklets that `tree.mixed` makes of it. What is split off must be of the same
    identity and modality; frames of somebody else are left out.
    """

    def tracklet(identity: int, modality: Modality, camera: int, part: list[Name]) -> Tracklet:
        frames = tuple(f"{folder}{name.path}" for name in part)
        source = TRACK_FILES[split]
        return Tracklet(split, role, identity, modality, camera, part[0].tracklet, frames, source, row.number)

    pieces = [list(piece) for _, piece in groupby(names, key=lambda name: name[:4])]
    if len(pieces) == 1:
        tree.tracklets.append(tracklet(row.identity, row.modality, row.camera, names))
        return
    where = f"{TRACK_FILES[split]}:{row.number} ({role})"
    tree.num_mixed[split] += 1
    tree.notes.append(f"{where}: mixes frames of {len(pieces)} sources, {_origins(pieces)}: {tree.mixed}")
    if tree.mixed is Mixed.KEEP:
        tree.tracklets.append(tracklet(row.identity, row.modality, row.camera, names))
    elif tree.mixed is Mixed.SPLIT:
        ours = [piece for piece in pieces if piece[0][:2] == (row.identity, row.modality)]
        tree.tracklets += [tracklet(row.identity, row.modality, piece[0].camera, piece) for piece in ours]
        left_out = [name.path for piece in pieces if piece not in ours for name in piece]
        lengths = " and ".join(str(len(piece)) for piece in ours)
        tree.notes.append(
            f"{where}: its {len(names)} frames became tracklets of {lengths}; left out: {', '.join(left_out) or 'none'}"
        )


def _origins(pieces: list[list[Name]]) -> str:
    return ", ".join(f"{piece[0].path} and {len(piece) - 1} more" for piece in pieces)
