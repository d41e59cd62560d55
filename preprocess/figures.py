"""Walking figures: the pose of a gait and the solid parts a person is made of.

    phases (n,) -> joints -> points of the body, (n, 3) each
                -> parts  -> Parts: sticks in body space, each with its fabric

Body space: x points the way the figure walks, y to its left, z up; the unit is the height of an average person and the
ground is z = 0. Nothing here knows a camera.
"""

from dataclasses import dataclass

import numpy as np

from preprocess.wardrobe import Appearance, Array, Bag, Bottom, Fabric, Gait, Hair, Material, Top


@dataclass(frozen=True, slots=True)
class Part:
    """A stick from `start` to `end`, (n, 3) each, whose half width runs from one radius to the other.

    `bulge` is added to the half width in the middle; `depth_ratio` is depth over width of the cross section;
    a `flat` part is cut at its ends, any other is round. Radii are floats, or (n,) when they change with the pose.
    A part with the higher `layer` is worn over the others: it counts as that much nearer to the camera.
    """

    start: Array
    end: Array
    start_radius: float | Array
    end_radius: float | Array
    fabric: Fabric
    bulge: float = 0.0
    depth_ratio: float = 1.0
    flat: bool = False
    layer: float = 0.0


def joints(appearance: Appearance, gait: Gait, phase: Array) -> dict[str, Array]:
    """The body's points at each phase (n,) of the cycle, each (n, 3). The lower foot stands on the ground.

    Points of a side are named `left_knee`, `right_knee` and so on.
    """
    thigh, shank, foot = 0.245 * appearance.legs, 0.235 * appearance.legs, 0.085
    torso, upper_arm, forearm = 0.3, 0.15 * appearance.arms, 0.14 * appearance.arms
    points: dict[str, Array] = {}
    middle = _point(0.0, gait.sway * np.sin(phase), np.zeros_like(phase))
    points["pelvis"] = middle
    spine = np.array([np.sin(gait.lean), 0.0, np.cos(gait.lean)], dtype=np.float32)
    points["neck"] = points["pelvis"] + torso * spine
    points["head"] = points["neck"] + _forward(0.012) + _up(0.075) + np.float32(0.035) * spine
    for side, sign, step in (("left", 1.0, phase), ("right", -1.0, phase + np.float32(np.pi))):
        swing = gait.stride * (1.0 + sign * gait.asymmetry) * np.sin(step) + 0.06
        bend = 0.08 + gait.knee * np.square(0.5 + 0.5 * np.cos(step - 0.35))
        hip = middle + _point(0.0, np.full_like(phase, sign * 0.6 * appearance.hips), np.zeros_like(phase))
        inward = sign * 0.6 * appearance.hips * (gait.stance - 1.0)
        knee = hip + _hanging(thigh, swing, 0.5 * inward)
        ankle = knee + _hanging(shank, swing - bend, 0.5 * inward)
        pitch = 0.75 * (swing - bend)
        points[f"{side}_hip"], points[f"{side}_knee"], points[f"{side}_ankle"] = hip, knee, ankle
        points[f"{side}_toe"] = ankle + _point(foot * np.cos(pitch), 0.0 * pitch, foot * np.sin(pitch) - 0.01)

        turn = gait.twist * np.sin(phase)
        shoulder = points["neck"] - 0.035 * spine
        shoulder = shoulder + sign * appearance.shoulders * _point(
            -np.sin(turn), np.cos(turn), np.zeros_like(phase)
        )
        arm = -gait.arm_swing * (1.0 - sign * gait.asymmetry) * np.sin(step + gait.lag) + 0.5 * gait.lean
        elbow = shoulder + _hanging(upper_arm, arm, sign * 0.022)
        bow = gait.elbow * (1.0 + 0.35 * np.sin(step + gait.lag + np.float32(np.pi)))
        hand = elbow + _hanging(forearm, arm + bow, sign * 0.006)
        points[f"{side}_shoulder"], points[f"{side}_elbow"], points[f"{side}_hand"] = shoulder, elbow, hand
    feet = np.stack([points[name][:, 2] for name in ("left_ankle", "right_ankle", "left_toe", "right_toe")])
    rise = _point(0.0, np.zeros_like(phase), 0.028 - feet.min(axis=0))
    return {name: (point + rise) * np.float32(appearance.stature) for name, point in points.items()}


def parts(appearance: Appearance, points: dict[str, Array]) -> list[Part]:
    """The figure as parts in no particular order; a camera sorts them by depth."""
    dressed = [*_trunk(appearance, points), *_head(appearance, points), *_bag(appearance, points)]
    for side in ("left", "right"):
        dressed += _leg(appearance, points, side)
        dressed += _arm(appearance, points, side)
    return dressed


