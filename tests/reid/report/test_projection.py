"""reid/report/projection.py: t-SNE against scikit-learn's, against slow loops, and on data that can be told apart."""

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE, trustworthiness

from reid.report.projection import (
    _gradient,
    affinities,
    principal_components,
    squared_distances,
    tsne,
    usable_perplexity,
)

RNG = np.random.default_rng(0)


def clusters(count: int, size: int, spread: float) -> np.ndarray:
    centres = RNG.standard_normal((count, 1, 32))
    vectors = (centres + spread * RNG.standard_normal((count, size, 32))).reshape(-1, 32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def divergence(p: np.ndarray, points: np.ndarray) -> float:
    q = 1 / (1 + squared_distances(points))
    np.fill_diagonal(q, 0)
    q /= q.sum()
    pairs = ~np.eye(len(p), dtype=bool)
    return float(np.sum(p[pairs] * np.log(p[pairs] / q[pairs])))


def test_people_that_can_be_told_apart_lie_apart_in_the_plane():
    vectors = clusters(6, 20, 0.3)
    points = tsne(vectors)
    distances = squared_distances(points)
    np.fill_diagonal(distances, np.inf)
    assert (distances.argmin(axis=1) // 20 == np.arange(120) // 20).all()
    np.testing.assert_allclose(points.mean(axis=0), 0, atol=1e-9)
    np.testing.assert_array_equal(tsne(vectors), points)


def test_it_ends_as_well_as_the_one_of_scikit_learn():
    vectors = clusters(6, 25, 0.9)
    reference = TSNE(method="exact", init="pca", perplexity=30, random_state=0).fit_transform(vectors)
    neighbours, ours = affinities(vectors, 30), tsne(vectors)
    assert divergence(neighbours, ours) < 1.05 * divergence(neighbours, reference.astype(float))
    assert trustworthiness(vectors, ours) > trustworthiness(vectors, reference) - 0.02


def test_every_neighbourhood_has_the_perplexity_that_was_asked_for():
    vectors = clusters(3, 15, 0.5)
    distances = squared_distances(vectors)
    asked = 7.0
    both_ways = affinities(vectors, asked)
    rows = np.zeros_like(both_ways)
    for i in range(len(vectors)):  # the slow, obvious search
        low, high = 1e-6, 1e6
        for _ in range(200):
            precision = (low * high) ** 0.5
            row = np.exp(-precision * (distances[i] - np.delete(distances[i], i).min()))
            row[i] = 0
            row /= row.sum()
            width = np.exp(-sum(p * np.log(p) for p in row if p > 1e-300))
            low, high = (precision, high) if width > asked else (low, precision)
        rows[i] = row
    np.testing.assert_allclose(both_ways, np.maximum((rows + rows.T) / (2 * len(rows)), 1e-12), atol=1e-9)
    assert both_ways.sum() == pytest.approx(1)


def test_the_gradient_is_that_of_the_divergence():
    neighbours = affinities(clusters(2, 5, 0.5), 3)
    np.fill_diagonal(neighbours, 0)
    neighbours /= neighbours.sum()
    points = RNG.standard_normal((10, 2))
    slope = _gradient(points, neighbours)
    for i, j in ((0, 0), (3, 1), (9, 0)):
        moved = points.copy()
        moved[i, j] += 1e-6
        change = (divergence(neighbours, moved) - divergence(neighbours, points)) / 1e-6
        assert slope[i, j] == pytest.approx(change, rel=1e-3)


def test_distances_and_components_are_those_of_the_slow_way():
    vectors = RNG.standard_normal((7, 4))
    slow = [[float(np.sum((a - b) ** 2)) for b in vectors] for a in vectors]
    np.testing.assert_allclose(squared_distances(vectors), slow, atol=1e-12)
    ours, theirs = principal_components(vectors), PCA(2).fit_transform(vectors)
    np.testing.assert_allclose(np.abs(ours), np.abs(theirs))
    assert (ours.max(axis=0) >= -ours.min(axis=0)).all()


@pytest.mark.parametrize("num_points", [2, 4, 5, 12])
def test_few_vectors_and_equal_ones_still_have_places(num_points):
    assert usable_perplexity(num_points) <= (num_points - 1) / 3
    assert np.isfinite(tsne(RNG.standard_normal((num_points, 3)))).all()
    assert np.isfinite(tsne(np.ones((num_points, 3)))).all()
