"""reid/data/augmentation.py: what happens to a clip, drawn once for all its frames."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reid.data.augmentation import ERASED, Augmentation, Change, Erasure
from reid.data.batches import clip_generator
from reid.data.clips import Pixels, normalise
from reid.types import Modality


def photograph(height: int = 48, width: int = 32) -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def _slowly(change: Change, source: Pixels, padding: int) -> Pixels:
    """Flip, pad, crop, as transforms do it."""
    picture = source[:, ::-1] if change.mirrored else source
    padded = np.pad(picture, ((padding, padding), (padding, padding), (0, 0)))
    top, left = padding - change.down, padding - change.right
    return padded[top : top + source.shape[0], left : left + source.shape[1]]


@given(down=st.integers(-10, 10), right=st.integers(-10, 10), mirrored=st.booleans())
def test_a_change_equals_flip_pad_and_crop(down: int, right: int, mirrored: bool) -> None:
    source, picture = photograph(), np.full((48, 32, 3), 7, dtype=np.uint8)
    change = Change(down, right, mirrored, None)
    change.apply(source, picture)
    assert np.array_equal(picture, _slowly(change, source, 10))


@given(st.tuples(st.integers(0, 256), st.integers(0, 256)))
def test_a_mixture_of_channels_is_their_weighted_mean(cuts: tuple[int, int]) -> None:
    weights = np.diff([0, *sorted(cuts), 256])
    source, picture = photograph(), np.zeros((48, 32, 3), dtype=np.uint8)
    Change(0, 0, False, weights.astype(np.uint16)).apply(source, picture)
    expected = (source.astype(int) * weights).sum(axis=-1) // 256
    assert np.array_equal(picture, np.repeat(expected[..., None], 3, axis=-1))


def test_white_stays_white_in_every_mixture() -> None:
    white, picture = np.full((4, 4, 3), 255, dtype=np.uint8), np.zeros((4, 4, 3), dtype=np.uint8)
    for cuts in ((0, 0), (85, 171), (256, 256), (1, 255)):
        Change(0, 0, False, np.diff([0, *cuts, 256]).astype(np.uint16)).apply(white, picture)
        assert (picture == 255).all()


def test_all_frames_of_a_clip_change_alike_unless_frames_are_drawn_for_themselves() -> None:
    once = Augmentation().draw(6, Modality.VISIBLE, clip_generator(0, 0, 0))
    assert len(once) == 6
    assert len({(change.down, change.right, change.mirrored) for change in once}) == 1
    each = Augmentation(per_frame=True).draw(6, Modality.VISIBLE, clip_generator(0, 0, 0))
    assert len({(change.down, change.right, change.mirrored) for change in each}) > 1


def _drawn(augmentation: Augmentation, modality: Modality) -> list[Change]:
    return [augmentation.draw(1, modality, clip_generator(5, step, 0))[0] for step in range(4000)]


def test_shifts_are_uniform_within_the_padding_and_half_of_the_clips_are_flipped() -> None:
    changes = _drawn(Augmentation(), Modality.INFRARED)
    for shifts in ([change.down for change in changes], [change.right for change in changes]):
        counts = np.bincount(np.array(shifts) + 10, minlength=21)
        assert counts.size == 21
        assert np.abs(counts - 4000 / 21).max() < 5 * (4000 / 21) ** 0.5
    assert abs(np.mean([change.mirrored for change in changes]) - 0.5) < 0.04


def test_only_visible_clips_turn_grey_and_only_when_asked() -> None:
    assert all(change.mixture is None for change in _drawn(Augmentation(), Modality.VISIBLE))
    asked = Augmentation(grey_probability=0.3)
    assert all(change.mixture is None for change in _drawn(asked, Modality.INFRARED))
    mixtures = [change.mixture for change in _drawn(asked, Modality.VISIBLE) if change.mixture is not None]
    assert abs(len(mixtures) / 4000 - 0.3) < 0.04
    assert {int(mixture.sum()) for mixture in mixtures} == {256}
    assert np.abs(np.mean(mixtures, axis=0) - 256 / 3).max() < 8


def test_an_exchanged_channel_stands_in_all_three() -> None:
    for step in range(20):
        asked = Augmentation(padding=0, flip_probability=0, exchange_probability=1)
        change = asked.draw(1, Modality.VISIBLE, clip_generator(0, step, 0))[0]
        source, picture = photograph(), np.zeros((48, 32, 3), dtype=np.uint8)
        change.apply(source, picture)
        channel = int(np.argmax(change.mixture))
        assert np.array_equal(picture, np.repeat(source[..., channel, None], 3, axis=-1))


def test_only_visible_clips_exchange_channels_each_as_often_as_asked() -> None:
    asked = Augmentation(exchange_probability=0.3)
    assert all(change.mixture is None for change in _drawn(asked, Modality.INFRARED))
    mixtures = [change.mixture for change in _drawn(asked, Modality.VISIBLE) if change.mixture is not None]
    assert abs(len(mixtures) / 4000 - 0.3) < 0.04
    counts = np.sum(mixtures, axis=0) / 256
    assert np.abs(counts - len(mixtures) / 3).max() < 80
    assert {tuple(sorted(mixture)) for mixture in mixtures} == {(0, 0, 256)}


def test_an_erasure_paints_one_rectangle_and_leaves_the_rest() -> None:
    source, picture = photograph(), np.zeros((48, 32, 3), dtype=np.uint8)
    Change(0, 0, False, None, Erasure(area=0.125, aspect=3.0, down=0.5, right=0.999)).apply(source, picture)
    expected = source.copy()
    expected[12:36, 24:] = (124, 116, 104)  # 24 x 8 = 48 * 32 / 8 pixels, in the middle, at the right edge
    assert np.array_equal(picture, expected)


@given(area=st.floats(0.02, 0.4), aspect=st.floats(0.3, 1 / 0.3), place=st.floats(0, 1, exclude_max=True))
def test_an_erasure_has_its_share_and_shape_as_far_as_the_picture_goes(
    area: float, aspect: float, place: float
) -> None:
    rows, columns = Erasure(area, aspect, place, place).within(288, 144)
    height, width = rows.stop - rows.start, columns.stop - columns.start
    assert rows.start >= 0
    assert rows.stop <= 288
    assert columns.start >= 0
    assert columns.stop <= 144
    assert height == pytest.approx((area * 288 * 144 * aspect) ** 0.5, abs=0.5)
    assert width == pytest.approx(min(144, (area * 288 * 144 / aspect) ** 0.5), abs=0.5)


def test_clips_of_both_modalities_are_erased_as_often_as_asked_by_two_to_forty_percent() -> None:
    for modality in Modality:
        assert all(change.erasure is None for change in _drawn(Augmentation(), modality))
        changes = _drawn(Augmentation(erasing_probability=0.3), modality)
        erasures = np.array([change.erasure for change in changes if change.erasure is not None])
        assert abs(len(erasures) / 4000 - 0.3) < 0.04
        area, aspect, down, right = erasures.T
        assert (area.min(), area.max()) == pytest.approx((0.02, 0.4), abs=0.01)
        assert (aspect.min(), aspect.max()) == pytest.approx((0.3, 1 / 0.3), rel=0.02)
        assert np.median(aspect) == pytest.approx(1, abs=0.1)  # as often tall as wide
        assert [down.mean(), right.mean()] == pytest.approx([0.5, 0.5], abs=0.05)


def test_what_is_erased_is_nothing_to_the_network() -> None:
    painted = torch.from_numpy(ERASED).reshape(3, 1, 1).expand(3, 2, 2)
    assert normalise(painted).abs().max() < 0.01


def test_all_frames_of_a_clip_lose_the_same_rectangle_unless_frames_are_drawn_for_themselves() -> None:
    for per_frame, count in ((False, 1), (True, 6)):
        asked = Augmentation(exchange_probability=1, erasing_probability=1, per_frame=per_frame)
        changes = asked.draw(6, Modality.VISIBLE, clip_generator(0, 0, 0))
        assert len({change.erasure for change in changes}) == count


@pytest.mark.parametrize("per_frame", [False, True])
def test_asking_for_an_option_leaves_the_others_as_they_were(per_frame: bool) -> None:
    plain, with_grey, with_all = (
        augmentation.draw(6, Modality.VISIBLE, clip_generator(0, 0, 0))
        for augmentation in (
            Augmentation(per_frame=per_frame),
            Augmentation(grey_probability=1, per_frame=per_frame),
            Augmentation(10, 0.5, 1, exchange_probability=1, erasing_probability=1, per_frame=per_frame),
        )
    )
    assert [change[:3] for change in plain] == [change[:3] for change in with_grey]
    assert [change[:3] for change in plain] == [change[:3] for change in with_all]


def test_the_moves_of_a_clip_are_those_that_runs_began_with() -> None:
    """A stored number: continuing an older run must draw what that run would have drawn."""
    drawn = Augmentation(grey_probability=1, per_frame=True).draw(
        3, Modality.VISIBLE, clip_generator(1, 2, 3)
    )
    assert [(*change[:3], change.mixture.tolist()) for change in drawn] == [
        (0, 4, True, [71, 34, 151]),
        (2, 8, True, [161, 24, 71]),
        (7, -4, True, [125, 65, 66]),
    ]
