"""reid/report/album.py: the pictures show the tracklets, the rankings and the batch that the scores are about."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from reid.data.clips import ClipReader
from reid.data.loader import training_batches
from reid.data.manifest import Manifest
from reid.report import album
from reid.report.sheets import NOBODY
from reid.training import build
from reid.training.review import batch_of
from reid.types import Direction, Modality


@pytest.mark.parametrize("direction", Direction)
def test_a_panel_shows_the_ranking_that_was_scored(knowing, direction):
    panel = album.answered({"a run": knowing}, direction)
    manifest, (query, gallery) = knowing.manifest, knowing.evaluation.sides(direction)
    (ranking,) = panel.rankings
    assert panel.clips.shape == (5, 3, 32, 16, 3)
    assert ranking.answers.shape == (5, 10, 32, 16, 3)
    result = knowing.evaluation.results[direction]
    chosen = np.sort(np.random.default_rng(0).choice(np.flatnonzero(result.first_hit >= 0), 5, replace=False))
    np.testing.assert_array_equal(panel.identity, manifest.identity[query.rows[chosen]])
    right = ranking.identity == panel.identity[:, None]
    first = np.where(right.any(axis=1), right.argmax(axis=1), 10)
    np.testing.assert_array_equal(first, np.minimum(result.first_hit[chosen], 10))
    assert (np.diff(ranking.similarity, axis=1)[~np.isnan(np.diff(ranking.similarity, axis=1))] <= 0).all()
    missing = ranking.identity == NOBODY
    np.testing.assert_array_equal(missing, np.isnan(ranking.similarity))
    assert len(gallery.rows) >= 10 - missing.sum(axis=1).max()


def test_a_query_is_shown_as_it_was_embedded_and_an_answer_by_its_middle_frame(knowing):
    direction = Direction.INFRARED_TO_VISIBLE
    panel = album.answered({"a run": knowing}, direction)
    manifest, (query, gallery) = knowing.manifest, knowing.evaluation.sides(direction)
    asked = np.flatnonzero(manifest.identity[query.rows] == panel.identity[0])
    reader, clip = ClipReader(manifest, knowing.protocol.shape), np.zeros((1, 3, 32, 16, 3), np.uint8)
    known = []
    for row in query.rows[asked]:
        reader.read_for_test(np.array([row]), clip)
        known.append(clip[0].copy())
    assert any(np.array_equal(panel.clips[0], candidate) for candidate in known)
    similarity = [*knowing.evaluation.similarities(direction)]
    best = max(
        (similarity[q].max(), q)
        for q, candidate in zip(asked, known, strict=True)
        if np.array_equal(panel.clips[0], candidate)
    )[1]
    allowed = (manifest.identity[gallery.rows] != panel.identity[0]) | (
        manifest.camera[gallery.rows] != manifest.camera[query.rows[best]]
    )
    answer = gallery.rows[np.where(allowed, similarity[best], -2).argmax()]
    reader.read_for_test(np.array([answer]), clip)
    np.testing.assert_array_equal(panel.rankings[0].answers[0, 0], clip[0, 1])


def test_all_runs_are_asked_the_same(untrained):
    panel = album.answered(untrained, Direction.VISIBLE_TO_INFRARED)
    alone = album.answered({"full": untrained["full"]}, Direction.VISIBLE_TO_INFRARED)
    assert [ranking.label for ranking in panel.rankings] == ["baseline", "full"]
    np.testing.assert_array_equal(panel.clips, alone.clips)
    np.testing.assert_array_equal(panel.rankings[1].similarity, alone.rankings[0].similarity)


@pytest.mark.parametrize("direction", Direction)
def test_failures_are_the_queries_whose_first_right_answer_comes_last(untrained, direction):
    panel = album.failed({"baseline": untrained["baseline"]}, direction)
    result = untrained["baseline"].evaluation.results[direction]
    last = np.sort(result.first_hit)[::-1][: len(panel.clips)]
    (ranking,) = panel.rankings
    assert (ranking.identity[:, 0] != panel.identity).all()
    assert (ranking.identity[:, -1] == panel.identity).all()
    assert panel.ends_right
    assert not album.answered({"baseline": untrained["baseline"]}, direction).ends_right
    np.testing.assert_array_equal(ranking.rank[:, -1], last + 1)
    assert last[0] == result.first_hit.max() > 0


def test_the_failures_of_several_runs_are_those_that_are_hard_for_all(untrained):
    direction = Direction.INFRARED_TO_VISIBLE
    panel = album.failed(untrained, direction)
    hits = [found.evaluation.results[direction].first_hit for found in untrained.values()]
    ranks = np.stack([ranking.rank[:, -1] - 1 for ranking in panel.rankings])
    means = np.mean(hits, axis=0)
    np.testing.assert_array_equal(ranks.mean(axis=0), np.sort(means)[::-1][: len(panel.clips)])
    assert [ranking.label for ranking in panel.rankings] == ["baseline", "full"]


def test_where_everything_is_found_nothing_fails(knowing):
    direction = Direction.INFRARED_TO_VISIBLE
    perfect = knowing.evaluation.results[direction]._replace(
        first_hit=np.zeros(len(knowing.evaluation.query.rows), np.int64)
    )
    evaluation = replace(knowing.evaluation, results={direction: perfect})
    assert album.failed({"a run": replace(knowing, evaluation=evaluation)}, direction) is None


def test_attention_is_shown_for_clips_of_both_lights_of_the_same_person_in_every_run(untrained):
    shown = album.attended(untrained)
    assert len(shown) == 6
    for visible, infrared in zip(shown[::2], shown[1::2], strict=True):
        assert visible.title.split(",")[0] == infrared.title.split(",")[0]
        assert "visible" in visible.title
        assert "infrared" in infrared.title
        assert (infrared.clip[..., 0] == infrared.clip[..., 1]).mean() > 0.9  # grey
        for one in (visible, infrared):
            assert list(one.attention) == ["baseline", "full"]
            for looks in one.attention.values():
                assert looks.shape == (3, 2, 1)
                assert looks.min() >= 0
    assert max(looks.max() for one in shown for looks in one.attention.values()) > 0


def test_a_map_has_the_clips_of_people_seen_in_both_lights(knowing):
    found, people = album.mapped(knowing)
    assert len(found.points) == len(found.identity) == len(found.is_visible)
    assert set(people) <= set(found.identity[found.is_visible]) & set(found.identity[~found.is_visible])
    distances = np.linalg.norm(found.points[:, None] - found.points, axis=-1)
    same = found.identity[:, None] == found.identity
    assert np.median(distances[same & (distances > 0)]) < np.median(distances[~same])


def test_distances_count_each_pair_once_and_no_pair_of_one_person_in_one_camera(knowing):
    found, manifest = album.distances(knowing), knowing.manifest
    assert list(found) == ["Within visible", "Within infrared", "Across modalities"]
    expected_positives = expected_negatives = 0
    rows = knowing.evaluation.gallery.rows
    for i, a in enumerate(rows):
        for b in rows[i + 1 :]:
            same = manifest.identity[a] == manifest.identity[b]
            expected_positives += bool(same and manifest.camera[a] != manifest.camera[b])
            expected_negatives += bool(not same)
    assert [len(side) for side in found["Within visible"]] == [expected_positives, expected_negatives]
    positives, negatives = found["Across modalities"]
    assert np.median(positives) < np.median(negatives)


def test_only_runs_that_searched_the_same_tracklets_are_put_together(untrained):
    full = untrained["full"]
    query = full.evaluation.query
    fewer = replace(full.evaluation, query=replace(query, rows=query.rows[:-1], vectors=query.vectors[:-1]))
    runs = {**untrained, "fewer": replace(full, evaluation=fewer)}
    assert [list(group) for group in album.comparable(runs)] == [["baseline", "full"], ["fewer"]]


@pytest.mark.parametrize("step", [0, 5])
def test_the_batch_shown_is_the_one_that_training_reads(tiny, step):
    config = tiny()
    manifest = Manifest.open(config.data.root)
    shown = album.seen(step, *batch_of(config, manifest, step), manifest, build.augmentation(config))
    workers = training_batches(
        manifest,
        build.batch_plan(config, manifest),
        first=step,
        last=step + 1,
        shape=build.clip_shape(config),
        augmentation=build.augmentation(config),
        num_workers=1,
        rank=1,
        world=2,
    )
    with workers:
        share = next(workers)
    np.testing.assert_array_equal(torch.from_numpy(shown.visible[4:]).movedim(-1, 1), share.visible[:, 0])
    np.testing.assert_array_equal(torch.from_numpy(shown.infrared[4:]).movedim(-1, 1), share.infrared[:, 0])
    assert shown.num_tracklets == 2
    np.testing.assert_array_equal(manifest.label[np.isin(manifest.identity, shown.identity[4:])] >= 0, True)
    for cameras, modality in (
        (shown.visible_camera, Modality.VISIBLE),
        (shown.infrared_camera, Modality.INFRARED),
    ):
        for person, camera in zip(shown.identity, cameras, strict=True):
            assert (
                (manifest.identity == person) & (manifest.camera == camera) & (manifest.modality == modality)
            ).any()
