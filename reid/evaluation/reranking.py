"""k-reciprocal re-ranking (Zhong, Zheng, Cao, Li: Re-ranking Person Re-identification with k-reciprocal Encoding, CVPR 2017).

    unit vectors of queries and gallery -> squared distances, a block of rows at a time
      -> the k1 + 1 nearest of every item     stable: of equal distances the earlier item is nearer
      -> k-reciprocal neighbours, expanded    who is near to me and I to him, and the friends of half as many
      -> V, a row a item, sparse              exp(-distance) over these, summing to 1, averaged over k2 neighbours
      -> (1 - weight) * Jaccard + weight * distance, a row a query

    N = Q + G items, queries first; D components. V has about a hundred entries a row, so nothing here grows as N * N.

The distances of an item are divided by its largest, as the authors' program does it.
"""

from collections.abc import Iterator
from typing import NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Rows = NDArray[np.int64]
Numbers = NDArray[np.float32]

BLOCK_ROWS = 256


class Settings(NamedTuple):
    """`k1` and `k2` of the paper, and `weight`, its lambda: how much of the original distance remains."""

    k1: int = 20
    k2: int = 6
    weight: float = 0.3


PAPER = Settings()


class _Sparse(NamedTuple):
    """N rows of non-negative numbers: row i has `values[starts[i]:starts[i + 1]]` at `columns[...]`, ascending."""

    starts: Rows
    columns: Rows
    values: Numbers

    @classmethod
    def of(cls, rows: list[tuple[Rows, Numbers]]) -> Self:
        starts = np.cumsum([0, *(len(columns) for columns, _ in rows)], dtype=np.int64)
        return cls(starts, np.concatenate([c for c, _ in rows]), np.concatenate([v for _, v in rows]))

    def row(self, i: int) -> tuple[Rows, Numbers]:
        part = slice(self.starts[i], self.starts[i + 1])
        return self.columns[part], self.values[part]

    def transposed(self) -> Self:
        order = np.argsort(self.columns, kind="stable")
        number = np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts))
        starts = np.searchsorted(self.columns[order], np.arange(len(self.starts)))
        return type(self)(starts, number[order], self.values[order])


