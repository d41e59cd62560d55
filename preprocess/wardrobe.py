"""Who walks in the synthetic data set: build, clothes and gait of an identity, drawn from a generator.

    generator -> draw_appearance -> Appearance (build, clothes, hair, bag)   what a single picture shows
    generator -> draw_gait       -> Gait                                     what only a sequence shows

A material has a colour and a near-infrared reflectance of its own. `gap` says how little the one tells about the other:
reflectance = gap * independent + (1 - gap) * luminance. With gap 0 an infrared picture shows the brightness of the
clothes, with gap 1 only their shape; skin and hair follow nature whatever the gap.
Lengths are in body units: the height of an average person is 1.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from reid.types import Modality

Array = NDArray[np.floating]

LUMINANCE = np.array([0.299, 0.587, 0.114])
PATTERN_CONTRAST_IN_INFRARED = 0.7


class Material(NamedTuple):
    """Reflectances in [0, 1], display referred: red, green, blue and near infrared."""

    red: float
    green: float
    blue: float
    infrared: float

    def albedo(self, modality: Modality) -> Array:
        """Linear reflectance of every channel: (3,) in visible light, (1,) in infrared."""
        channels = (self.infrared,) if modality is Modality.INFRARED else (self.red, self.green, self.blue)
        return np.square(np.array(channels, dtype=np.float32))


class Pattern(IntEnum):
    PLAIN = 0
    HOOPS = 1
    PINSTRIPES = 2
    CHECKS = 3
    BAND = 4
    BLOCK = 5


class Fabric(NamedTuple):
    """A base material and, unless plain, an accent laid over it; `period` is in body units."""

    base: Material
    accent: Material
    pattern: Pattern = Pattern.PLAIN
    period: float = 0.1

    def plain(self) -> "Fabric":
        return self._replace(pattern=Pattern.PLAIN)


class Top(IntEnum):
    SLEEVELESS = 0
    SHORT_SLEEVES = 1
    LONG_SLEEVES = 2
    OPEN_JACKET = 3
    COAT = 4


class Bottom(IntEnum):
    TROUSERS = 0
    SHORTS = 1
    SKIRT = 2
    LONG_SKIRT = 3


class Hair(IntEnum):
    BALD = 0
    SHORT = 1
    LONG = 2
    BUN = 3
    CAP = 4
    HOOD = 5


class Bag(IntEnum):
    NONE = 0
    BACKPACK = 1
    SHOULDER_BAG = 2
    HANDBAG = 3


@dataclass(frozen=True, slots=True)
class Appearance:
    """Build (lengths and half widths in body units) and clothes of a person."""

    stature: float
    legs: float
    arms: float
    shoulders: float
    hips: float
    belly: float
    limbs: float
    head: float
    top: Top
    bottom: Bottom
    hair: Hair
    bag: Bag
    bag_side: int
    looseness: float
    hem: float
    top_fabric: Fabric
    sleeve_fabric: Fabric
    bottom_fabric: Fabric
    shirt: Fabric
    skin: Fabric
    hair_fabric: Fabric
    shoes: Fabric
    bag_fabric: Fabric
    has_boots: bool


@dataclass(frozen=True, slots=True)
class Gait:
    """Angles in radians, `frequency` in cycles (two steps) a frame, `lag` a phase."""

    frequency: float
    stride: float
    knee: float
    arm_swing: float
    elbow: float
    lag: float
    lean: float
    sway: float
    stance: float
    twist: float
    asymmetry: float


def draw_appearance(rng: np.random.Generator, gap: float) -> Appearance:
    top = Top(rng.choice(5, p=[0.1, 0.28, 0.28, 0.17, 0.17]))
    top_fabric = _draw_fabric(rng, gap, plain=0.4)
    has_other_sleeves = rng.random() < 0.25
    sleeves = Fabric(top_fabric.accent, top_fabric.base) if has_other_sleeves else top_fabric.plain()
    hair = Hair(rng.choice(6, p=[0.08, 0.32, 0.24, 0.12, 0.14, 0.1]))
    hair_cloth = _draw_fabric(rng, gap, plain=1.0)
    return Appearance(
        stature=_clipped_normal(rng, 1.0, 0.03),
        legs=_clipped_normal(rng, 1.0, 0.05),
        arms=_clipped_normal(rng, 1.0, 0.06),
        shoulders=_clipped_normal(rng, 0.112, 0.013),
        hips=_clipped_normal(rng, 0.088, 0.012),
        belly=_clipped_normal(rng, -0.004, 0.012),
        limbs=_clipped_normal(rng, 1.0, 0.14),
        head=_clipped_normal(rng, 0.056, 0.004),
        top=top,
        bottom=Bottom(rng.choice(4, p=[0.5, 0.2, 0.18, 0.12])),
        hair=hair,
        bag=Bag(rng.choice(4, p=[0.4, 0.25, 0.2, 0.15])),
        bag_side=int(rng.choice((-1, 1))),
        looseness=float(rng.uniform(1.0, 1.55)),
        hem=float(rng.uniform(0.75, 1.0)),
        top_fabric=top_fabric,
        sleeve_fabric=sleeves,
        bottom_fabric=_draw_fabric(rng, gap, plain=0.75),
        shirt=_draw_fabric(rng, gap, plain=1.0),
        skin=_draw_skin(rng),
        hair_fabric=hair_cloth if hair in {Hair.CAP, Hair.HOOD} else _draw_hair(rng),
        shoes=_draw_fabric(rng, gap, plain=1.0),
        bag_fabric=_draw_fabric(rng, gap, plain=0.7),
        has_boots=bool(rng.random() < 0.25),
    )


def draw_gait(rng: np.random.Generator) -> Gait:
    return Gait(
        frequency=float(rng.uniform(0.045, 0.095)),
        stride=float(rng.uniform(0.2, 0.44)),
        knee=float(rng.uniform(0.5, 1.05)),
        arm_swing=float(rng.uniform(0.08, 0.65)),
        elbow=float(rng.uniform(0.05, 0.9)),
        lag=float(rng.uniform(-0.6, 0.6)),
        lean=float(rng.uniform(-0.05, 0.2)),
        sway=float(rng.uniform(0.0, 0.022)),
        stance=float(rng.uniform(0.35, 1.25)),
        twist=float(rng.uniform(0.0, 0.3)),
        asymmetry=float(rng.uniform(-0.22, 0.22)),
    )


def _draw_fabric(rng: np.random.Generator, gap: float, plain: float) -> Fabric:
    """A fabric that is plain with probability `plain`. Base and accent differ clearly in luminance."""
    base, accent = _draw_material(rng, gap), _draw_material(rng, gap)
    if abs(_luminance(base) - _luminance(accent)) < 0.3:
        accent = _draw_material(rng, gap, value=0.9 if _luminance(base) < 0.5 else 0.12)
    softened = base.infrared + PATTERN_CONTRAST_IN_INFRARED * (accent.infrared - base.infrared)
    pattern = Pattern.PLAIN if rng.random() < plain else Pattern(int(rng.integers(1, len(Pattern))))
    return Fabric(base, accent._replace(infrared=softened), pattern, float(rng.uniform(0.07, 0.15)))


def _draw_material(rng: np.random.Generator, gap: float, value: float | None = None) -> Material:
    hue, saturation = rng.random(), rng.beta(1.2, 2.0)
    drawn, independent = rng.uniform(0.08, 0.95), rng.uniform(0.08, 0.95)
    wheel = np.clip(np.abs((hue * 6.0 + np.array([0.0, 4.0, 2.0])) % 6.0 - 3.0) - 1.0, 0.0, 1.0)
    red, green, blue = (drawn if value is None else value) * (1.0 - saturation * (1.0 - wheel))
    luminance = float(LUMINANCE @ (red, green, blue))
    return Material(red, green, blue, gap * independent + (1.0 - gap) * luminance)


def _draw_skin(rng: np.random.Generator) -> Fabric:
    """Skin reflects near-infrared light well, however dark it looks."""
    tone = rng.uniform(0.35, 1.0)
    skin = Material(0.92 * tone, 0.74 * tone**1.15, 0.62 * tone**1.3, 0.55 + 0.15 * tone)
    return Fabric(skin, skin)


def _draw_hair(rng: np.random.Generator) -> Fabric:
    tone, warmth = (
        rng.choice((0.08, 0.14, 0.3, 0.55, 0.7), p=(0.35, 0.25, 0.2, 0.12, 0.08)),
        rng.uniform(0.5, 1.0),
    )
    hair = Material(tone, tone * (0.6 + 0.4 * warmth), tone * warmth * 0.8, 0.12 + 0.7 * tone)
    return Fabric(hair, hair)


def _luminance(material: Material) -> float:
    return float(LUMINANCE @ material[:3])


def _clipped_normal(rng: np.random.Generator, mean: float, deviation: float) -> float:
    return float(mean + deviation * np.clip(rng.standard_normal(), -2.0, 2.0))