def _trunk(who: Appearance, at: dict[str, Array]) -> list[Part]:
    pelvis, neck = at["pelvis"], at["neck"]
    spread = np.abs(at["left_knee"] - at["right_knee"])[:, 0]
    knees = 0.5 * (at["left_knee"] + at["right_knee"])
    ankles = 0.5 * (at["left_ankle"] + at["right_ankle"])
    hem = pelvis - _up(0.03)
    yoke = 0.75 * (at["left_shoulder"] - at["right_shoulder"]) / 2
    middle = 0.5 * (at["left_shoulder"] + at["right_shoulder"])
    cloth = who.top_fabric
    trunk = [
        Part(
            middle - _up(0.01),
            hem,
            who.shoulders,
            who.hips * 1.06,
            cloth,
            who.belly,
            0.62,
            flat=True,
            layer=0.03,
        ),
        Part(middle + yoke, middle - yoke, 0.04, 0.04, cloth.plain()),
        Part(
            middle,
            neck + _up(0.012),
            0.72 * who.shoulders,
            0.036,
            cloth.plain(),
            0.0,
            0.6,
            flat=True,
            layer=0.03,
        ),
        Part(neck, neck + _up(0.04), 0.031, 0.028, who.skin, layer=0.025),
        Part(
            pelvis + _up(0.02), pelvis - _up(0.03), who.hips, who.hips, who.bottom_fabric.plain(), 0.0, 0.75
        ),
    ]
    if who.top in {Top.OPEN_JACKET, Top.COAT}:
        front = _forward(0.6 * (who.shoulders + who.hips) / 2)
        opening = Part(middle + front, hem + front, 0.045, 0.034, who.shirt, 0.0, 0.4, flat=True, layer=0.031)
        trunk.append(opening)
    if who.top is Top.COAT:
        tail = pelvis + who.hem * 0.85 * (knees - pelvis)
        flare = who.hips * 1.2 + 0.25 * spread
        trunk.append(
            Part(pelvis, tail, who.hips * 1.06, flare, cloth.plain(), 0.0, 0.75, flat=True, layer=0.25)
        )
    if who.bottom in {Bottom.SKIRT, Bottom.LONG_SKIRT}:
        below = knees if who.bottom is Bottom.SKIRT else 0.3 * knees + 0.7 * ankles
        tail = pelvis + who.hem * (below - pelvis)
        flare = who.hips * who.looseness + 0.35 * spread
        skirt = Part(pelvis, tail, who.hips, flare, who.bottom_fabric, 0.0, 0.85, flat=True, layer=0.2)
        trunk.append(skirt)
    return trunk


def _head(who: Appearance, at: dict[str, Array]) -> list[Part]:
    centre, size = at["head"], who.head
    up, down = centre + _up(0.02), centre - _up(0.022)
    face = [Part(up, down, size, size * 0.82, who.skin)]
    eye = Fabric(Material(0.18, 0.13, 0.12, 0.35), who.skin.base)
    for side in (-1.0, 1.0):
        spot = centre + _forward(size * 0.95) + _left(side * size * 0.4) + _up(0.004)
        face.append(Part(spot, spot + _left(0.003), 0.005, 0.005, eye))
    back, cloth = _forward(-0.028), who.hair_fabric
    if who.hair is not Hair.BALD:
        low = 0.024 if who.hair in {Hair.LONG, Hair.HOOD} else -0.006
        wide = 1.16 if who.hair is Hair.HOOD else 1.06
        face.append(Part(up + back + _up(0.006), centre + back - _up(low), size * wide, size * wide, cloth))
    if who.hair in {Hair.SHORT, Hair.LONG, Hair.BUN}:
        crown = centre + _up(0.056) + _forward(-0.018)
        face.append(Part(crown, crown + _up(0.012), size * 0.92, size * 0.75, cloth, layer=0.03))
    if who.hair is Hair.LONG:
        face.append(Part(centre + back, at["neck"] + _forward(-0.06) - _up(0.1), size, size * 0.85, cloth))
    if who.hair is Hair.BUN:
        knot = centre + _forward(-0.07) + _up(0.055)
        face.append(Part(knot, knot + _up(0.01), 0.034, 0.03, cloth))
    if who.hair is Hair.HOOD:
        face.append(
            Part(at["neck"] - _forward(0.05), at["neck"] - _forward(0.06), 0.075, 0.075, cloth, 0.0, 0.8)
        )
    if who.hair is Hair.CAP:
        brim = centre + _up(0.042)
        face.append(Part(brim + _forward(0.01), brim + _up(0.022), size * 1.12, size, cloth, flat=True))
        face.append(
            Part(brim + _forward(0.04), brim + _forward(0.1), size * 0.75, size * 0.5, cloth, 0.0, 0.25)
        )
    return face