class Reranking:
    """Neighbours of all items of two sets of unit vectors (Q, D) and (G, D), for searching in either direction."""

    def __init__(self, query: Tensor, gallery: Tensor, settings: Settings = PAPER) -> None:
        self._sides = (query, gallery)
        self._vectors = (query.numpy(), gallery.numpy())
        self._settings = settings
        self._nearest, self._largest = self._neighbours()
        items = range(len(self._nearest))
        self._circles = [self._reciprocal(i, round(settings.k1 / 2)) for i in items]
        rows = [self._encoded(i) for i in items]
        self._codes = _Sparse.of(_averaged(rows, self._nearest[:, : settings.k2]))
        self._owners = self._codes.transposed()

    def similarities(self, *, swapped: bool = False, rows: Rows | None = None) -> Iterator[Numbers]:
        """Minus the final distance to every item of the gallery, (G,), for each query, or for the queries `rows`.

        `swapped`: the gallery asks, and the queries answer.
        """
        asking, answering = self._sides[::-1] if swapped else self._sides
        first_asking, first_answering = (len(self._sides[0]), 0) if swapped else (0, len(self._sides[0]))
        answers = slice(first_answering, first_answering + len(answering))
        weight = self._settings.weight
        for block in np.array_split(positions := _all(asking, rows), -(-len(positions) // BLOCK_ROWS) or 1):
            distances = _squared_distances(asking[torch.from_numpy(block)], answering)
            for i, distance in zip((first_asking + block).tolist(), distances, strict=True):
                jaccard = self._jaccard(i)[answers]
                yield -((1 - weight) * jaccard + weight * (distance / self._largest[i]))

    def _neighbours(self) -> tuple[Rows, Numbers]:
        """The k1 + 1 nearest items of each item, nearest first (N, k1 + 1), itself among them; its largest distance (N,)."""
        nearest, largest = [], []
        for side in self._sides:
            for block in side.split(BLOCK_ROWS):
                distances = np.concatenate(
                    [_squared_distances(block, other) for other in self._sides], axis=1
                )
                largest.append(distances.max(axis=1))
                nearest += [_nearest(row, self._settings.k1 + 1) for row in distances]
        return np.stack(nearest), np.maximum(np.concatenate(largest), np.finfo(np.float32).tiny)

    def _reciprocal(self, i: int, k: int) -> Rows:
        """Who is among the k nearest of i, and has i among its own k nearest."""
        forward = self._nearest[i, : k + 1]
        reciprocal: Rows = forward[(self._nearest[forward, : k + 1] == i).any(axis=1)]
        return reciprocal

    def _encoded(self, i: int) -> tuple[Rows, Numbers]:
        """The row of V of item i, before it is averaged."""
        own = self._reciprocal(i, self._settings.k1)
        is_own = np.zeros(len(self._nearest), dtype=np.bool_)
        is_own[own] = True
        circles = [self._circles[friend] for friend in own.tolist()]
        members = [own, *(circle for circle in circles if is_own[circle].sum() > 2 / 3 * len(circle))]
        columns = np.unique(np.concatenate(members))
        own_vector = self._vector(i)  # one by one: gathering them would copy more than it computes
        cosines = np.array([own_vector @ self._vector(j) for j in columns.tolist()], dtype=np.float32)
        weights = np.exp(-np.maximum(2 - 2 * cosines, 0) / self._largest[i])
        return columns, weights / weights.sum()

    def _vector(self, item: int) -> Numbers:
        """The unit vector (D,) of an item, as a view."""
        num_queries = len(self._vectors[0])
        vector: Numbers = (
            self._vectors[0][item] if item < num_queries else self._vectors[1][item - num_queries]
        )
        return vector

    def _jaccard(self, i: int) -> Numbers:
        """1 - sum of minima / sum of maxima, between row i of V and every row; rows sum to 1. (N,)"""
        columns, values = self._codes.row(i)
        starts = self._owners.starts[columns]
        lengths = self._owners.starts[columns + 1] - starts
        places = np.arange(lengths.sum()) + np.repeat(starts - (np.cumsum(lengths) - lengths), lengths)
        shared = np.minimum(np.repeat(values, lengths), self._owners.values[places])
        smaller = np.bincount(self._owners.columns[places], shared, minlength=len(self._nearest))
        jaccard: Numbers = (1 - smaller / (2 - smaller)).astype(np.float32)
        return jaccard


def _averaged(rows: list[tuple[Rows, Numbers]], nearest: Rows) -> list[tuple[Rows, Numbers]]:
    """Each row of V replaced by the mean of the rows of its k2 nearest items (N, k2)."""
    found = []
    for neighbours in nearest:
        columns, places = np.unique(np.concatenate([rows[j][0] for j in neighbours]), return_inverse=True)
        values = np.concatenate([rows[j][1] for j in neighbours])
        found.append((columns, (np.bincount(places, values) / len(neighbours)).astype(np.float32)))
    return found


def _nearest(distances: Numbers, count: int) -> Rows:
    """Positions of the `count` smallest, in the order of a stable sort."""
    count = min(count, len(distances))
    candidates = np.flatnonzero(distances <= np.partition(distances, count - 1)[count - 1])
    order: Rows = candidates[np.argsort(distances[candidates], kind="stable")[:count]]
    return order


def _squared_distances(one: Tensor, other: Tensor) -> Numbers:
    """|x - y|^2 of unit vectors (A, D) and (B, D): 2 - 2 x.y, in [0, 4]. (A, B)"""
    distances: Numbers = (2 - 2 * (one @ other.T)).clamp_(min=0).numpy()
    return distances


def _all(side: Tensor, rows: Rows | None) -> Rows:
    return np.arange(len(side)) if rows is None else rows
