"""The nouns that every room shares. Imports nothing of ours, and no tensor library.

A tracklet is all frames of one person in one camera, seen in one modality. Numbers are those of the official VCM index
files, so a row of a manifest can be held beside a row of `track_train_info.txt`.
"""

from dataclasses import dataclass
from enum import IntEnum, StrEnum


class Modality(IntEnum):
    """The light a camera sees. The integers are those of the VCM track files."""

    INFRARED = 1
    VISIBLE = 2

    @property
    def folder(self) -> str:
        """The folder of this modality below an identity's folder: `ir` or `rgb`."""
        return "ir" if self is Modality.INFRARED else "rgb"


class Split(StrEnum):
    TRAIN = "train"
    TEST = "test"


class Role(StrEnum):
    """What a tracklet is for. The infrared-to-visible search uses QUERY rows as queries and GALLERY rows as gallery;
    the visible-to-infrared search swaps the two."""

    TRAIN = "train"
    QUERY = "query"
    GALLERY = "gallery"


class Direction(StrEnum):
    """Which modality asks and which one answers."""

    INFRARED_TO_VISIBLE = "infrared_to_visible"
    VISIBLE_TO_INFRARED = "visible_to_infrared"


@dataclass(frozen=True, slots=True)
class Tracklet:
    """One tracklet of a raw data set, before it is packed.

    `frames` are paths relative to the root of the raw tree, in the order of filming. `camera` and `tracklet` are the
    data set's own numbers; (identity, modality, camera, tracklet) need not be unique, `row` is: the 1-based row of the
    index file `source` the tracklet was read from.
    """

    split: Split
    role: Role
    identity: int
    modality: Modality
    camera: int
    tracklet: int
    frames: tuple[str, ...]
    source: str
    row: int
