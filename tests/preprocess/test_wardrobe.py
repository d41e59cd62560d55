"""Clothes and their materials: colour says nothing about the near infrared beyond what the gap leaves."""

import numpy as np
import pytest

from preprocess.wardrobe import Material, draw_appearance, draw_gait
from reid.types import Modality


def trousers(gap, num=400):
    """Luminance and near-infrared reflectance, (num,) each, of what people wear on their legs."""
    drawn = [draw_appearance(np.random.default_rng(seed), gap).bottom_fabric.base for seed in range(num)]
    return np.array([np.dot(m[:3], (0.299, 0.587, 0.114)) for m in drawn]), np.array(
        [m.infrared for m in drawn]
    )


def test_without_a_gap_infrared_reflectance_is_luminance():
    luminance, infrared = trousers(gap=0.0)
    np.testing.assert_allclose(infrared, luminance, rtol=1e-12)


def test_with_a_full_gap_infrared_reflectance_says_nothing_about_luminance():
    luminance, infrared = trousers(gap=1.0)
    assert abs(np.corrcoef(luminance, infrared)[0, 1]) < 0.15


def test_the_gap_mixes_the_two_in_its_proportion():
    luminance, _ = trousers(gap=0.0)
    _, independent = trousers(gap=1.0)
    _, mixed = trousers(gap=0.3)
    np.testing.assert_allclose(mixed, 0.3 * independent + 0.7 * luminance, rtol=1e-9)


def test_skin_is_bright_in_infrared_however_dark_it_looks():
    skins = [draw_appearance(np.random.default_rng(seed), 0.3).skin.base for seed in range(200)]
    assert min(skin.red for skin in skins) < 0.4
    assert min(skin.infrared for skin in skins) > 0.55


def test_albedo_is_linear_light_of_the_channels_a_modality_has():
    material = Material(0.5, 0.2, 0.1, 0.9)
    assert material.albedo(Modality.VISIBLE) == pytest.approx([0.25, 0.04, 0.01])
    assert material.albedo(Modality.INFRARED) == pytest.approx([0.81])


def test_the_same_generator_state_draws_the_same_person():
    assert draw_appearance(np.random.default_rng(4), 0.3) == draw_appearance(np.random.default_rng(4), 0.3)
    assert draw_gait(np.random.default_rng(4)) == draw_gait(np.random.default_rng(4))


def test_people_differ_in_more_than_colour():
    people = [draw_appearance(np.random.default_rng(seed), 0.3) for seed in range(100)]
    cuts = {(p.top, p.bottom, p.hair, p.bag, p.top_fabric.pattern) for p in people}
    assert len(cuts) > 60
