"""What a camera does to a scene: light, blur, noise and occluders, visible and infrared."""

import dataclasses

import numpy as np
import pytest

from preprocess.cameras import Occluder, draw_take, film, make_camera, modality_of
from preprocess.figures import joints, parts
from preprocess.wardrobe import draw_appearance, draw_gait
from reid.types import Modality


@pytest.fixture
def body():
    rng = np.random.default_rng(9)
    appearance, gait = draw_appearance(rng, 0.3), draw_gait(rng)
    return parts(appearance, joints(appearance, gait, np.linspace(0, 6, 5, dtype=np.float32)))


def quiet(camera, seed=1):
    """A take without nuisances, and its camera without noise."""
    return draw_take(np.random.default_rng(seed), camera, nuisance=0.0), dataclasses.replace(
        camera, noise=0.0
    )


def test_odd_cameras_see_visible_light():
    assert [modality_of(number) for number in (1, 2, 11, 12)] == [
        Modality.VISIBLE, Modality.INFRARED, Modality.VISIBLE, Modality.INFRARED,
    ]  # fmt: skip


@pytest.mark.parametrize("number", [1, 2])
def test_frames_are_uint8_pictures_of_the_wanted_size(body, number):
    camera = make_camera(0, number)
    frames = film(body, draw_take(np.random.default_rng(1), camera, 0.5), camera, 96, 48)
    assert (frames.dtype, frames.shape) == (np.uint8, (5, 96, 48, 3))
    assert 20 < frames.mean() < 220


def test_only_visible_frames_have_colour(body):
    for number in (1, 2):
        camera = make_camera(0, number)
        frames = film(body, draw_take(np.random.default_rng(1), camera, 0.5), camera, 96, 48).astype(int)
        has_colour = bool((frames[..., 0] != frames[..., 2]).any())
        assert has_colour is (modality_of(number) is Modality.VISIBLE)


def test_the_same_take_is_the_same_film(body):
    camera = make_camera(0, 1)
    films = [film(body, draw_take(np.random.default_rng(1), camera, 0.5), camera, 96, 48) for _ in range(2)]
    np.testing.assert_array_equal(*films)


def test_without_nuisance_nothing_stands_in_the_way_and_the_light_is_the_camera_s():
    camera = make_camera(0, 1)
    for seed in range(50):
        take = draw_take(np.random.default_rng(seed), camera, nuisance=0.0)
        assert take.occluder is None
        assert (take.gain, take.softness, take.shift) == (1.0, 0.0, (0.0, 0.0))
        assert take.tint == (1.0, 1.0, 1.0)


def test_with_full_nuisance_four_in_ten_tracklets_have_an_occluder():
    camera = make_camera(0, 1)
    seen = [draw_take(np.random.default_rng(seed), camera, 1.0).occluder is not None for seed in range(1000)]
    assert np.mean(seen) == pytest.approx(0.4, abs=0.05)


@pytest.mark.parametrize("kind", ["pole", "bush", "wall"])
def test_an_occluder_hides_part_of_the_film_and_leaves_the_rest(body, kind):
    take, camera = quiet(make_camera(0, 1))
    hidden = dataclasses.replace(take, occluder=Occluder(kind, place=0.0, size=0.6, grey=0.5))
    changed = (film(body, take, camera, 96, 48) != film(body, hidden, camera, 96, 48)).any(axis=(0, -1))
    assert 0.03 < changed.mean() < 0.8


def test_taller_frames_show_the_same_picture_in_more_detail(body):
    take, camera = quiet(make_camera(0, 2))
    small, tall = film(body, take, camera, 96, 48), film(body, take, camera, 288, 144)
    shrunk = tall.reshape(5, 96, 3, 48, 3, 3).mean(axis=(2, 4))
    assert np.corrcoef(shrunk.ravel(), small.ravel())[0, 1] > 0.9


def test_the_figure_stays_inside_the_frame_from_any_side(body):
    for number in range(1, 13):
        camera = make_camera(3, number)
        for seed in range(4):
            take, calm = quiet(camera, seed)
            empty = [dataclasses.replace(part, start=part.start - 99, end=part.end - 99) for part in body]
            figure = film(body, take, calm, 96, 48) != film(empty, take, calm, 96, 48)
            rows = figure.any(axis=(0, 2, 3))
            assert not rows[:2].any()
            assert rows.mean() > 0.75
