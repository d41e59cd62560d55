"""reid/evaluation/retrieval.py: each row embedded once, and the same scores however the work is split."""

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from reid.data.clips import ClipReader, ClipShape, normalise
from reid.data.manifest import Manifest
from reid.evaluation.metrics import Labels, evaluate
from reid.evaluation.reranking import Reranking
from reid.evaluation.retrieval import SIMILARITY_ROWS, Evaluator, Protocol, similarities
from reid.model.network import Network, Structure
from reid.report import tables
from reid.runtime import Runtime
from reid.types import Direction, Embedding, Modality, Role

SHAPE = ClipShape(3, 32, 16)


class CountingNetwork(Network):
    """Remembers which clips it embedded."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__(Structure(num_identities=8, backbone="thin", num_parts=2))
        self.embedded: list[tuple[Modality, torch.Tensor]] = []

    def embed(self, clips, modality, kind=Embedding.AUTO):
        self.embedded += [(modality, clip) for clip in clips]
        return super().embed(clips, modality, kind)


def evaluator_of(root: Path, num_workers: int = 0, **protocol: Any) -> Evaluator:
    runtime = Runtime.start(precision="fp64", device="cpu", seed=0, deterministic=False)
    network = CountingNetwork()
    runtime.prepare(network)
    return Evaluator(
        network, Manifest.open(root), Protocol(SHAPE, **{"batch_clips": 4} | protocol), runtime, num_workers
    )


def printed(root: Path, num_workers: int, **protocol: Any) -> tuple[str, int]:
    """What `reid evaluate --json` prints of the scores, all vectors, and how many clips this process embedded."""
    evaluator = evaluator_of(root, num_workers, **protocol)
    evaluation = evaluator.evaluate()
    text = json.dumps(
        tables.as_numbers(
            evaluation.results,
            protocol=evaluator.protocol.describe(evaluator.manifest),
            synthetic=evaluator.manifest.synthetic,
        )
    )
    vectors = [side.vectors.numpy().tobytes().hex() for side in (evaluation.query, evaluation.gallery)]
    return text + "".join(vectors), len(evaluator.network.embedded)


def printed_with_all_options(root: Path, num_workers: int) -> tuple[str, int]:
    return printed(root, num_workers, all_clips=True, rerank=True)


def test_scores_are_the_same_for_one_and_two_processes_and_for_no_and_two_workers(packed, pair, one_thread):
    expected, num_rows = printed(packed, 0)
    assert "infrared_to_visible" in expected
    assert printed(packed, 2) == (expected, num_rows)
    for num_workers in (0, 2):
        first, second = pair(printed, packed, num_workers)
        assert first[0] == second[0] == expected
        assert first[1] + second[1] == num_rows
        assert min(first[1], second[1]) > 0


@pytest.mark.slow
def test_scores_are_the_same_for_one_and_three_processes(packed, trio, one_thread):
    expected, num_clips = printed(packed, 0)
    texts, counts = zip(*trio(printed, packed, 0), strict=True)
    assert set(texts) == {expected}
    assert sum(counts) == num_clips
    assert min(counts) > 0


def test_averaged_and_re_ranked_scores_are_the_same_for_one_and_two_processes(packed, pair, one_thread):
    expected, num_clips = printed_with_all_options(packed, 0)
    assert printed_with_all_options(packed, 2) == (expected, num_clips)
    first, second = pair(printed_with_all_options, packed, 0)
    assert first[0] == second[0] == expected
    assert first[1] + second[1] == num_clips


def test_the_vector_of_all_clips_is_the_mean_of_the_unit_vectors_of_each(packed):
    evaluator = evaluator_of(packed, all_clips=True)
    manifest = evaluator.manifest
    rows = manifest.rows(Role.GALLERY)[:5]
    vectors = evaluator.embed(rows)
    for row, vector in zip(rows, vectors, strict=True):
        num_frames = int(manifest.num_frames[row])
        places = range(-(-num_frames // SHAPE.frames))
        clips = np.empty((len(places), *SHAPE, 3), dtype=np.uint8)
        for place in places:
            ClipReader(manifest, SHAPE).read_for_test(np.array([row]), clips[place : place + 1], place)
        pixels = torch.from_numpy(clips).permute(0, 1, 4, 2, 3)  # (c, T, 3, H, W)
        with torch.inference_mode():
            modality = Modality(int(manifest.modality[row]))
            mean = evaluator.network.eval().embed(normalise(pixels).double(), modality).mean(0)
        torch.testing.assert_close(vector, (mean / mean.norm()).float())
    one_clip = evaluator_of(packed).embed(rows)
    assert not torch.allclose(vectors, one_clip)


def test_re_ranked_scores_are_those_of_the_re_ranked_similarities(packed):
    evaluation = evaluator_of(packed, rerank=True).evaluate()
    plain = evaluator_of(packed).evaluate()
    assert evaluation.query.vectors.equal(plain.query.vectors)
    reranking = Reranking(plain.query.vectors, plain.gallery.vectors)
    manifest = Manifest.open(packed)
    for direction in Direction:
        swapped = direction is Direction.VISIBLE_TO_INFRARED
        labels = (
            Labels(manifest.identity[side.rows], manifest.camera[side.rows])
            for side in evaluation.sides(direction)
        )
        expected = evaluate(reranking.similarities(swapped=swapped), *labels)
        np.testing.assert_array_equal(evaluation.results[direction].cmc, expected.cmc)
        chosen = np.array([3, 1])
        rows = list(evaluation.similarities(direction))
        np.testing.assert_allclose(
            list(evaluation.similarities(direction, chosen)), [rows[3], rows[1]], rtol=1e-5, atol=1e-6
        )


def test_the_memory_needed_is_said_before_anything_is_embedded(packed, caplog):
    evaluator = evaluator_of(packed)
    with caplog.at_level(logging.INFO):
        evaluator.evaluate()
    told = next(message for message in caplog.messages if message.startswith("evaluation:"))
    width = evaluator.network.embedding_width()
    assert f"15 queries and 15 gallery tracklets, vectors of {width} numbers: at most " in told


def test_what_does_not_fit_is_refused_before_anything_is_embedded(packed):
    evaluator = evaluator_of(packed)

    class Endless(CountingNetwork):
        """Claims vectors that fill any machine."""

        def embedding_width(self, kind=Embedding.AUTO):
            return 10**13

    network = Endless()
    with pytest.raises(ValueError, match=r"1 of them on .* need [\d.]+ GB, but [\d.]+ GB are available"):
        replace(evaluator, network=network).evaluate()
    assert network.embedded == []


def test_every_test_row_is_embedded_exactly_once_for_both_directions(packed):
    evaluator = evaluator_of(packed)
    evaluation = evaluator.evaluate()
    manifest = evaluator.manifest
    query, gallery = (manifest.rows(role) for role in (Role.QUERY, Role.GALLERY))
    np.testing.assert_array_equal(evaluation.query.rows, query)
    np.testing.assert_array_equal(evaluation.gallery.rows, gallery)
    seen = {(modality, clip.numpy().tobytes()) for modality, clip in evaluator.network.embedded}
    assert len(seen) == len(evaluator.network.embedded) == len(query) + len(gallery)
    assert evaluation.sides(Direction.INFRARED_TO_VISIBLE) == (evaluation.query, evaluation.gallery)
    assert evaluation.sides(Direction.VISIBLE_TO_INFRARED) == (evaluation.gallery, evaluation.query)
    results = evaluation.results
    assert (
        results[Direction.INFRARED_TO_VISIBLE].num_queries,
        len(results[Direction.INFRARED_TO_VISIBLE].cmc),
    ) == (
        len(query),
        len(gallery),
    )
    assert (
        results[Direction.VISIBLE_TO_INFRARED].num_queries,
        len(results[Direction.VISIBLE_TO_INFRARED].cmc),
    ) == (
        len(gallery),
        len(query),
    )


def test_vectors_are_of_unit_length_and_in_the_order_of_the_rows_whatever_their_modality(packed):
    evaluator = evaluator_of(packed)
    rows = np.random.default_rng(0).permutation(
        np.concatenate([evaluator.manifest.rows(role) for role in (Role.QUERY, Role.GALLERY)])
    )
    vectors = evaluator.embed(rows)
    assert vectors.dtype is torch.float32
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(len(rows)))
    reader = ClipReader(evaluator.manifest, SHAPE)
    pixels = np.empty((1, *SHAPE, 3), dtype=np.uint8)
    for position in (0, 1, len(rows) - 1):
        reader.read_for_test(rows[[position]], pixels)
        clip = torch.from_numpy(pixels).permute(0, 1, 4, 2, 3)  # (1, T, 3, H, W)
        modality = Modality(int(evaluator.manifest.modality[rows[position]]))
        with torch.inference_mode():
            alone = evaluator.network.eval().embed(normalise(clip).double(), modality)
        torch.testing.assert_close(vectors[position], alone[0].float())


@pytest.mark.parametrize("training", [True, False])
def test_a_network_leaves_as_it_came_and_its_statistics_stay(packed, training):
    evaluator = evaluator_of(packed)
    evaluator.network.train(training)
    before = {name: tensor.clone() for name, tensor in evaluator.network.state_dict().items()}
    evaluator.embed(evaluator.manifest.rows(Role.QUERY)[:3])
    assert all(module.training is training for module in evaluator.network.modules())
    assert all(tensor.equal(before[name]) for name, tensor in evaluator.network.state_dict().items())


def test_a_query_without_a_match_is_skipped_and_counted(packed):
    evaluator = evaluator_of(packed)
    manifest = evaluator.manifest
    lost = manifest.identity[manifest.rows(Role.QUERY)[0]]
    of_lost = (manifest.identity == lost) & (manifest.role == list(Role).index(Role.GALLERY))
    manifest.role = np.where(of_lost, list(Role).index(Role.TRAIN), manifest.role)
    queries = manifest.identity[manifest.rows(Role.QUERY)]
    result = evaluator.evaluate().results[Direction.INFRARED_TO_VISIBLE]
    assert result.num_skipped == (queries == lost).sum() > 0
    assert result.num_queries == (queries != lost).sum()
    assert np.isnan(result.average_precision[queries == lost]).all()
    assert np.isfinite(result.average_precision[queries != lost]).all()


def test_without_a_query_long_enough_the_remedy_is_told(packed):
    with pytest.raises(
        ValueError, match=r"no query tracklet of the required length; .* lower data\.minimum_frames"
    ):
        evaluator_of(packed, minimum_frames=1000).evaluate()


def test_the_protocol_is_one_line_that_names_the_data_set_and_every_choice(packed):
    manifest = Manifest.open(packed)
    line = Protocol(SHAPE).describe(manifest)
    assert line == (
        f"synthetic-vcm (synthetic) {manifest.digest[:12]}: tracklets of at least 12 frames, 3 evenly spaced frames at "
        "32x16, auto embedding, cosine, without gallery items of the query's identity and camera"
    )
    other = replace(Protocol(SHAPE), minimum_frames=5, embedding=Embedding.BOTH, drop_same_camera=False)
    assert "at least 5 frames" in other.describe(manifest)
    assert "both embedding, cosine, with gallery items" in other.describe(manifest)
    options = replace(Protocol(SHAPE), all_clips=True, rerank=True).describe(manifest)
    assert "the mean of all clips of 3 evenly spaced frames at 32x16" in options
    assert "auto embedding, k-reciprocal re-ranking (k1 20, k2 6, lambda 0.3), without gallery" in options


def test_similarities_are_the_cosines_block_by_block():
    generator = torch.Generator().manual_seed(0)
    query, gallery = (torch.randn(size, 8, generator=generator) for size in (SIMILARITY_ROWS + 3, 5))
    rows = list(similarities(query, gallery))
    assert len(rows) == SIMILARITY_ROWS + 3
    np.testing.assert_allclose(np.stack(rows), (query @ gallery.T).numpy(), rtol=1e-6, atol=1e-6)
