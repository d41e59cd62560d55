"""Scores of a retrieval: CMC, mAP and mINP from similarities, and what guessing would score.

One query at a time: its row of similarities (G,) loses the gallery items that the protocol removes, the ranks of the
positives are read off the rest, and three numbers are kept of them. Rows may come from a whole matrix or from a
generator, so a large matrix never has to exist.

    Q queries, G gallery items. Ranks start at 0. All scores are fractions in [0, 1].
"""

from collections.abc import Iterable
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray


class Labels(NamedTuple):
    """Who is seen, and by which camera: two integer arrays of one length, (Q,) or (G,)."""

    identity: NDArray[np.integer]
    camera: NDArray[np.integer]


class Chance(NamedTuple):
    """Expected scores of a gallery in random order, under the same protocol."""

    cmc: NDArray[np.float64]  # (G,)
    map: float
    minp: float


class Retrieval(NamedTuple):
    """Scores of one direction; `average_precision` and `first_hit` are those of the single queries.

    `cmc[k - 1]` is Rank-k. A query that was not counted has average precision NaN and first hit -1.
    `num_removed_pairs` counts the pairs taken out for sharing identity and camera.
    """

    cmc: NDArray[np.float64]  # (G,)
    map: float
    minp: float
    chance: Chance
    num_queries: int
    num_skipped: int
    num_removed_pairs: int
    average_precision: NDArray[np.float64]  # (Q,)
    first_hit: NDArray[np.int64]  # (Q,)

    def rank(self, k: int) -> float:
        """Rank-k: the fraction of queries with a positive among the first k; 1 <= k."""
        return rank(self.cmc, k)


def rank(cmc: NDArray[np.float64], k: int) -> float:
    """Value of a CMC curve at Rank-k. A gallery shorter than k answers with its last entry."""
    return float(cmc[min(k, len(cmc)) - 1])


class Hits(NamedTuple):
    """What is kept of each query's ranking, (Q,): `average_precision` and `inverse_penalty` are NaN, and `first_hit` is -1,
    where no positive was left.
    """

    average_precision: NDArray[np.float64]
    inverse_penalty: NDArray[np.float64]
    first_hit: NDArray[np.int64]
    num_candidates: NDArray[np.int64]
    num_positives: NDArray[np.int64]

    @classmethod
    def unknown(cls, num_queries: int) -> Self:
        """Places for the hits of so many queries."""
        floats, integers = np.full((2, num_queries), np.nan), np.zeros((3, num_queries), dtype=np.int64)
        integers[0] = -1
        return cls(*floats, *integers)


def evaluate(
    similarity: Iterable[NDArray[np.floating]],
    query: Labels,
    gallery: Labels,
    *,
    remove_same_camera: bool = True,
) -> Retrieval:
    """Score Q rankings of the same gallery.

    `similarity` yields Q rows (G,), in the order of `query`; a (Q, G) array is such an iterable. Greater is more alike,
    and equal similarities keep the order of the gallery. Gallery items of the query's identity and camera are removed
    first, unless `remove_same_camera` is False. A query without a positive left is skipped, not counted as wrong.

    Raises ValueError for NaN, for shapes that do not fit, and if no query has a positive.
    """
    found = hits(similarity, query, gallery, remove_same_camera=remove_same_camera)
    return retrieval(found, len(gallery.identity), remove_same_camera=remove_same_camera)


def hits(
    similarity: Iterable[NDArray[np.floating]],
    query: Labels,
    gallery: Labels,
    *,
    remove_same_camera: bool = True,
) -> Hits:
    """The first half of `evaluate`: what is kept of each ranking. Pieces of the queries may be ranked on their own."""
    found = Hits.unknown(len(query.identity))
    for q, row in enumerate(_checked(similarity, len(query.identity), len(gallery.identity))):
        positive = gallery.identity == query.identity[q]
        if remove_same_camera:
            candidate = ~(positive & (gallery.camera == query.camera[q]))
            row, positive = row[candidate], positive[candidate]  # noqa: PLW2901
        found.num_candidates[q], found.num_positives[q] = len(row), np.count_nonzero(positive)
        if found.num_positives[q]:
            ranks = _hit_ranks(row, positive)
            found.first_hit[q] = ranks[0]
            found.average_precision[q] = np.mean(np.arange(1, len(ranks) + 1) / (ranks + 1))
            found.inverse_penalty[q] = len(ranks) / (ranks[-1] + 1)
    return found


