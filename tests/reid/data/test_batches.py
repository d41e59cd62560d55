"""Batches are a pure function of the step, the same for every number of processes."""

import hashlib
import pickle
import tracemalloc
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reid.data.batches import Batch, BatchPlan, Integers, clip_generator
from reid.data.manifest import Manifest
from reid.types import Modality

TRACKLETS = st.tuples(st.integers(1, 5), st.integers(1, 5))  # of an identity: visible, infrared


def rows_of(counts: list[tuple[int, int]]) -> tuple[Integers, Integers, Integers]:
    """label, visible rows, infrared rows of a manifest in which identity i has counts[i] tracklets, in mixed order."""
    label = np.repeat(np.arange(len(counts)), [visible + infrared for visible, infrared in counts])
    is_visible = np.concatenate([[True] * visible + [False] * infrared for visible, infrared in counts])
    shuffled = np.random.default_rng(0).permutation(label.size)
    label, is_visible = label[shuffled], is_visible[shuffled]
    return label, np.flatnonzero(is_visible), np.flatnonzero(~is_visible)


def plan_of(counts: list[tuple[int, int]], *, identities: int, tracklets: int, seed: int = 0) -> BatchPlan:
    return BatchPlan(*rows_of(counts), num_identities=identities, num_tracklets=tracklets, seed=seed)


def joined(batches: list[Batch]) -> list[list[int]]:
    return [np.concatenate(parts).tolist() for parts in list(zip(*batches, strict=True))[:3]]


@given(
    counts=st.lists(TRACKLETS, min_size=16, max_size=24),
    world=st.integers(1, 16),
    tracklets=st.integers(1, 4),
    step=st.integers(0, 2**40),
    seed=st.integers(0, 2**63 - 1),
    data=st.data(),
)
def test_every_number_of_processes_sees_the_same_global_batch(
    counts: list[tuple[int, int]], world: int, tracklets: int, step: int, seed: int, data: st.DataObject
) -> None:
    identities = data.draw(st.sampled_from([p for p in range(1, 17) if p % world == 0]))
    plan = plan_of(counts, identities=identities, tracklets=tracklets, seed=seed)
    shares = [plan.batch(step, rank, world) for rank in range(world)]
    assert joined(shares) == joined([plan.batch(step)])
    assert [share.first for share in shares] == [
        rank * plan.pairs_per_process(world) for rank in range(world)
    ]


@given(
    counts=st.lists(TRACKLETS, min_size=8, max_size=12),
    tracklets=st.integers(1, 4),
    step=st.integers(0, 2**40),
    seed=st.integers(0, 1000),
)
def test_a_batch_pairs_rows_of_distinct_identities_and_of_distinct_tracklets_where_there_are_enough(
    counts: list[tuple[int, int]], tracklets: int, step: int, seed: int
) -> None:
    label, visible, infrared = rows_of(counts)
    plan = plan_of(counts, identities=8, tracklets=tracklets, seed=seed)
    batch = plan.batch(step)
    assert np.isin(batch.visible, visible).all()
    assert np.isin(batch.infrared, infrared).all()
    assert label[batch.visible].tolist() == batch.identity.tolist() == label[batch.infrared].tolist()
    assert batch.identity.tolist() == np.repeat(batch.identity[::tracklets], tracklets).tolist()
    assert len(set(batch.identity.tolist())) == 8
    for modality, rows in enumerate((batch.visible, batch.infrared)):
        for group in rows.reshape(8, tracklets):
            available = counts[label[group[0]]][modality]
            if available >= tracklets:
                assert len(set(group.tolist())) == tracklets


def test_nobody_comes_twice_before_everybody_has_come_once() -> None:
    plan = plan_of([(3, 2)] * 24, identities=8, tracklets=2)
    for cycle in range(5):
        seen = np.concatenate([plan.batch(3 * cycle + place).identity[::2] for place in range(3)])
        assert sorted(seen.tolist()) == list(range(24))


def test_over_time_everybody_comes_about_equally_often_also_where_batches_do_not_divide_them() -> None:
    plan = plan_of([(2, 2)] * 21, identities=8, tracklets=2)  # 5 of 21 rest in each cycle of two batches
    seen = Counter(np.concatenate([plan.batch(step).identity[::2] for step in range(4000)]).tolist())
    expected = 4000 * 8 / 21
    assert len(seen) == 21
    assert max(abs(count - expected) for count in seen.values()) < 5 * (2000 * 16 / 21 * 5 / 21) ** 0.5


