"""reid/evaluation/reranking.py against the paper, step by step, with whole matrices and loops over sets."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from reid.evaluation import reranking
from reid.evaluation.reranking import PAPER, Reranking, Settings

Matrix = NDArray[np.float64]


def slow(query: torch.Tensor, gallery: torch.Tensor, chosen: Settings) -> Matrix:
    """The final distance (Q, G), as section 3 of the paper says and its authors' program computes it."""
    x = torch.cat([query, gallery])
    distance = np.clip((2 - 2 * (x @ x.T)).numpy(), 0, None)
    distance = distance / distance.max(axis=1, keepdims=True)
    order = [sorted(range(len(x)), key=lambda j, i=i: distance[i, j]) for i in range(len(x))]

    def reciprocal(i: int, k: int) -> set[int]:
        return {j for j in order[i][: k + 1] if i in order[j][: k + 1]}

    codes = np.zeros((len(x), len(x)))
    for i in range(len(x)):
        expanded = set(own := reciprocal(i, chosen.k1))
        for friend in own:
            circle = reciprocal(friend, round(chosen.k1 / 2))
            if len(circle & own) > 2 / 3 * len(circle):
                expanded |= circle
        for j in expanded:
            codes[i, j] = np.exp(-distance[i, j])
        codes[i] /= codes[i].sum()
    codes = np.stack([np.mean([codes[j] for j in order[i][: chosen.k2]], axis=0) for i in range(len(x))])
    final = np.zeros((len(query), len(gallery)))
    for q in range(len(query)):
        for g in range(len(gallery)):
            other = codes[len(query) + g]
            jaccard = 1 - np.minimum(codes[q], other).sum() / np.maximum(codes[q], other).sum()
            final[q, g] = (1 - chosen.weight) * jaccard + chosen.weight * distance[q, len(query) + g]
    return final


def unit_vectors(
    seed: int, counts: tuple[int, int], width: int = 16, spread: float = 0.6
) -> list[torch.Tensor]:
    """Vectors around a few centres, so that neighbourhoods exist."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(7, width, generator=generator)
    sides = []
    for count in counts:
        who = torch.randint(0, 7, (count,), generator=generator)
        x = centres[who] + spread * torch.randn(count, width, generator=generator)
        sides.append(torch.nn.functional.normalize(x, dim=1))
    return sides


@pytest.mark.parametrize("chosen", [PAPER, Settings(6, 3, 0.3), Settings(5, 1, 0.0), Settings(9, 4, 1.0)])
@pytest.mark.parametrize("seed", range(3))
def test_distances_are_those_of_the_paper(seed, chosen):
    query, gallery = unit_vectors(seed, (31, 47))
    found = -np.stack(list(Reranking(query, gallery, chosen).similarities()))
    np.testing.assert_allclose(found, slow(query, gallery, chosen), atol=2e-6)


def test_the_other_direction_is_the_same_search_with_the_sides_swapped():
    query, gallery = unit_vectors(5, (23, 40))
    one, other = Reranking(query, gallery), Reranking(gallery, query)
    swapped = np.stack(list(one.similarities(swapped=True)))
    np.testing.assert_allclose(swapped, np.stack(list(other.similarities())), atol=2e-6)
    assert swapped.shape == (40, 23)


def test_blocks_of_rows_and_chosen_rows_change_nothing(monkeypatch):
    query, gallery = unit_vectors(6, (19, 33))
    whole = np.stack(list(Reranking(query, gallery).similarities()))
    monkeypatch.setattr(reranking, "BLOCK_ROWS", 4)
    piecewise = Reranking(query, gallery)
    np.testing.assert_allclose(np.stack(list(piecewise.similarities())), whole, atol=1e-6)
    chosen = np.array([17, 2, 5])
    np.testing.assert_allclose(np.stack(list(piecewise.similarities(rows=chosen))), whole[chosen], atol=1e-6)


def test_without_jaccard_the_order_is_that_of_the_cosines():
    query, gallery = unit_vectors(7, (9, 21))
    found = np.stack(list(Reranking(query, gallery, Settings(weight=1.0)).similarities()))
    np.testing.assert_array_equal(np.argsort(-found), np.argsort(-(query @ gallery.T).numpy()))


def test_a_neighbour_behind_a_chain_of_reciprocal_friends_comes_closer():
    """Two items equally far from the query; one is a neighbour of the query's neighbours, the other of nobody."""
    degrees = torch.tensor([0.0, 4.0, 8.0, 12.0, 16.0, -16.0, 180.0, 170.0, 190.0])
    x = torch.stack([torch.cos(torch.deg2rad(degrees)), torch.sin(torch.deg2rad(degrees))], 1)
    (row,) = Reranking(x[:1], x[1:], Settings(4, 2, 0.3)).similarities()
    among_friends, alone = 3, 4
    assert (x[0] @ x[1 + among_friends]).item() == pytest.approx((x[0] @ x[1 + alone]).item())
    assert row[among_friends] > row[alone]


@settings(max_examples=50, deadline=None)
@given(data=st.data(), length=st.integers(1, 30), count=st.integers(1, 35))
def test_the_nearest_are_the_head_of_a_stable_sort(data, length, count):
    values = st.sampled_from([0.0, 0.5, 1.0, 4.0])
    distances = np.array(data.draw(st.lists(values, min_size=length, max_size=length)), dtype=np.float32)
    found = reranking._nearest(distances, count)
    np.testing.assert_array_equal(found, np.argsort(distances, kind="stable")[:count])
