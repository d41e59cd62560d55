"""reid/evaluation/corruptions.py: one accident a clip, the same for everybody, worse with every severity."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reid.evaluation.corruptions import LADDERS, SEVERITIES, Corruption, corrupted

CLIPS, FRAMES, HEIGHT, WIDTH = 4, 6, 96, 48
ROWS = np.array([7, 90, 3, 12])
STATIC = set(Corruption) - {Corruption.NOISE, Corruption.FRAME_DROP}


def films(*, still: bool = False) -> torch.Tensor:
    """Moving pictures with structure at many scales, laid out in memory as decoders do."""
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 256, (CLIPS, FRAMES, HEIGHT // 6, WIDTH // 6, 3)).astype(np.float64)
    fine = generator.normal(0, 20, (CLIPS, FRAMES, HEIGHT, WIDTH, 3))
    pixels = (coarse.repeat(6, 2).repeat(6, 3) + fine).clip(0, 255).astype(np.uint8)
    if still:
        pixels[:] = pixels[:, :1].copy()
    return torch.from_numpy(pixels).movedim(-1, -3)


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one.float() - other.float()).abs().mean())


@pytest.mark.parametrize("corruption", Corruption)
def test_shape_type_and_layout_are_kept_and_the_clean_clip_is_not_touched(corruption):
    clips = films()
    before = clips.clone()
    found = corrupted(clips, ROWS, corruption, 3)
    assert (found.shape, found.dtype, found.stride()) == (clips.shape, torch.uint8, clips.stride())
    assert torch.equal(clips, before)


@pytest.mark.parametrize("corruption", Corruption)
def test_severity_0_changes_nothing_and_each_further_one_changes_more(corruption):
    clips = films()
    assert torch.equal(corrupted(clips, ROWS, corruption, 0), clips)
    far = [distance(corrupted(clips, ROWS, corruption, severity), clips) for severity in SEVERITIES]
    assert far[0] > 0
    assert far == sorted(set(far))


def test_there_is_no_severity_6():
    with pytest.raises(ValueError, match="a severity from 0 to 5, found 6"):
        corrupted(films(), ROWS, Corruption.BLUR, 6)


@pytest.mark.parametrize("corruption", sorted(STATIC))
def test_all_frames_of_a_clip_meet_the_same_accident(corruption):
    found = corrupted(films(still=True), ROWS, corruption, 4)
    for frame in range(1, FRAMES):
        assert torch.equal(found[:, frame], found[:, 0])


def test_noise_is_new_in_every_frame_and_equal_in_the_three_channels():
    clips = torch.full((1, 2, 3, HEIGHT, WIDTH), 128, dtype=torch.uint8)
    noisy = corrupted(clips, ROWS[:1], Corruption.NOISE, 1)[0].float() - 128
    assert torch.equal(noisy[:, 0], noisy[:, 1])
    assert torch.equal(noisy[:, 0], noisy[:, 2])
    assert abs(np.corrcoef(noisy[0, 0].flatten(), noisy[1, 0].flatten())[0, 1]) < 0.1
    assert float(noisy[:, 0].std()) == pytest.approx(8, rel=0.1)


@given(
    st.sampled_from(Corruption), st.sampled_from(SEVERITIES), st.permutations(range(CLIPS)), st.integers(0, 9)
)
def test_a_clip_is_corrupted_by_seed_and_row_alone_whatever_batch_it_is_in(corruption, severity, order, seed):
    clips = films()
    together = corrupted(clips, ROWS, corruption, severity, seed=seed)
    chosen = order[:2]
    assert torch.equal(
        corrupted(clips[chosen], ROWS[chosen], corruption, severity, seed=seed), together[chosen]
    )


@pytest.mark.parametrize(
    "corruption", [Corruption.NOISE, Corruption.OCCLUSION, Corruption.CROP_SHIFT, Corruption.FRAME_DROP]
)
def test_another_seed_or_row_is_another_accident(corruption):
    clips = films()
    clips[:] = clips[:1].clone()
    found = corrupted(clips, ROWS, corruption, 3)
    assert not torch.equal(found[0], found[1])
    assert not torch.equal(corrupted(clips, ROWS, corruption, 3, seed=1), found)


def test_stops_double_or_halve():
    clips = torch.full((64, 1, 3, 2, 2), 100, dtype=torch.uint8)
    found = corrupted(clips, np.arange(64), Corruption.ILLUMINATION, 2)
    assert set(found.flatten().tolist()) == {50, 200}


def test_a_box_covers_its_share_and_boxes_of_a_clip_are_nested():
    clips = torch.zeros(1, 1, 3, 100, 50, dtype=torch.uint8)
    rows = next(
        np.array([row])
        for row in range(9)
        if corrupted(clips, np.array([row]), Corruption.OCCLUSION, 1).any()  # a box that is not black
    )
    boxes = [corrupted(clips, rows, Corruption.OCCLUSION, severity)[0, 0, 0] > 0 for severity in SEVERITIES]
    for box, share in zip(boxes, LADDERS[Corruption.OCCLUSION].amounts, strict=True):
        assert float(box.float().mean()) == pytest.approx(share, abs=0.02)
    for smaller, larger in pairwise(boxes):
        assert int((smaller & ~larger).sum()) <= 100  # a border of one pixel, by rounding


def test_a_shift_moves_the_picture_and_repeats_its_edge():
    columns = torch.arange(40, dtype=torch.uint8).expand(1, 1, 3, 40, 40)
    moved = corrupted(columns, ROWS[:1], Corruption.CROP_SHIFT, 5)[0, 0, 0, 20]
    right = int(columns[0, 0, 0, 20, 20]) - int(moved[20])
    assert 0 < abs(right) <= 10
    assert moved.tolist() == [min(max(column - right, 0), 39) for column in range(40)]


@pytest.mark.parametrize("severity", SEVERITIES)
def test_dropped_frames_show_the_frame_before(severity):
    clips = torch.arange(FRAMES, dtype=torch.uint8)[None, :, None, None, None].expand(1, FRAMES, 3, 2, 2)
    shown = corrupted(clips, ROWS[:1], Corruption.FRAME_DROP, severity)[0, :, 0, 0, 0].tolist()
    kept = sorted(set(shown))
    assert len(kept) == FRAMES - severity
    assert shown == [max((k for k in kept if k <= frame), default=kept[0]) for frame in range(FRAMES)]


def test_a_clip_of_one_frame_loses_none():
    clips = films()[:, :1]
    assert torch.equal(corrupted(clips, ROWS, Corruption.FRAME_DROP, 5), clips)


@pytest.mark.parametrize("corruption", [Corruption.BLUR, Corruption.LOW_RESOLUTION])
def test_what_is_blurred_keeps_its_mean_and_loses_its_detail(corruption):
    clips = films()
    found = corrupted(clips, ROWS, corruption, 5)
    assert float(found.float().mean()) == pytest.approx(float(clips.float().mean()), rel=0.02)
    detail = [float(pixels.float().diff(dim=-1).abs().mean()) for pixels in (clips, found)]
    assert detail[1] < detail[0] / 2


def test_infrared_stays_grey_under_every_corruption():
    clips = films()[:, :, :1].expand(-1, -1, 3, -1, -1)
    for corruption in Corruption:
        found = corrupted(clips, ROWS, corruption, 3).int()
        assert int((found[:, :, 1:] - found[:, :, :1]).abs().max()) <= 2, corruption  # JPEG rounds colours
