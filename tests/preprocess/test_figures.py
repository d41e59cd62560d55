"""Bodies and their gait: proportions, poses, and what moves with what."""

import dataclasses

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from preprocess.figures import joints, parts
from preprocess.wardrobe import Bag, Bottom, Hair, draw_appearance, draw_gait

CYCLE = np.linspace(0, 2 * np.pi, 33, dtype=np.float32)


def person(seed):
    rng = np.random.default_rng(seed)
    return draw_appearance(rng, 0.3), draw_gait(rng)


def lengths(points, start, end):
    return np.linalg.norm(points[end] - points[start], axis=1)


@given(st.integers(0, 2**20))
def test_the_lower_foot_always_stands_on_the_ground(seed):
    appearance, gait = person(seed)
    points = joints(appearance, gait, CYCLE)
    feet = np.stack([points[f"{side}_{end}"][:, 2] for side in ("left", "right") for end in ("ankle", "toe")])
    np.testing.assert_allclose(feet.min(axis=0), 0.028 * appearance.stature, atol=1e-6)


@given(st.integers(0, 2**20))
def test_bones_keep_their_length_through_the_cycle(seed):
    points = joints(*person(seed), CYCLE)
    for start, end in (("hip", "knee"), ("knee", "ankle"), ("shoulder", "elbow"), ("elbow", "hand")):
        for side in ("left", "right"):
            bone = lengths(points, f"{side}_{start}", f"{side}_{end}")
            np.testing.assert_allclose(bone, bone[0], rtol=1e-4)


@given(st.integers(0, 2**20))
def test_the_walk_repeats_after_a_cycle(seed):
    appearance, gait = person(seed)
    for name, now in joints(appearance, gait, CYCLE).items():
        later = joints(appearance, gait, CYCLE + np.float32(2 * np.pi))[name]
        np.testing.assert_allclose(later, now, atol=1e-5, err_msg=name)


def test_without_asymmetry_the_right_side_does_half_a_cycle_later_what_the_left_side_did():
    appearance, gait = person(5)
    even = dataclasses.replace(gait, asymmetry=0.0)
    now = joints(appearance, even, CYCLE)
    later = joints(appearance, even, CYCLE + np.float32(np.pi))
    for name in ("knee", "ankle", "toe", "elbow", "hand"):
        mirrored = later[f"right_{name}"] * np.array([1, -1, 1])
        np.testing.assert_allclose(mirrored, now[f"left_{name}"], atol=1e-5, err_msg=name)


def test_a_person_is_about_one_body_unit_tall():
    for seed in range(50):
        appearance, gait = person(seed)
        body = parts(appearance, joints(appearance, gait, CYCLE))
        top = max(float((part.start[:, 2] + part.start_radius).max()) for part in body)
        assert 0.85 < top < 1.2


def test_what_somebody_wears_decides_the_parts():
    appearance, gait = person(11)
    points = joints(appearance, gait, CYCLE)
    bare = dataclasses.replace(appearance, bag=Bag.NONE, hair=Hair.BALD, bottom=Bottom.TROUSERS)
    number = len(parts(bare, points))
    worn = {"bag": Bag.BACKPACK, "hair": Hair.LONG, "bottom": Bottom.SHORTS}
    more = {
        name: len(parts(dataclasses.replace(bare, **{name: kind}), points)) - number
        for name, kind in worn.items()
    }
    assert more == {"bag": 3, "hair": 3, "bottom": 2}
