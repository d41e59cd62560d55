"""The choices of a synthetic data set. Imports nothing heavy, because the command line reads it to show its help."""

from dataclasses import dataclass
from enum import StrEnum

VCM_IDENTITIES, VCM_TRAIN_IDENTITIES = 927, 500


class Cues(StrEnum):
    """What tells identities apart. A cue that is left out is drawn anew for every tracklet."""

    BOTH = "both"
    APPEARANCE = "appearance"
    GAIT = "gait"


@dataclass(frozen=True, slots=True)
class SyntheticConfig:
    """Size, difficulty and seed of a data set. The default fits a demonstration on two cores."""

    num_identities: int = 160
    """People of both splits."""
    num_train_identities: int | None = None
    """People to train on, if not in VCM's proportion."""
    tracklets_per_modality: int = 7
    """Tracklets of a person in each light."""
    num_cameras: int = 12
    """Odd ones see visible light, even ones infrared."""
    height: int = 96
    """Pixels."""
    width: int = 48
    """Pixels."""
    gap: float = 0.3
    """Share of the near-infrared reflectance, 0 to 1, that colour says nothing about."""
    nuisance: float = 0.5
    """How strong light, blur, shaking and occlusion are, 0 to 1."""
    short_fraction: float = 0.12
    """Share of the tracklets that have fewer than 12 frames."""
    cues: Cues = Cues.BOTH
    """What tells people apart."""
    seed: int = 0
    """Every pixel follows from it."""

    def __post_init__(self) -> None:
        wrong = [
            f"{name} must be {wanted}, found {getattr(self, name)}"
            for name, wanted, holds in (
                ("num_identities", f"2 to {VCM_IDENTITIES}", 2 <= self.num_identities <= VCM_IDENTITIES),
                ("tracklets_per_modality", "2 to 99", 2 <= self.tracklets_per_modality <= 99),
                ("num_cameras", "4 to 99", 4 <= self.num_cameras <= 99),
                ("height", "32 to 1024", 32 <= self.height <= 1024),
                ("width", f"16 to the height, {self.height}", 16 <= self.width <= self.height),
                ("gap", "0 to 1", 0.0 <= self.gap <= 1.0),
                ("nuisance", "0 to 1", 0.0 <= self.nuisance <= 1.0),
                ("short_fraction", "0 to 1", 0.0 <= self.short_fraction <= 1.0),
                ("cues", f"one of {', '.join(Cues)}", self.cues in set(Cues)),
                ("seed", "0 or more", self.seed >= 0),
            )
            if not holds
        ]
        if self.num_train_identities is not None and not 0 < self.num_train_identities < self.num_identities:
            wrong.append(
                f"num_train_identities must leave both splits an identity of num_identities {self.num_identities}, "
                f"found {self.num_train_identities}"
            )
        if wrong:
            raise ValueError("no such synthetic data set: " + "; ".join(wrong))

    def train_identities(self) -> list[int]:
        """Person ids of the train split, 1 to their number."""
        share = self.num_identities * VCM_TRAIN_IDENTITIES / VCM_IDENTITIES
        count = self.num_train_identities or min(max(round(share), 1), self.num_identities - 1)
        return list(range(1, count + 1))

    def test_identities(self) -> list[int]:
        """Person ids of the test split: after those of the train split and, as in VCM, not without gaps."""
        first = len(self.train_identities()) + 1
        return [first + index + index // 9 for index in range(self.num_identities - first + 1)]
