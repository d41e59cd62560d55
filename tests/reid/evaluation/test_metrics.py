"""reid/evaluation/metrics.py against a loop that follows the protocol word by word, scikit-learn, and counting."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score

from reid.evaluation.metrics import Labels, Retrieval, evaluate, first_answers


def naive(
    similarity: NDArray[np.floating], query: Labels, gallery: Labels, *, remove_same_camera: bool
) -> Retrieval:
    """The protocol as a person would do it by hand. `chance` is left out (that of `evaluate` has tests of its own)."""
    first_hits, precisions, penalties, num_removed = [], [], [], 0
    for q in range(len(query.identity)):
        order = sorted(range(len(gallery.identity)), key=lambda g: -similarity[q, g])  # stable
        hits = []
        for g in order:
            same = gallery.identity[g] == query.identity[q]
            if same and remove_same_camera and gallery.camera[g] == query.camera[q]:
                num_removed += 1
            else:
                hits.append(bool(same))
        if not any(hits):
            first_hits.append(-1)
            precisions.append(float("nan"))
            continue
        ranks = [r for r, hit in enumerate(hits) if hit]
        first_hits.append(ranks[0])
        precisions.append(sum((n + 1) / (r + 1) for n, r in enumerate(ranks)) / len(ranks))
        penalties.append(len(ranks) / (ranks[-1] + 1))
    counted = [r for r in first_hits if r >= 0]
    return Retrieval(
        cmc=np.array([sum(r <= k for r in counted) / len(counted) for k in range(len(gallery.identity))]),
        map=float(np.nanmean(precisions)),
        minp=float(np.mean(penalties)),
        chance=None,  # type: ignore[arg-type]
        num_queries=len(counted),
        num_skipped=len(first_hits) - len(counted),
        num_removed_pairs=num_removed,
        average_precision=np.array(precisions),
        first_hit=np.array(first_hits),
    )


def labels(identity: list[int], camera: list[int]) -> Labels:
    return Labels(np.array(identity), np.array(camera))


def random_case(
    seed: int, num_query: int = 17, num_gallery: int = 40, levels: int | None = None
) -> tuple[NDArray[np.float32], Labels, Labels]:
    rng = np.random.default_rng(seed)
    similarity = rng.standard_normal((num_query, num_gallery)).astype(np.float32)
    if levels is not None:
        similarity = rng.integers(0, levels, similarity.shape).astype(np.float32)
    query = Labels(rng.integers(0, 7, num_query), rng.integers(0, 3, num_query))
    return similarity, query, Labels(rng.integers(0, 6, num_gallery), rng.integers(0, 3, num_gallery))


def assert_equal(found: Retrieval, expected: Retrieval) -> None:
    np.testing.assert_allclose(found.cmc, expected.cmc)
    np.testing.assert_allclose(found.average_precision, expected.average_precision)
    np.testing.assert_array_equal(found.first_hit, expected.first_hit)
    assert (found.map, found.minp) == pytest.approx((expected.map, expected.minp))
    assert found[4:7] == expected[4:7]  # the three counts


def test_a_hand_worked_ranking():
    similarity = np.array([[0.9, 0.8, 0.7, 0.6, 0.5]])
    found = evaluate(similarity, labels([1], [1]), labels([2, 1, 1, 2, 1], [2, 2, 1, 2, 3]))
    # Item 2 shares identity and camera and goes; the positives 1 and 4 then stand at ranks 1 and 3.
    assert found.map == pytest.approx((1 / 2 + 2 / 4) / 2)
    assert found.minp == pytest.approx(2 / 4)
    assert found.cmc.tolist() == [0, 1, 1, 1, 1]
    assert (found.rank(1), found.rank(2), found.rank(20)) == (0, 1, 1)
    assert found.num_removed_pairs == 1


def test_kept_same_camera_items_count_as_positives():
    similarity = np.array([[0.9, 0.8]])
    found = evaluate(similarity, labels([1], [1]), labels([1, 1], [1, 2]), remove_same_camera=False)
    assert (found.map, found.num_removed_pairs) == (1.0, 0)


@pytest.mark.parametrize("levels", [None, 1, 2, 5])
@pytest.mark.parametrize("remove_same_camera", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_agrees_with_the_naive_loop_with_and_without_ties(seed, levels, remove_same_camera):
    case = random_case(seed, levels=levels)
    found = evaluate(*case, remove_same_camera=remove_same_camera)
    assert_equal(found, naive(*case, remove_same_camera=remove_same_camera))
    assert found.num_queries > 0


@settings(max_examples=60, deadline=None)
@given(data=st.data(), num_query=st.integers(1, 6), num_gallery=st.integers(1, 12))
def test_agrees_with_the_naive_loop_on_whatever_hypothesis_finds(data, num_query, num_gallery):
    integers = st.integers(0, 2)

    def draw(n: int) -> Labels:
        return labels(*(data.draw(st.lists(integers, min_size=n, max_size=n)) for _ in range(2)))

    query, gallery = draw(num_query), draw(num_gallery)
    values = st.sampled_from([-np.inf, -1.0, -0.0, 0.0, 1e-30, 0.5, np.inf])
    size = num_query * num_gallery
    rows = data.draw(st.lists(values, min_size=size, max_size=size))
    similarity = np.array(rows, dtype=np.float32).reshape(num_query, num_gallery)
    same = query.identity[:, None] == gallery.identity
    if (same & (query.camera[:, None] != gallery.camera)).any():
        expected = naive(similarity, query, gallery, remove_same_camera=True)
        assert_equal(evaluate(similarity, query, gallery), expected)
    else:
        with pytest.raises(ValueError, match="none of the"):
            evaluate(similarity, query, gallery)


@pytest.mark.parametrize("seed", range(5))
def test_average_precision_agrees_with_scikit_learn(seed):
    similarity, query, gallery = random_case(seed)
    found = evaluate(similarity, query, gallery, remove_same_camera=False)
    positive = query.identity[:, None] == gallery.identity
    for q in np.flatnonzero(positive.any(axis=1)):
        expected = average_precision_score(positive[q], similarity[q])
        assert found.average_precision[q] == pytest.approx(expected)


def test_a_query_without_a_positive_is_skipped_not_counted_as_wrong():
    similarity = np.array([[0.1, 0.2], [0.9, 0.8], [0.5, 0.6]])
    found = evaluate(similarity, labels([1, 7, 2], [1, 1, 4]), labels([1, 2], [2, 4]))
    assert (found.num_queries, found.num_skipped) == (1, 2)
    assert found.rank(1) == 0.0  # only the first query counts, and its positive stands second
    assert found.map == 0.5
    assert np.isnan(found.average_precision[1:]).all()


def test_equal_similarities_keep_the_order_of_the_gallery():
    query = labels([1], [1])
    ahead = evaluate(np.ones((1, 3)), query, labels([1, 2, 3], [2, 2, 2]))
    behind = evaluate(np.ones((1, 3)), query, labels([2, 3, 1], [2, 2, 2]))
    assert (ahead.rank(1), behind.rank(1), behind.map) == (1.0, 0.0, pytest.approx(1 / 3))


@pytest.mark.parametrize("remove_same_camera", [True, False])
def test_the_first_answers_are_the_ranking_that_was_scored(remove_same_camera):
    similarity, query, gallery = random_case(1, levels=4)
    found = evaluate(similarity, query, gallery, remove_same_camera=remove_same_camera)
    for q in np.flatnonzero(found.first_hit >= 0):
        who = int(query.identity[q]), int(query.camera[q])
        answers = first_answers(similarity[q], *who, gallery, 25, remove_same_camera=remove_same_camera)
        hits = np.flatnonzero(gallery.identity[answers] == who[0])
        assert (hits[0] if len(hits) else 25) == min(found.first_hit[q], 25)


def test_rows_from_a_generator_score_like_the_matrix():
    similarity, query, gallery = random_case(3)
    assert_equal(evaluate(iter(similarity), query, gallery), evaluate(similarity, query, gallery))


@pytest.mark.parametrize(
    ("num_candidates", "num_positives"), [(1, 1), (4, 1), (5, 2), (5, 4), (6, 3), (6, 6)]
)
def test_chance_is_the_mean_over_all_orders(num_candidates, num_positives):
    identity = [1] * num_positives + [2] * (num_candidates - num_positives)
    orders = np.array(list(itertools.permutations(range(num_candidates))), dtype=np.float32)
    query = labels([1] * len(orders), [1] * len(orders))
    found = evaluate(orders, query, labels(identity, [2] * num_candidates))
    np.testing.assert_allclose(found.chance.cmc, found.cmc)
    assert (found.chance.map, found.chance.minp) == pytest.approx((found.map, found.minp))


def test_chance_averages_over_queries_with_different_numbers_of_positives():
    gallery = labels([1, 1, 2, 3], [1, 2, 2, 2])
    found = evaluate(np.zeros((2, 4)), labels([1, 2], [1, 1]), gallery)
    assert found.chance.cmc[0] == pytest.approx((1 / 3 + 1 / 4) / 2)
    assert found.chance.cmc[-1] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("similarity", "message"),
    [
        (np.zeros((2, 3)), "2 rows of similarities for 1 queries|more rows"),
        (np.zeros((0, 3)), "0 rows of similarities for 1 queries"),
        (np.zeros((1, 2)), r"expected shape \(3,\), found \(2,\)"),
        (np.array([[0.0, np.nan, 1.0]]), "row 0 of similarities holds NaN"),
    ],
)
def test_similarities_that_do_not_fit_are_refused(similarity, message):
    with pytest.raises(ValueError, match=message):
        evaluate(similarity, labels([1], [1]), labels([1, 2, 3], [2, 2, 2]))


def test_a_gallery_without_any_positive_is_an_error_that_says_so():
    with pytest.raises(ValueError, match=r"none of the 1 queries .* by another camera"):
        evaluate(np.zeros((1, 1)), labels([1], [1]), labels([1], [1]))


def test_random_scores_of_the_size_of_vcm_are_as_good_as_chance():
    rng = np.random.default_rng(0)
    query = Labels(rng.integers(0, 427, 5159), rng.integers(0, 6, 5159))
    gallery = Labels(rng.integers(0, 427, 5643), rng.integers(6, 12, 5643))
    row = rng.standard_normal(5643 + 5159).astype(np.float32)
    found = evaluate((row[q : q + 5643] for q in range(5159)), query, gallery)
    assert found.chance.cmc[0] == pytest.approx(1 / 427, rel=0.05)
    assert found.map == pytest.approx(found.chance.map, rel=0.2)
