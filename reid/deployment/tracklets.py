"""Who can be found, and who is looked for: tracklets of a packed data set, or of plain folders of pictures.

    packed data set                  -> its test tracklets, with identity and camera
    FOLDER/rgb/NAME/*.jpg,
    FOLDER/ir/NAME/*.jpg             -> a tracklet a NAME, of unknown people; frames in the order of their names
    name in the gallery, or a folder -> the tracklet that is looked for

Each gives clips as evaluation makes them: T frames, evenly spaced, decoded strictly, at the size of the network.
"""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from reid.data.clips import ClipReader, ClipShape, decode, test_indices
from reid.data.dataset import open_dataset
from reid.data.description import DESCRIPTION
from reid.data.manifest import Manifest
from reid.data.shards import LARGEST_FRAME
from reid.data.web import is_address
from reid.types import Modality, Role

SUFFIXES = {".jpg", ".jpeg"}
FOLDERS = {modality.folder: modality for modality in Modality}
LAYOUT = "expected rgb/NAME/*.jpg and ir/NAME/*.jpg in it, or a packed data set"

Pixels = NDArray[np.uint8]


class Tracklet(Protocol):
    """Frames of one person. `identity` and `camera` are None where nobody knows them."""

    @property
    def key(self) -> str: ...
    @property
    def modality(self) -> Modality: ...
    @property
    def num_frames(self) -> int: ...
    @property
    def identity(self) -> int | None: ...
    @property
    def camera(self) -> int | None: ...

    def read(self, clip: Pixels, place: int = 0) -> None:
        """Fill a clip (T, H, W, 3) with frame `place` of each of T chunks. Raises ValueError for a broken picture."""


@dataclass(frozen=True)
class Gallery:
    """Tracklets that can be found, and the sha256 of what they are made of. `find` knows them by key, and maybe more."""

    place: str
    digest: str
    tracklets: tuple[Tracklet, ...]
    find: Callable[[str], Tracklet | None]
    synthetic: bool | None = None


@dataclass(frozen=True)
class PackedTracklet:
    """A row of a packed data set."""

    manifest: Manifest
    reader: ClipReader
    row: int

    @property
    def key(self) -> str:
        return self.manifest.key(self.row)

    @property
    def modality(self) -> Modality:
        return Modality(int(self.manifest.modality[self.row]))

    @property
    def num_frames(self) -> int:
        return int(self.manifest.num_frames[self.row])

    @property
    def identity(self) -> int:
        return int(self.manifest.identity[self.row])

    @property
    def camera(self) -> int:
        return int(self.manifest.camera[self.row])

    def read(self, clip: Pixels, place: int = 0) -> None:
        self.reader.read_for_test(np.array([self.row]), clip[None], place)


@dataclass(frozen=True)
class FolderTracklet:
    """A folder of pictures."""

    key: str
    modality: Modality
    frames: tuple[Path, ...]
    identity: None = field(default=None, init=False)
    camera: None = field(default=None, init=False)

    @property
    def num_frames(self) -> int:
        return len(self.frames)

    def read(self, clip: Pixels, place: int = 0) -> None:
        for index, picture in zip(test_indices(self.num_frames, len(clip), place), clip, strict=True):
            path = self.frames[index]
            if path.stat().st_size > LARGEST_FRAME:
                raise ValueError(f"{path}: larger than the {LARGEST_FRAME:,} bytes that a frame may have")
            try:
                decode(path.read_bytes(), picture)
            except ValueError as error:
                raise ValueError(f"{path}: not an intact JPEG: {error}") from error


def open_gallery(place: str, shape: ClipShape, minimum_frames: int | None = None) -> Gallery:
    """A packed data set, in a folder or at an address, or a folder of tracklets.

    Of a packed one, the test tracklets of at least `minimum_frames` frames can be found. Raises ValueError where there is
    neither, or a tracklet without frames.
    """
    if is_address(place) or (Path(place) / DESCRIPTION).is_file():
        return _packed(open_dataset(place), shape, minimum_frames)
    return _folder(Path(place))


def tracklet_of(named: str, gallery: Gallery, modality: Modality | None = None) -> Tracklet:
    """The tracklet that a name in the gallery, or a folder of frames, stands for.

    The `modality` of a folder is needed unless it lies in one named `rgb` or `ir`. Raises ValueError if there is no such
    tracklet, if it has no frames, or if its modality is unknown or not the given one.
    """
    tracklet = gallery.find(named)
    if tracklet is None:
        path = Path(named)
        if not path.is_dir():
            first = ", ".join(tracklet.key for tracklet in gallery.tracklets[:2])
            raise ValueError(
                f"{named}: neither a tracklet of {gallery.place} (such as {first}) nor a folder of frames"
            )
        known = FOLDERS.get(path.resolve().parent.name, modality)
        if known is None:
            raise ValueError(
                f"{path}: which light was it filmed in? Say --modality visible or infrared, or put it into a folder named "
                "rgb or ir"
            )
        tracklet = FolderTracklet(named, known, _frames(path))
    if modality not in {None, tracklet.modality}:
        raise ValueError(
            f"{named}: --modality says {modality.name.lower()}, but it is {tracklet.modality.name.lower()}"
        )
    return tracklet


def _packed(manifest: Manifest, shape: ClipShape, minimum_frames: int | None) -> Gallery:
    reader = ClipReader(manifest, shape)
    rows = np.sort(
        np.concatenate([manifest.rows(role, None, minimum_frames) for role in (Role.QUERY, Role.GALLERY)])
    )
    if not len(rows):
        raise ValueError(
            f"{manifest.place}: it holds no test tracklet that could be found; pack a test split"
        )

    def find(key: str) -> Tracklet | None:
        row = next((row for row in range(len(manifest)) if manifest.key(row) == key), None)
        return None if row is None else PackedTracklet(manifest, reader, row)

    tracklets = tuple(PackedTracklet(manifest, reader, row) for row in rows.tolist())
    return Gallery(str(manifest.place), manifest.digest, tracklets, find, manifest.synthetic)


def _folder(root: Path) -> Gallery:
    tracklets = tuple(
        FolderTracklet(f"{name}/{path.name}", modality, _frames(path))
        for name, modality in sorted(FOLDERS.items())
        for path in sorted((root / name).glob("[!.]*"), key=_in_order)
        if path.is_dir()
    )
    if not tracklets:
        raise ValueError(f"{root}: no tracklets here; {LAYOUT}")
    content = hashlib.sha256()
    for frame in (frame for tracklet in tracklets for frame in tracklet.frames):
        state = frame.stat()
        content.update(f"{frame.relative_to(root)}\0{state.st_size}\0{state.st_mtime_ns}\n".encode())
    by_key = {tracklet.key: tracklet for tracklet in tracklets}
    return Gallery(str(root.resolve()), content.hexdigest(), tracklets, by_key.get)


def _frames(folder: Path) -> tuple[Path, ...]:
    frames = sorted(
        (path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file()),
        key=_in_order,
    )
    if not frames:
        raise ValueError(f"{folder}: no frames of a tracklet here; expected JPEG pictures, *.jpg")
    return tuple(frames)


def _in_order(path: Path) -> list[tuple[int, str]]:
    """Names as people sort them: frame 9 before frame 10."""
    parts = re.split(r"([0-9]+)", path.name)
    return [(int(part) if part.isdecimal() else 0, part) for part in parts]
