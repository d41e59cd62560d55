"""The painter of signed distances against shapes whose area is known."""

import numpy as np
import pytest

from preprocess.painting import Brush, Light, Points, Stick
from preprocess.wardrobe import Fabric, Material, Pattern
from reid.types import Modality

WHITE, BLACK = Material(1, 1, 1, 1), Material(0, 0, 0, 0)
BRUSH = Brush(Modality.INFRARED, Light(1.0, 0.0, 0.0, 0.0), softness=1.0, scale=40.0)


def frames(*values):
    return np.array(values, dtype=np.float32)


def stick(start, end, radius, flat=False, num_frames=1):
    ones = np.ones(num_frames, dtype=np.float32)
    ends = (Points(start[0] * ones, start[1] * ones), Points(end[0] * ones, end[1] * ones))
    return Stick(*ends, radius * ones, radius * ones, 0 * ones, flat)


def painted(shape, *sticks, fabric=None, brush=BRUSH):
    canvas = np.zeros(shape, dtype=np.float32)
    for each in sticks:
        brush.paint(canvas, each, fabric or Fabric(WHITE, WHITE))
    return canvas


def test_an_upright_bar_covers_whole_pixels_inside_and_half_ones_on_its_edge():
    canvas = painted((1, 1, 5, 9), stick((4, -20), (4, 20), 2, flat=True))
    np.testing.assert_allclose(canvas[0, 0], np.tile([0, 0, 0.5, 1, 1, 1, 0.5, 0, 0], (5, 1)), atol=1e-6)


@pytest.mark.parametrize("radius", [3.0, 7.3])
def test_a_disc_covers_its_area(radius):
    canvas = painted((1, 1, 32, 32), stick((15.3, 16.1), (15.3, 16.1), radius))
    assert canvas.sum() == pytest.approx(np.pi * radius**2, rel=0.02)


def test_a_round_stick_is_longer_than_a_flat_one_by_a_disc():
    flat, rounded = (
        painted((1, 1, 40, 40), stick((12, 14), (26, 24), 5.0, cut)).sum() for cut in (True, False)
    )
    assert flat == pytest.approx(2 * 5.0 * np.hypot(14, 10), rel=0.02)
    assert rounded - flat == pytest.approx(np.pi * 25, rel=0.05)


def test_frames_are_painted_independently():
    moving = Stick(
        Points(frames(5, 20), frames(5, 9)), Points(frames(5, 30), frames(11, 12)),
        frames(2, 3), frames(2, 4), frames(0, 1),
    )  # fmt: skip
    together = painted((1, 2, 20, 40), moving)
    for frame in range(2):
        one = slice(frame, frame + 1)
        alone = Stick(
            Points(moving.start.x[one], moving.start.y[one]), Points(moving.end.x[one], moving.end.y[one]),
            moving.start_radius[one], moving.end_radius[one], moving.bulge[one],
        )  # fmt: skip
        np.testing.assert_allclose(together[:, one], painted((1, 1, 20, 40), alone), atol=1e-5)


def test_the_later_stick_hides_the_earlier_one():
    canvas = np.zeros((1, 1, 9, 9), dtype=np.float32)
    BRUSH.paint(canvas, stick((4, 4), (4, 4), 4), Fabric(WHITE, WHITE))
    BRUSH.paint(canvas, stick((4, 4), (4, 4), 2), Fabric(BLACK, BLACK))
    assert canvas[0, 0, 4, 4] == 0
    assert canvas[0, 0, 4, 1] == 1


def test_nothing_is_painted_outside_the_canvas():
    assert painted((1, 1, 8, 8), stick((-30, 4), (-20, 4), 3), stick((4, 50), (4, 60), 3)).sum() == 0


def test_light_from_the_viewer_darkens_the_rim_of_a_stick():
    lamp = Brush(Modality.INFRARED, Light(0.0, 0.0, 0.0, 1.0), softness=1.0, scale=40.0)
    across = painted((1, 1, 5, 21), stick((10, -20), (10, 20), 10, flat=True), brush=lamp)[0, 0, 2]
    assert across[10] == pytest.approx(1.0)
    assert across[16] == pytest.approx(np.sqrt(1 - 0.36), rel=1e-5)


def test_light_from_the_right_brightens_the_right_half():
    sun = Brush(Modality.INFRARED, Light(0.0, 1.0, 0.0, 0.0), softness=1.0, scale=40.0)
    across = painted((1, 1, 5, 21), stick((10, -20), (10, 20), 10, flat=True), brush=sun)[0, 0, 2]
    assert across[15] == pytest.approx(0.5)
    assert across[5] == 0


@pytest.mark.parametrize("pattern", [Pattern.HOOPS, Pattern.PINSTRIPES, Pattern.CHECKS, Pattern.BLOCK])
def test_half_of_a_patterned_surface_shows_the_accent(pattern):
    bar = stick((40, 0), (40, 80), 40, flat=True)
    canvas = painted((1, 1, 80, 80), bar, fabric=Fabric(BLACK, WHITE, pattern, period=0.2))
    assert canvas.mean() == pytest.approx(0.5, abs=0.03)


def test_visible_light_keeps_colours_apart():
    brush = Brush(Modality.VISIBLE, Light(1.0, 0.0, 0.0, 0.0), softness=1.0, scale=40.0)
    red = Material(1.0, 0.5, 0.0, 0.7)
    canvas = painted((3, 1, 9, 9), stick((4, 4), (4, 4), 3), fabric=Fabric(red, red), brush=brush)
    assert canvas[:, 0, 4, 4] == pytest.approx([1.0, 0.25, 0.0])


def test_a_shadow_darkens_its_middle_by_its_strength_and_leaves_the_far_ground_alone():
    canvas = np.ones((1, 1, 20, 20), dtype=np.float32)
    spot = Points(frames(10), frames(10))
    BRUSH.darken(canvas, spot, spot, frames(6), strength=0.4, squash=0.5)
    assert canvas[0, 0, 10, 10] == pytest.approx(0.6)
    assert canvas[0, 0, 0, 0] == 1.0
    assert canvas[0, 0, 10, 15] < canvas[0, 0, 15, 10], "a shadow on the ground is wider than tall"
