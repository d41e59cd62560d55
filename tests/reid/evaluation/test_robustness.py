"""reid/evaluation/robustness.py: disturbed queries are searched as clean ones are, and the split of the work changes nothing."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from reid.data import loader
from reid.data.clips import ClipReader, ClipShape
from reid.data.manifest import Manifest
from reid.evaluation.attack import MetricAttack
from reid.evaluation.corruptions import SEVERITIES, Corruption, corrupted
from reid.evaluation.metrics import evaluate
from reid.evaluation.retrieval import Evaluator, Protocol, similarities
from reid.evaluation.robustness import Asked, Attack, Conditions, corrupt, disturb, examine
from reid.model.defence import CrossAttention
from reid.model.network import Network, Structure
from reid.report import robustness, tables
from reid.runtime import Runtime
from reid.types import Direction, Goal, Modality, Variant

SHAPE = ClipShape(3, 32, 16)


def evaluator_of(root: Path, variant: Variant = Variant.FULL, **protocol) -> Evaluator:
    torch.manual_seed(0)
    network = Network(
        Structure(
            num_identities=8,
            backbone="thin",
            num_parts=2,
            attacker=variant.attacker,
            cross=CrossAttention() if variant.cross_attention else None,
            guide=variant.guide,
        )
    )
    if variant.attacker:  # a new IMSA is the identity
        torch.nn.init.normal_(network.attacker.imsa[0].output[1].weight)
    runtime = Runtime.start(precision="fp64", device="cpu", seed=0, deterministic=False)
    runtime.prepare(network)
    return Evaluator(network, Manifest.open(root), Protocol(SHAPE, **{"batch_clips": 4} | protocol), runtime)


def printed(root: Path, batch_clips: int = 4) -> str:
    """All numbers of an attack and of two corruptions that `reid evaluate --json` would print."""
    evaluator = evaluator_of(root, batch_clips=batch_clips)
    clean = evaluator.evaluate()
    chosen = [(Corruption.NOISE, 5), (Corruption.CROP_SHIFT, 2)]
    asks = {key: lambda asked, key=key: corrupt(evaluator, *key, 0, asked) for key in chosen}
    found = [
        (str(name), str(direction), scored.cosine, *scored.retrieval.average_precision.tolist())
        for name, scores in disturb(evaluator, clean, asks).items()
        for direction, scored in scores.items()
    ]
    attacks = examine(evaluator, clean, Conditions(attack=MetricAttack(steps=2)))
    labels = {"protocol": evaluator.protocol.describe(evaluator.manifest), "synthetic": True}
    numbers = robustness.as_numbers(attacks, tables.as_numbers(clean.results, **labels))
    return json.dumps([found, numbers], allow_nan=False)


def test_scores_are_the_same_for_one_and_two_processes(packed, pair, one_thread):
    expected = printed(packed)
    assert pair(printed, packed) == [expected, expected]


def test_a_corrupted_query_does_not_depend_on_the_size_of_batches(packed, one_thread):
    one, other = (json.loads(printed(packed, size))[0] for size in (4, 7))
    for (*names, cosine, first), (*others, alike, second) in zip(
        ([*row[:3], row[3:]] for row in one), ([*row[:3], row[3:]] for row in other), strict=True
    ):
        assert names == others
        assert cosine == pytest.approx(alike, abs=1e-6)
        assert first == pytest.approx(second)


def test_queries_that_are_disturbed_by_nothing_score_as_clean_ones(packed):
    evaluator = evaluator_of(packed)
    clean = evaluator.evaluate()
    still = {
        "severity 0": lambda asked: corrupt(evaluator, Corruption.JPEG, 0, 0, asked),
        "itself": lambda asked: asked.clean,
    }
    attack = examine(evaluator, clean, Conditions(attack=MetricAttack(epsilon=0, steps=1))).attacks[
        Attack.METRIC
    ]
    for scores in (*disturb(evaluator, clean, still).values(), attack):
        for direction, expected in clean.results.items():
            found = scores[direction]
            np.testing.assert_array_equal(found.retrieval.cmc, expected.cmc)
            np.testing.assert_array_equal(found.retrieval.average_precision, expected.average_precision)
            assert found.retrieval[1:3] == expected[1:3]
            assert found.cosine == pytest.approx(1, abs=1e-6)


def test_corrupted_scores_are_those_of_corrupted_clips_against_the_clean_gallery(packed):
    evaluator = evaluator_of(packed)
    clean = evaluator.evaluate()
    ask = {0: lambda asked: corrupt(evaluator, Corruption.OCCLUSION, 5, 3, asked)}
    found = disturb(evaluator, clean, ask)[0][Direction.VISIBLE_TO_INFRARED]
    asking, answering = clean.sides(Direction.VISIBLE_TO_INFRARED)
    pixels = np.empty((len(asking.rows), *SHAPE, 3), dtype=np.uint8)
    ClipReader(evaluator.manifest, SHAPE).read_for_test(asking.rows, pixels)
    clips = corrupted(torch.from_numpy(pixels).movedim(-1, -3), asking.rows, Corruption.OCCLUSION, 5, seed=3)
    evaluator.network.eval()
    vectors = evaluator.embed_clips(clips, Modality.VISIBLE)
    labels = (evaluator.labels(side.rows) for side in (asking, answering))
    expected = evaluate(similarities(vectors, answering.vectors), *labels)
    np.testing.assert_allclose(found.retrieval.average_precision, expected.average_precision)
    assert found.cosine == pytest.approx(float((vectors * asking.vectors).sum(1).mean()), abs=1e-6)


def test_clips_are_decoded_once_for_all_corruptions_and_never_for_the_gallery_again(packed, monkeypatch):
    evaluator = evaluator_of(packed)
    clean = evaluator.evaluate()
    decoded: Counter[int] = Counter()
    read = ClipReader.read_for_test

    def counted(self, rows, clips, place=0):
        decoded.update(rows.tolist())
        read(self, rows, clips, place)

    monkeypatch.setattr(loader.ClipReader, "read_for_test", counted)
    found = examine(evaluator, clean, Conditions(corruptions=True))
    assert set(found.corruptions) == set(Corruption)
    assert {len(by_severity) for by_severity in found.corruptions.values()} == {len(SEVERITIES)}
    assert set(decoded.values()) == {1}
    assert set(decoded) == {*clean.query.rows.tolist(), *clean.gallery.rows.tolist()}


def test_right_answers_are_those_of_the_protocol_and_none_is_the_query_itself(packed):
    evaluator = evaluator_of(packed)
    manifest = evaluator.manifest
    lost = manifest.identity == manifest.identity[evaluator.evaluate().query.rows[0]]
    manifest.camera = np.where(lost, 1, manifest.camera)  # same identity, same camera: left out
    clean = evaluator.evaluate()
    seen: list[Asked] = []

    def note(asked: Asked) -> torch.Tensor:
        seen.append(asked)
        return asked.clean

    disturb(evaluator, clean, {0: note})
    assert sum(len(asked.rows) for asked in seen) == len(clean.query.rows) + len(clean.gallery.rows)
    for asked in seen:
        side = clean.gallery if asked.rows[0] in clean.query.rows else clean.query
        for row, own, match in zip(asked.rows, asked.clean, asked.match, strict=True):
            right = (manifest.identity[side.rows] == manifest.identity[row]) & (
                manifest.camera[side.rows] != manifest.camera[row]
            )
            mean = side.vectors[torch.from_numpy(right)].mean(0) if right.any() else own
            torch.testing.assert_close(match, mean / mean.norm())
    assert any(
        torch.equal(own, match) for asked in seen for own, match in zip(asked.clean, asked.match, strict=True)
    )


def test_an_attack_hurts_and_that_of_asam_moves_queries(packed):
    evaluator = evaluator_of(packed)
    clean = evaluator.evaluate()
    found = examine(evaluator, clean, Conditions(attack=MetricAttack(16, 5, 4, Goal.BOTH))).attacks
    assert set(found) == {Attack.METRIC, Attack.SELF}
    for direction, result in clean.results.items():
        assert found[Attack.METRIC][direction].retrieval.map < result.map
        assert found[Attack.SELF][direction].cosine < 0.9999


@pytest.mark.parametrize("variant", Variant)
def test_every_variant_can_be_attacked_and_by_its_own_branch_where_it_has_one(packed, variant):
    evaluator = evaluator_of(packed, variant)
    attacks = examine(evaluator, evaluator.evaluate(), Conditions(attack=MetricAttack(steps=1))).attacks
    assert set(attacks) == ({Attack.METRIC, Attack.SELF} if variant.attacker else {Attack.METRIC})
    for scores in attacks.values():
        assert set(scores) == set(Direction)
        assert all(0 < scored.retrieval.map <= 1 and scored.cosine < 1 for scored in scores.values())


@pytest.mark.parametrize("training", [True, False])
def test_a_network_leaves_as_it_came(packed, training):
    evaluator = evaluator_of(packed)
    clean = evaluator.evaluate()
    evaluator.network.train(training)
    examine(evaluator, clean, Conditions(attack=MetricAttack(steps=1)))
    assert all(module.training is training for module in evaluator.network.modules())


@pytest.mark.parametrize("option", ["all_clips", "rerank"])
def test_what_cannot_be_searched_clip_by_clip_is_refused(packed, option):
    evaluator = evaluator_of(packed)
    clean = evaluator.evaluate()
    with pytest.raises(
        ValueError, match=rf"evaluation\.{option}: disturbed queries are searched clip by clip"
    ):
        examine(evaluator_of(packed, **{option: True}), clean, Conditions(corruptions=True))