def test_every_tracklet_of_an_identity_is_drawn_equally_often() -> None:
    plan = plan_of([(5, 3)] * 2, identities=2, tracklets=2)
    drawn = [plan.batch(step) for step in range(6000)]
    for rows, each in (("visible", 6000 * 2 / 5), ("infrared", 6000 * 2 / 3)):
        counts = Counter(np.concatenate([getattr(batch, rows) for batch in drawn]).tolist())
        assert max(abs(count - each) for count in counts.values()) < 5 * each**0.5


def test_a_batch_does_not_depend_on_what_was_asked_before_nor_on_the_process() -> None:
    plan = plan_of([(3, 3)] * 11, identities=4, tracklets=2, seed=7)
    in_order = [joined([plan.batch(step)]) for step in range(40)]
    copy = pickle.loads(pickle.dumps(plan))
    backwards = [joined([copy.batch(step)]) for step in reversed(range(40))]
    assert backwards[::-1] == in_order


def test_seeds_and_steps_give_different_batches() -> None:
    plans = [plan_of([(4, 4)] * 30, identities=8, tracklets=2, seed=seed) for seed in range(5)]
    batches = {str(joined([plan.batch(step)])) for plan in plans for step in range(20)}
    assert len(batches) == 100


def test_the_batches_of_a_seed_are_the_same_for_ever() -> None:
    """A checkpoint continues with the batches that it would have seen: whoever changes them breaks resuming."""
    plan = plan_of([(3, 4)] * 20, identities=8, tracklets=2, seed=1)
    text = str([joined([plan.batch(step)]) for step in (0, 1, 2, 1000)])
    assert (
        hashlib.sha256(text.encode()).hexdigest()
        == "45b851dfe72f08f0ee1b1098eb281861be50deac4900a3a5171e4e28a91dfeae"
    )


def test_a_number_of_processes_that_does_not_divide_the_identities_is_refused_with_those_that_do() -> None:
    plan = plan_of([(2, 2)] * 8, identities=8, tracklets=2)
    with pytest.raises(ValueError, match=r"over 3 processes.*\[1, 2, 4, 8\]"):
        plan.batch(0, 0, 3)


def test_too_few_identities_are_refused_with_the_numbers() -> None:
    with pytest.raises(ValueError, match=r"takes 8 identities.*there are 7 \(and 2 with one modality only\)"):
        plan_of([(2, 2)] * 7 + [(1, 0), (0, 1)], identities=8, tracklets=2)


def test_rows_of_the_test_split_are_refused() -> None:
    with pytest.raises(ValueError, match="rows of the test split"):
        BatchPlan(np.array([0, -1]), np.array([0]), np.array([1]), num_identities=1)


def test_an_identity_of_one_modality_is_listed_and_never_drawn() -> None:
    plan = plan_of([(2, 2), (0, 3), (2, 1), (4, 0)], identities=2, tracklets=2)
    assert plan.left_out.tolist() == [1, 3]
    assert {label for step in range(50) for label in plan.batch(step).identity.tolist()} == {0, 2}


def test_the_plan_of_a_packed_set_takes_training_rows_that_are_long_enough(painted: Manifest) -> None:
    plan = BatchPlan.of(painted, num_identities=5, num_tracklets=3)
    assert plan.left_out.tolist() == [5]
    for step in range(30):
        batch = plan.batch(step)
        assert set(painted.modality[batch.visible].tolist()) == {Modality.VISIBLE}
        assert set(painted.modality[batch.infrared].tolist()) == {Modality.INFRARED}
        assert painted.label[batch.visible].tolist() == painted.label[batch.infrared].tolist()
        assert painted.num_frames[np.concatenate([batch.visible, batch.infrared])].min() >= 12
    longer = BatchPlan.of(painted, num_identities=5, num_tracklets=1, minimum_frames=14)
    assert painted.num_frames[longer.batch(0).visible].tolist() == [24] * 5


def test_planning_a_batch_takes_no_more_memory_when_there_are_millions_of_tracklets() -> None:
    label = np.repeat(np.arange(100_000), 20)
    rows = np.arange(label.size)
    plan = BatchPlan(label, rows[rows % 2 == 0], rows[rows % 2 == 1])
    plan.batch(0)
    tracemalloc.start()
    for step in range(1, 50):
        plan.batch(step)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100_000


@settings(max_examples=30)
@given(st.lists(st.tuples(*[st.integers(0, 2**62)] * 3), min_size=2, max_size=20, unique=True))
def test_no_two_clips_share_their_random_numbers(keys: list[tuple[int, int, int]]) -> None:
    assert len({clip_generator(*key).bytes(16) for key in keys}) == len(keys)
