"""Backgrounds belong to cameras, not to identities."""

import numpy as np

from preprocess.scenes import LEAVES, panorama
from reid.types import Modality


def test_a_scene_is_wide_enough_to_walk_through_and_taller_than_a_frame():
    assert panorama(3, Modality.VISIBLE, 0.5, 1.0, 96).shape == (3, 108, 288)
    assert panorama(3, Modality.INFRARED, 0.5, 1.0, 96).shape == (1, 108, 288)


def test_the_same_number_is_the_same_scene():
    first = panorama(3, Modality.VISIBLE, 0.5, 1.0, 96).copy()
    panorama.cache_clear()
    np.testing.assert_array_equal(panorama(3, Modality.VISIBLE, 0.5, 1.0, 96), first)


def test_scenes_differ():
    means = {round(float(panorama(number, Modality.VISIBLE, 0.5, 1.0, 96).mean()), 4) for number in range(8)}
    assert len(means) == 8


def test_a_shared_scene_cannot_be_written_to():
    assert not panorama(3, Modality.VISIBLE, 0.5, 1.0, 96).flags.writeable


def test_light_is_never_negative():
    for number in range(6):
        for modality in Modality:
            assert panorama(number, modality, 0.4, 0.8, 64).min() >= 0


def test_leaves_are_dark_in_visible_light_and_bright_in_infrared():
    assert LEAVES.infrared > 1.5 * max(LEAVES.red, LEAVES.green, LEAVES.blue)
