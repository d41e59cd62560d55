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
    the visible-to-infrared search swaps the two.
    """

    TRAIN = "train"
    QUERY = "query"
    GALLERY = "gallery"


class Direction(StrEnum):
    """Which modality asks and which one answers."""

    INFRARED_TO_VISIBLE = "infrared_to_visible"
    VISIBLE_TO_INFRARED = "visible_to_infrared"


class Guide(StrEnum):
    """How much of FRM-STIG exists: all of it, without LSTM_spa, or FR-E-TI alone (the last rows of Table 1)."""

    FULL = "frm_stig"
    WITHOUT_SPATIAL = "frm_stig_star"
    MOTION_ONLY = "fr_e_ti"


class Variant(StrEnum):
    """The rows of Table 1: which parts of the paper exist."""

    BASELINE = "baseline"
    ASAM = "asam"
    ADM = "adm"
    FRM_STIG = "frm_stig"
    ASAM_ADM = "asam_adm"
    ASAM_ADM_FR_E_TI = "asam_adm_fr_e_ti"
    ASAM_ADM_FRM_STIG_STAR = "asam_adm_frm_stig_star"
    FULL = "full"

    @property
    def attacker(self) -> bool:
        """Whether ASAM exists."""
        return self not in {Variant.BASELINE, Variant.ADM, Variant.FRM_STIG}

    @property
    def cross_attention(self) -> bool:
        """Whether ADM exists, that is, whether the defence has its two CMCA."""
        return self not in {Variant.BASELINE, Variant.ASAM, Variant.FRM_STIG}

    @property
    def guide(self) -> Guide | None:
        """How much of FRM-STIG exists."""
        return {
            Variant.FRM_STIG: Guide.FULL,
            Variant.ASAM_ADM_FR_E_TI: Guide.MOTION_ONLY,
            Variant.ASAM_ADM_FRM_STIG_STAR: Guide.WITHOUT_SPATIAL,
            Variant.FULL: Guide.FULL,
        }.get(self)


class Recipe(StrEnum):
    """How the updates of a stage share optimizer steps [A25]: one each, attack apart, or all in one (Eq. 17)."""

    ALGORITHM1 = "algorithm1"
    MERGED = "merged"
    JOINT = "joint"


class Embedding(StrEnum):
    """What retrieval compares [A20]. `auto` is the guided vector where FRM-STIG exists, else the global one."""

    AUTO = "auto"
    GUIDED = "guided"
    GLOBAL = "global"
    SELF_ATTENDED = "self_attended"
    BOTH = "both"


class Distance(StrEnum):
    """What a triplet measures [A23]: Euclidean between unit vectors or as they are, or the literal square of Eq. 10."""

    EUCLIDEAN_UNIT = "euclidean_unit"
    EUCLIDEAN = "euclidean"
    SQUARED = "squared"


class Goal(StrEnum):
    """What an attack leads a query's embedding away from."""

    MATCH = "match"
    SELF = "self"
    BOTH = "both"

    @property
    def description(self) -> str:
        return {
            Goal.MATCH: "the mean of the right answers",
            Goal.SELF: "the query's own clean embedding",
            Goal.BOTH: "the right answers and the query's own clean embedding",
        }[self]


class ToldElsewhereError(ValueError):
    """A mistake of the user that the leading process of a launch tells; the others only stop."""


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