def _leg(who: Appearance, at: dict[str, Array], side: str) -> list[Part]:
    hip, knee, ankle, toe = (at[f"{side}_{name}"] for name in ("hip", "knee", "ankle", "toe"))
    loose = who.looseness if who.bottom is Bottom.TROUSERS else 1.0
    cover = who.bottom_fabric.plain() if who.bottom is Bottom.TROUSERS else who.skin
    wide = who.limbs * (0.6 + 0.4 * loose)
    cuff = 0.027 * who.limbs * loose**1.3
    leg = [
        Part(hip, knee, 0.058 * wide, 0.042 * wide, cover),
        Part(knee, ankle, 0.043 * wide, cuff, cover),
        Part(ankle - _up(0.002), toe, 0.032, 0.026, who.shoes, layer=0.01),
    ]
    if who.bottom is Bottom.SHORTS:
        hem = hip + who.hem * 0.8 * (knee - hip)
        width = 0.056 * (0.5 + 0.5 * who.looseness)
        leg.append(
            Part(hip, hem, 0.066 * who.limbs, width * who.limbs, who.bottom_fabric, flat=True, layer=0.02)
        )
    if who.has_boots:
        leg.append(
            Part(
                ankle + 0.5 * (knee - ankle),
                ankle,
                0.042 * who.limbs,
                0.034,
                who.shoes,
                flat=True,
                layer=0.02,
            )
        )
    return leg


def _arm(who: Appearance, at: dict[str, Array], side: str) -> list[Part]:
    shoulder, elbow, hand = (at[f"{side}_{name}"] for name in ("shoulder", "elbow", "hand"))
    has_long_sleeves = who.top in {Top.LONG_SLEEVES, Top.OPEN_JACKET, Top.COAT}
    cover = who.sleeve_fabric if has_long_sleeves else who.skin
    wide = who.limbs * (1.15 if who.top is Top.COAT else 1.0)
    arm = [
        Part(shoulder, elbow, 0.036 * wide, 0.03 * wide, cover),
        Part(elbow, hand, 0.03 * wide, 0.022 * wide, cover),
        Part(hand, hand + 0.14 * (hand - elbow), 0.022, 0.019, who.skin),
    ]
    if who.top is Top.SHORT_SLEEVES:
        cuff = shoulder + 0.72 * who.hem * (elbow - shoulder)
        arm.append(Part(shoulder, cuff, 0.041 * wide, 0.042 * wide, who.sleeve_fabric, flat=True, layer=0.02))
        arm.append(
            Part(shoulder, shoulder - _up(0.004), 0.04 * wide, 0.04 * wide, who.sleeve_fabric, layer=0.02)
        )
    return arm


def _bag(who: Appearance, at: dict[str, Array]) -> list[Part]:
    neck, pelvis = at["neck"], at["pelvis"]
    fabric, strap = who.bag_fabric, who.bag_fabric.plain()
    side = float(who.bag_side)
    if who.bag is Bag.BACKPACK:
        back = _forward(-0.11)
        bag = [Part(neck + back - _up(0.05), pelvis + back + _up(0.07), 0.085, 0.095, fabric, 0.0, 0.6)]
        for lane in (-0.06, 0.06):
            front = _forward(0.075) + _left(lane)
            bag.append(Part(neck + front - _up(0.02), pelvis + front + _up(0.12), 0.012, 0.012, strap))
        return bag
    if who.bag is Bag.SHOULDER_BAG:
        hip = pelvis + _left(side * (who.hips + 0.035))
        bag = [Part(hip + _up(0.05), hip - _up(0.06), 0.055, 0.06, fabric, 0.0, 1.5, flat=True)]
        for ahead in (-0.085, 0.085):
            shoulder = neck + _left(-side * 0.05) + _forward(0.6 * ahead)
            bag.append(Part(shoulder, hip + _forward(ahead) + _up(0.04), 0.011, 0.011, strap))
        return bag
    if who.bag is Bag.HANDBAG:
        hand = at["left_hand" if who.bag_side > 0 else "right_hand"]
        return [
            Part(hand, hand - _up(0.05), 0.012, 0.02, strap),
            Part(hand - _up(0.05), hand - _up(0.16), 0.045, 0.06, fabric, 0.0, 1.3, flat=True),
        ]
    return []


def _point(x: Array | float, y: Array, z: Array) -> Array:
    return np.stack(np.broadcast_arrays(x, y, z), axis=-1).astype(np.float32)


def _hanging(length: float, angle: Array, outward: float) -> Array:
    """From a joint to the next one down a limb that swings forward by `angle`."""
    return _point(length * np.sin(angle), np.full_like(angle, outward), -length * np.cos(angle))


def _forward(distance: float) -> Array:
    return np.array([distance, 0.0, 0.0], dtype=np.float32)


def _left(distance: float) -> Array:
    return np.array([0.0, distance, 0.0], dtype=np.float32)


def _up(distance: float) -> Array:
    return np.array([0.0, 0.0, distance], dtype=np.float32)
