"""The evidence: its sets hide what they should, its arms differ in what they should, and its tables are made."""

from collections import Counter
from collections.abc import Iterator

import pytest
import torch

from benchmarks import evidence_stage2
from benchmarks.evidence_patterns import (
    NUM_IDENTITIES,
    NUM_PARTS,
    NUM_PATTERNS,
    Draw,
    arrangement,
    disordered,
    film,
    motion,
)
from benchmarks.evidence_stig import STRIPES_ALONE, module_alone
from benchmarks.evidence_table import Table, spread
from benchmarks.evidence_walkers import Walkers, weighted
from preprocess.synthetic import SyntheticConfig
from reid.types import Guide, Modality, Variant

FIGURES = SyntheticConfig(
    num_identities=10, num_train_identities=8, tracklets_per_modality=4, height=64, width=32, short_fraction=0
)


@pytest.fixture(scope="module")
def walkers() -> Iterator[Walkers]:
    with Walkers.made(FIGURES, schedule={"epoch_iterations": 1}, data={"num_identities": 2}) as made:
        yield made


@pytest.mark.parametrize("draw", [motion, disordered])
def test_clips_of_moving_identities_all_hold_the_same_frames(draw: Draw) -> None:
    identity = torch.arange(NUM_IDENTITIES).repeat(20)
    patterns = draw(identity, torch.Generator().manual_seed(0))
    assert (patterns == patterns[:, :, :1]).all()
    assert {tuple(clip) for clip in patterns[:, :, 0].sort(1).values.tolist()} == {(0, 0, 1, 1, 2, 2, 3, 3)}


def test_a_clip_and_where_it_begins_name_one_identity_and_no_other() -> None:
    identity = torch.arange(NUM_IDENTITIES).repeat(50)
    for draw in (motion, arrangement):
        patterns = draw(identity, torch.Generator().manual_seed(0))
        seen = {
            (who, tuple(clip))
            for who, clip in zip(identity.tolist(), patterns.flatten(1).tolist(), strict=True)
        }
        assert len(seen) == len({clip for _, clip in seen}) == NUM_IDENTITIES * NUM_PATTERNS


def test_each_part_shows_each_pattern_equally_often_whoever_is_seen() -> None:
    identity = torch.arange(NUM_IDENTITIES).repeat(50)
    patterns = arrangement(identity, torch.Generator().manual_seed(0))
    clips = set(zip(identity.tolist(), map(tuple, patterns[:, 0].tolist()), strict=True))
    counts = Counter((who, part, clip[part]) for who, clip in clips for part in range(NUM_PARTS))
    assert set(counts.values()) == {1}
    assert len(counts) == NUM_IDENTITIES * NUM_PARTS * NUM_PATTERNS


def test_an_infrared_clip_is_lit_in_grey_and_a_visible_one_in_colour() -> None:
    patterns = torch.zeros(2, 3, NUM_PARTS, dtype=torch.int64)
    channels = {}
    for modality in Modality:
        clips = film(patterns, modality, torch.Generator().manual_seed(0))
        assert (clips.shape, clips.dtype) == ((2, 3, 3, 64, 32), torch.uint8)
        channels[modality] = clips.float().std((1, 3, 4))  # (B, 3)
    spreads = {modality: found.amax(1) - found.amin(1) for modality, found in channels.items()}
    assert (spreads[Modality.INFRARED] < 1).all()
    assert (spreads[Modality.VISIBLE] > 3).all()


def test_lstm_mot_knows_the_order_of_frames_and_their_mean_does_not() -> None:
    with_it, without = (
        module_alone(motion, kind, seed=0, iterations=300, rate=0.01)
        for kind in (Guide.MOTION_ONLY, STRIPES_ALONE)
    )
    assert with_it > 0.95
    assert without < 0.25  # chance is 0.167


def test_an_arm_changes_the_weight_of_its_objective_alone(walkers: Walkers) -> None:
    stage = walkers.engine(walkers.config(Variant.FULL, 0)).stages[0]
    changed = weighted(stage, {"cov_id": 0.0})
    before, after = (
        {
            name: weight
            for group in each.groups
            for update in group.updates
            for name, weight in update.objectives.items()
        }
        for each in (stage, changed)
    )
    assert after == {**before, "cov_id": 0.0}
    assert before["cov_id"] == 1
    assert [group.trains for group in changed.groups] == [group.trains for group in stage.groups]


def test_both_ways_go_on_from_step_1_and_only_step_2_leaves_the_classifier_as_it_was(
    walkers: Walkers,
) -> None:
    runs = evidence_stage2.branches(walkers, 0, (7,))
    weights = {name: run.engine.network.defence_classifier.weight for name, run in runs.items()}
    assert torch.equal(weights["Step I"], weights["Step II"])
    assert not torch.equal(weights["Step I"], weights["Step I continued"])
    assert {name: run.engine.step for name, run in runs.items()} == {
        "Step I": 6,
        "Step II": 8,
        "Step I continued": 8,
    }


def test_a_table_tells_means_and_sample_deviations() -> None:
    table = Table("What", ("arm", "score"), [("one", spread([0.5, 0.7], 2)), ("two", spread([1.0], 1))])
    assert str(table).splitlines() == [
        "What",
        "",
        "| arm | score |",
        "| :-- | --: |",
        "| one | 0.60 +- 0.14 |",
        "| two | 1.0 |",
    ]