def retrieval(found: Hits, num_gallery: int, *, remove_same_camera: bool = True) -> Retrieval:
    """The second half of `evaluate`: the means over all queries. Raises ValueError if no query has a positive."""
    counted = found.num_positives > 0
    if not counted.any():
        raise ValueError(
            f"none of the {len(counted)} queries has a gallery item of its own identity"
            f"{' seen by another camera' if remove_same_camera else ''} among {num_gallery}: "
            "check that query and gallery come from the same split"
        )
    return Retrieval(
        cmc=np.bincount(found.first_hit[counted], minlength=num_gallery).cumsum() / counted.sum(),
        map=float(found.average_precision[counted].mean()),
        minp=float(found.inverse_penalty[counted].mean()),
        chance=_chance(found.num_candidates[counted], found.num_positives[counted], num_gallery),
        num_queries=int(counted.sum()),
        num_skipped=int((~counted).sum()),
        num_removed_pairs=int((num_gallery - found.num_candidates).sum()),
        average_precision=found.average_precision,
        first_hit=found.first_hit,
    )


def first_answers(
    similarity: NDArray[np.floating],
    identity: int,
    camera: int,
    gallery: Labels,
    count: int,
    *,
    remove_same_camera: bool = True,
) -> NDArray[np.int64]:
    """Gallery positions that one query ranks first, best first: at most `count`, by the same protocol as `evaluate`."""
    order = np.argsort(-similarity, kind="stable")
    if remove_same_camera:
        order = order[(gallery.identity[order] != identity) | (gallery.camera[order] != camera)]
    return order[:count]


def _checked(
    similarity: Iterable[NDArray[np.floating]], num_queries: int, num_gallery: int
) -> Iterable[NDArray[np.floating]]:
    num_rows = 0
    for row in similarity:
        if num_rows == num_queries:
            raise ValueError(f"more rows of similarities than the {num_queries} queries")
        if row.shape != (num_gallery,):
            raise ValueError(
                f"row {num_rows} of similarities: expected shape ({num_gallery},), found {row.shape}"
            )
        if np.isnan(row).any():
            raise ValueError(f"row {num_rows} of similarities holds NaN: the embeddings are not finite")
        yield row
        num_rows += 1
    if num_rows != num_queries:
        raise ValueError(f"{num_rows} rows of similarities for {num_queries} queries")


def _hit_ranks(similarity: NDArray[np.floating], positive: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Ranks of the positives in the stable descending order of `similarity`, ascending.

    Sorting values is twenty times faster than a stable sort of indices; ties, which need the order of the gallery, are
    rare and counted one by one.
    """
    ascending = np.sort(similarity)
    hits = np.flatnonzero(positive)
    scores = similarity[hits]
    not_above = np.searchsorted(ascending, scores, side="right")
    ranks = len(ascending) - not_above
    tied = not_above - np.searchsorted(ascending, scores, side="left") > 1
    for i in np.flatnonzero(tied):
        ranks[i] += np.count_nonzero(similarity[: hits[i]] == scores[i])
    return np.sort(ranks)


def _chance(num_candidates: NDArray[np.int64], num_positives: NDArray[np.int64], num_gallery: int) -> Chance:
    """Mean over queries of what a uniformly random order of n candidates with p positives scores.

    With H_n = 1 + 1/2 + ... + 1/n:
        P(first hit at rank k) = p / (n - k) * prod over i < k of (1 - p / (n - i)),  k = 0 .. n - p
        E[AP] = (H_n + (p - 1) / (n - 1) * (n - H_n)) / n
    The last hit of an order is the first of its mirror image, which gives E[INP] = sum of P(k) * p / (n - k).
    """
    cases, num_cases = np.unique(
        np.stack([num_candidates, num_positives], axis=1), axis=0, return_counts=True
    )
    cmc, mean_ap, mean_inp = np.zeros(num_gallery), 0.0, 0.0
    for (n, p), count in zip(cases.tolist(), num_cases.tolist(), strict=True):
        remaining = n - np.arange(n - p + 1)
        missed = np.concatenate([[1.0], np.cumprod(1 - p / remaining[:-1])])
        first = missed * p / remaining  # (n - p + 1,)
        harmonic = float(np.sum(1 / np.arange(1, n + 1)))
        cmc[: len(first)] += count * np.cumsum(first)
        cmc[len(first) :] += count
        mean_ap += count * (harmonic + (p - 1) / max(n - 1, 1) * (n - harmonic)) / n
        mean_inp += count * float(np.sum(first * p / remaining))
    total = int(num_cases.sum())
    return Chance(cmc=cmc / total, map=mean_ap / total, minp=mean_inp / total)
