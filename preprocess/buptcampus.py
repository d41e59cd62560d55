"""BUPTCampus: lists of tracklets and a table of their frames -> tracklets, or an error that names the file and the line.

    train.txt, query.txt, gallery.txt   lines `identity modality camera tracklet`; modality RGB, IR, or RGB/IR for both
    data_paths.json                     identity -> modality -> camera -> tracklet -> paths of the frames below DATA/

Not read: train_auxiliary.txt, whose identities are seen by one camera. The folders FakeIR hold infrared pictures that were
generated from the visible ones: they are left out unless asked for, and then join the training split only, each as one
more infrared tracklet whose source is `train.txt (FakeIR)`.

The official protocol asks twice, with either light of query.txt in the other light of gallery.txt. Ours asks once and
then the other way round, so of the lists it takes the infrared light of query.txt and the visible light of gallery.txt:
infrared-to-visible has the official queries and gallery, visible-to-infrared swaps the two. What comes nearest to the
official numbers is `pack --minimum-frames 1`, `data.clip_frames: 10` (the official frames are linspace(0, n, 10), ours
the first of each tenth) and `evaluation.drop_same_camera: false`.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from preprocess.options import Mixed
from preprocess.tree import BadTreeError, Tree, read_index
from reid.types import Modality, Role, Split, Tracklet

PATHS_FILE = "data_paths.json"
LISTS = {Role.TRAIN: "train.txt", Role.QUERY: "query.txt", Role.GALLERY: "gallery.txt"}
PUBLISHED_LINES = {Role.TRAIN: 3_574, Role.QUERY: 1_076, Role.GALLERY: 4_844}
CAMERAS = {name: number for number, name in enumerate(("LS3", "G25", "CQ1", "W4", "TSG1", "TSG2"), 1)}
FOLDERS = {Modality.VISIBLE: "RGB", Modality.INFRARED: "IR"}
FAKE = "FakeIR"
TAKEN = {
    Role.TRAIN: tuple(FOLDERS),
    Role.QUERY: (Modality.INFRARED,),
    Role.GALLERY: (Modality.VISIBLE,),
}

_LINE = re.compile(r"([0-9]{1,5}) (RGB/IR|RGB|IR) ([A-Z0-9]+) ([0-9]{1,6})", re.ASCII)
_FRAME = re.compile(r"(?:[A-Za-z0-9_-]+/)+[A-Za-z0-9_-]+\.jpg", re.ASCII)


class Line(NamedTuple):
    """A line of a list: the words that find its frames in the table."""

    number: int
    identity: str
    modalities: tuple[Modality, ...]
    camera: str
    tracklet: str


def is_here(root: Path) -> bool:
    """Whether a folder is a BUPTCampus tree."""
    return (root / PATHS_FILE).is_file()


def read(root: Path, mixed: Mixed = Mixed.KEEP, *, fake_infrared: bool = False) -> Tree:
    """Read the lists of a BUPTCampus tree. Pictures are not touched. Raises BadTreeError.

    `fake_infrared` adds what was generated from the visible tracklets of the training split.
    """
    table = _read_table(root / PATHS_FILE)
    tree = Tree(root, "buptcampus", "BUPTCampus: lists in the root, pictures in DATA/", mixed)
    mistakes: list[str] = []
    for role, name in LISTS.items():
        lines = list(_lines(root / name, mistakes))
        if len(lines) != PUBLISHED_LINES[role]:
            tree.notes.append(f"{name}: {PUBLISHED_LINES[role]:,} lines published, {len(lines):,} found")
        left_out = sum(light not in TAKEN[role] for line in lines for light in line.modalities)
        if left_out:
            tree.notes.append(
                f"{name}: {left_out:,} tracklets of the light that our protocol does not ask for"
            )
        for line in lines:
            tree.tracklets += _tracklets(role, line, table, mistakes)
        if fake_infrared and role is Role.TRAIN:
            fakes = [fake for line in lines for fake in _fakes(line, table, mistakes)]
            tree.notes.append(f"{name}: {len(fakes):,} tracklets of {FAKE} join it, which no camera has seen")
            tree.tracklets += fakes
    train = {tracklet.identity for tracklet in tree.tracklets if tracklet.split is Split.TRAIN}
    mistakes += [
        f"{tracklet.source}:{tracklet.row}: identity {tracklet.identity} is also in the training split"
        for tracklet in tree.tracklets
        if tracklet.split is Split.TEST and tracklet.identity in train
    ]
    if mistakes:
        raise BadTreeError.listing(root, mistakes)
    return tree


def _read_table(path: Path) -> dict[str, Any]:
    data = read_index(path, "table of frames")
    try:
        table = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadTreeError(f"{path}: not JSON: {error}") from error
    if not isinstance(table, dict):
        raise BadTreeError(
            f"{path}: expected an object, identity -> modality -> camera -> tracklet -> frames."
        )
    return table


def _lines(path: Path, mistakes: list[str]) -> Iterator[Line]:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise BadTreeError(f"{path}: cannot be read as text: {error}") from error
    seen: dict[str, int] = {}
    for number, words in enumerate(text.splitlines(), 1):
        match = _LINE.fullmatch(words.strip())
        if match is None or match[3] not in CAMERAS:
            mistakes.append(
                f"{path.name}:{number}: expected `identity modality camera tracklet`, modality RGB, IR or RGB/IR, "
                f"camera one of {', '.join(CAMERAS)}; found {words[:80]!r}"
            )
        elif match[0] in seen:
            mistakes.append(f"{path.name}:{number}: line {seen[match[0]]} again")
        else:
            seen[match[0]] = number
            modalities = tuple(light for light, folder in FOLDERS.items() if folder in match[2].split("/"))
            yield Line(number, match[1], modalities, match[3], match[4])
    if not seen:
        mistakes.append(f"{path.name}: the file has no lines")


def _tracklets(role: Role, line: Line, table: dict[str, Any], mistakes: list[str]) -> Iterator[Tracklet]:
    for modality in (light for light in line.modalities if light in TAKEN[role]):
        frames = _frames(LISTS[role], line, FOLDERS[modality], table, mistakes)
        if frames:
            yield _tracklet(role, line, modality, frames, LISTS[role])


def _fakes(line: Line, table: dict[str, Any], mistakes: list[str]) -> Iterator[Tracklet]:
    """What was generated from the visible tracklet of a line of the training split."""
    name = LISTS[Role.TRAIN]
    if Modality.VISIBLE in line.modalities:
        frames = _frames(name, line, FAKE, table, mistakes)
        if frames:
            yield _tracklet(Role.TRAIN, line, Modality.INFRARED, frames, f"{name} ({FAKE})")


def _tracklet(role: Role, line: Line, modality: Modality, frames: tuple[str, ...], source: str) -> Tracklet:
    return Tracklet(
        split=Split.TRAIN if role is Role.TRAIN else Split.TEST,
        role=role,
        identity=int(line.identity),
        modality=modality,
        camera=CAMERAS[line.camera],
        tracklet=int(line.tracklet),
        frames=frames,
        source=source,
        row=line.number,
    )


def _frames(
    name: str, line: Line, folder: str, table: dict[str, Any], mistakes: list[str]
) -> tuple[str, ...]:
    """The paths of the frames of a line in one of the folders of its identity; none after a mistake."""
    place = (line.identity, folder, line.camera, line.tracklet)
    frames: Any = table
    for word in place:
        frames = frames.get(word) if isinstance(frames, dict) else None
    if not isinstance(frames, list) or not frames:
        mistakes.append(f"{name}:{line.number}: {PATHS_FILE} has no frames at {' -> '.join(place)}")
        return ()
    wrong = [frame for frame in frames if not _is_frame(frame, folder)]
    if wrong:
        mistakes.append(
            f"{name}:{line.number}: {PATHS_FILE} names {str(wrong[0])[:80]!r}, which is no frame of {place}"
        )
        return ()
    return tuple(f"DATA/{frame}" for frame in frames)


def _is_frame(frame: object, folder: str) -> bool:
    """A path below DATA/ that leads nowhere else, through the folder that it is looked for in."""
    return isinstance(frame, str) and _FRAME.fullmatch(frame) is not None and folder in frame.split("/")
