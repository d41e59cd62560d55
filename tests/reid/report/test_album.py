"""reid/report/album.py: the pictures show the tracklets that the scores are about."""

import numpy as np
import pytest
import torch
from PIL import Image

from preprocess.options import Options
from preprocess.pack import pack
from preprocess.synthetic import SyntheticConfig, synthesize
from reid.data.clips import ClipShape
from reid.data.manifest import Manifest
from reid.data.shards import ShardReader
from reid.evaluation.metrics import Labels, evaluate
from reid.evaluation.retrieval import Embedded, Evaluation, Protocol, similarities
from reid.report import album
from reid.report.pictures import NOBODY
from reid.tracking import names
from reid.tracking.tracker import OFFLINE, Tracker
from reid.types import Direction, Role

PROTOCOL = Protocol(ClipShape(6, 48, 24))


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> Manifest:
    folder = tmp_path_factory.mktemp("album")
    config = SyntheticConfig(
        num_identities=10,
        num_train_identities=5,
        tracklets_per_modality=3,
        height=48,
        width=24,
        short_fraction=0,
    )
    synthesize(config, folder / "raw")
    pack(folder / "raw", folder / "packed", Options())
    return Manifest.open(folder / "packed")


@pytest.fixture(scope="module")
def evaluation(manifest) -> Evaluation:
    """Vectors that mostly know the identity."""
    rng = np.random.default_rng(0)
    centres = {identity: rng.standard_normal(16) for identity in np.unique(manifest.identity)}

    def embedded(role: Role) -> Embedded:
        rows = manifest.rows(role)
        vectors = np.stack([centres[manifest.identity[row]] + 0.7 * rng.standard_normal(16) for row in rows])
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return Embedded(rows, torch.from_numpy(unit.astype(np.float32)))

    found = Evaluation({}, embedded(Role.QUERY), embedded(Role.GALLERY))
    for direction in Direction:
        sides = found.sides(direction)
        labels = (Labels(manifest.identity[side.rows], manifest.camera[side.rows]) for side in sides)
        found.results[direction] = evaluate(similarities(sides[0].vectors, sides[1].vectors), *labels)
    return found


@pytest.mark.parametrize("direction", Direction)
def test_a_panel_shows_the_ranking_that_was_scored(manifest, evaluation, direction):
    panel = album.panel(evaluation, manifest, PROTOCOL, direction)
    query, gallery = evaluation.sides(direction)
    assert panel.queries.shape == (5, 48, 24, 3)
    assert panel.answers.shape == (5, 10, 48, 24, 3)
    shown = panel.similarity[~np.isnan(panel.similarity)]
    assert -1 <= shown.min() <= shown.max() <= 1.0001
    result = evaluation.results[direction]
    chosen = np.sort(np.random.default_rng(0).choice(np.flatnonzero(result.first_hit >= 0), 5, replace=False))
    np.testing.assert_array_equal(panel.query_identity, manifest.identity[query.rows[chosen]])
    right = panel.answer_identity == panel.query_identity[:, None]
    first = np.where(right.any(axis=1), right.argmax(axis=1), 10)
    np.testing.assert_array_equal(first, np.minimum(result.first_hit[chosen], 10))
    assert (np.diff(panel.similarity, axis=1)[~np.isnan(np.diff(panel.similarity, axis=1))] <= 0).all()
    missing = panel.answer_identity == NOBODY
    np.testing.assert_array_equal(missing.sum(axis=1) > 0, np.isnan(panel.similarity).any(axis=1))
    assert len(gallery.rows) >= 10 - missing.sum(axis=1).max()


def test_the_frame_in_the_middle_is_shown(manifest):
    rows = manifest.rows(Role.QUERY)[:2]
    found = album.middle_frames(manifest, rows, 48, 24)
    (jpeg,) = ShardReader(manifest).read(int(rows[1]), np.array([manifest.num_frames[rows[1]] // 2]))
    expected = np.zeros((48, 24, 3), np.uint8)
    album.decode(jpeg, expected)
    np.testing.assert_array_equal(found[1], expected)
    assert expected.std() > 1


def test_distances_count_each_pair_once_and_no_pair_of_one_person_in_one_camera(manifest, evaluation):
    found = album.distances(evaluation, manifest)
    assert list(found) == ["Within visible", "Within infrared", "Across modalities"]
    expected_positives = expected_negatives = 0
    rows = evaluation.gallery.rows
    for i, a in enumerate(rows):
        for b in rows[i + 1 :]:
            same = manifest.identity[a] == manifest.identity[b]
            expected_positives += bool(same and manifest.camera[a] != manifest.camera[b])
            expected_negatives += bool(not same)
    assert [len(side) for side in found["Within visible"]] == [expected_positives, expected_negatives]
    positives, negatives = found["Across modalities"]
    assert np.median(positives) < np.median(negatives)


def test_an_album_is_written(manifest, evaluation, tmp_path):
    files = album.write(tmp_path / "pictures", evaluation, manifest, PROTOCOL, "a run")
    with Tracker.open(tmp_path / "run", experiment="e", run_name="r", tracking_uri=OFFLINE) as tracker:
        for step in range(3):
            tracker.metrics(step, {names.Metric.LOSS: 1.0, names.Metric.STAGE: 1})
    files += album.write_curves(tmp_path / "pictures", tmp_path / "run", synthetic=True)
    assert [file.name for file in files] == ["retrieval.png", "cmc.png", "distances.png", "training.png"]
    for file in files:
        with Image.open(file) as picture:
            assert picture.width > 500
