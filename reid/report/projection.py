"""t-SNE: vectors as points in the plane, so that near ones stay near (van der Maaten and Hinton, 2008).

    vectors (N, D) -> squared distances -> neighbourhoods P of a given perplexity -> points (N, 2) whose own
    neighbourhoods Q are pulled towards P

Exact, for some hundred vectors: every step looks at all pairs. It begins with the first two principal components, so
equal vectors give equal points, and nothing is random.
"""

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]

PERPLEXITY = 30.0
EXAGGERATION, EXAGGERATED_STEPS = 12.0, 250
TINY = 1e-12


def usable_perplexity(num_points: int) -> float:
    """About how many neighbours count: PERPLEXITY, and at most a third of them."""
    return min(PERPLEXITY, (num_points - 1) / 3)


def tsne(vectors: NDArray[np.floating], num_steps: int = 750) -> Numbers:
    """Points (N, 2), centred, for vectors (N, D) with 2 <= D. Fewer than 5 are left at their principal components."""
    num_points = len(vectors)
    if num_points < 5:
        return principal_components(vectors)
    neighbours = affinities(np.asarray(vectors, dtype=np.float64), usable_perplexity(num_points))
    points = principal_components(vectors)
    points *= 1e-4 / max(float(points[:, 0].std()), TINY)
    rate = max(num_points / EXAGGERATION / 4, 50.0)
    velocity, gains = np.zeros_like(points), np.ones_like(points)
    for step in range(num_steps):
        is_early = step < EXAGGERATED_STEPS
        slope = _gradient(points, neighbours * (EXAGGERATION if is_early else 1.0))
        gains = np.maximum(np.where(slope * velocity < 0, gains + 0.2, gains * 0.8), 0.01)
        velocity = (0.5 if is_early else 0.8) * velocity - rate * gains * slope
        points += velocity
    centred: Numbers = points - points.mean(axis=0)
    return centred


def affinities(vectors: Numbers, perplexity: float) -> Numbers:
    """P (N, N): symmetric, summing to one. Each row is a Gaussian around a vector, as wide as the perplexity asks."""
    distances = squared_distances(vectors)
    np.fill_diagonal(distances, np.inf)
    distances -= distances.min(axis=1, keepdims=True)  # the nearest neighbour never underflows
    low, high = np.full(len(vectors), 1e-10), np.full(len(vectors), 1e10)
    for _ in range(60):
        precision = np.sqrt(low * high)  # bisected on a logarithmic scale
        rows = np.exp(-distances * precision[:, None])
        rows /= rows.sum(axis=1, keepdims=True)
        entropy = -np.sum(rows * np.log(np.maximum(rows, TINY)), axis=1)
        is_wide = entropy > np.log(perplexity)
        low, high = np.where(is_wide, precision, low), np.where(is_wide, high, precision)
    both_ways: Numbers = np.maximum((rows + rows.T) / (2 * len(rows)), TINY)
    return both_ways


def squared_distances(x: Numbers) -> Numbers:
    """Of all pairs of rows: (N, D) -> (N, N), with a zero diagonal."""
    norms = np.sum(x * x, axis=1)
    distances: Numbers = np.maximum(norms[:, None] + norms[None] - 2 * x @ x.T, 0.0)
    np.fill_diagonal(distances, 0.0)
    return distances


def principal_components(vectors: NDArray[np.floating]) -> Numbers:
    """The first two principal components, (N, D) -> (N, 2); the largest entry of each is positive."""
    centred = np.asarray(vectors, dtype=np.float64) - np.mean(vectors, axis=0)
    left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    points: Numbers = left[:, :2] * sizes[:2]
    farthest = np.abs(points).argmax(axis=0)
    return points * np.sign(points[farthest, [0, 1]] + TINY)


def _gradient(points: Numbers, neighbours: Numbers) -> Numbers:
    """Of KL(P || Q), where Q is a Student's t distribution over the distances of the points."""
    kernel = 1 / (1 + squared_distances(points))
    np.fill_diagonal(kernel, 0.0)
    pull = (neighbours - kernel / kernel.sum()) * kernel
    slope: Numbers = 4 * (pull.sum(axis=1)[:, None] * points - pull @ points)
    return slope
