"""reid/deployment/index.py: the vectors of evaluation, computed once, and again only when something they depend on changed."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from reid.data.dataset import open_dataset
from reid.deployment.index import embed, index
from reid.deployment.tracklets import Gallery, open_gallery
from reid.deployment.weights import Weights
from reid.evaluation.retrieval import Evaluator
from reid.runtime import Runtime
from reid.types import Role


def gallery_of(place: Path, weights: Weights) -> Gallery:
    return open_gallery(str(place), weights.protocol.shape, weights.protocol.minimum_frames)


@pytest.mark.parametrize("all_clips", [False, True])
def test_the_vectors_are_those_of_evaluation_in_fp32(drawn, packed, all_clips):
    weights = drawn(evaluation={"all_clips": all_clips})
    manifest, gallery = open_dataset(str(packed)), gallery_of(packed, weights)
    rows = np.sort(np.concatenate([manifest.rows(role) for role in (Role.QUERY, Role.GALLERY)]))
    some = slice(None, None, 4)
    runtime = Runtime.start(precision="fp32", device="cpu", seed=0, deterministic=False)
    try:
        expected = Evaluator(weights.network, manifest, weights.protocol, runtime).embed(rows[some])
    finally:
        runtime.end()
    torch.testing.assert_close(embed(gallery.tracklets[some], weights), expected, rtol=0, atol=1e-5)


def test_an_index_is_made_once(loaded, people, tmp_path):
    gallery = gallery_of(people, loaded)
    made = index(gallery, loaded, tmp_path)
    again = index(gallery, loaded, tmp_path)
    assert (made.was_there, again.was_there) == (False, True)
    assert torch.equal(made.vectors, again.vectors)
    assert [path for path in tmp_path.iterdir() if path.is_file()] == [made.path]
    torch.testing.assert_close(made.vectors.norm(dim=1), torch.ones(5))


def damaged(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (damaged, "is damaged"),
        (lambda path: path.write_bytes(path.read_bytes()[:-5]), "cannot be read"),
        (lambda path: path.write_bytes(b""), "cannot be read"),
    ],
)
def test_a_damaged_index_is_named_and_made_again(loaded, people, tmp_path, caplog, spoil, told):
    gallery = gallery_of(people, loaded)
    made = index(gallery, loaded, tmp_path)
    spoil(made.path)
    again = index(gallery, loaded, tmp_path)
    assert not again.was_there
    assert torch.equal(again.vectors, made.vectors)
    assert f"{made.path} {told}" in caplog.text
    assert index(gallery, loaded, tmp_path).was_there


def test_an_index_of_a_gallery_that_has_changed_is_named_and_made_again(loaded, people, tmp_path, caplog):
    made = index(gallery_of(people, loaded), loaded, tmp_path)
    (people / "rgb" / "ann").rename(people / "rgb" / "zoe")
    os.utime(people / "rgb" / "bob" / "0.jpg", ns=(5, 5))
    again = index(gallery_of(people, loaded), loaded, tmp_path)
    assert again.path == made.path
    assert torch.equal(again.vectors, made.vectors[[0, 1, 3, 4, 2]])
    assert "is stale: data changed since it was made; it is made again" in caplog.text


def test_other_weights_and_other_protocols_have_files_of_their_own(drawn, loaded, people, tmp_path):
    others = [
        loaded,
        drawn(data={"clip_frames": 4}),
        drawn(evaluation={"embedding": "global"}),
        drawn(evaluation={"all_clips": True}),
        drawn(model={"variant": "baseline"}),
    ]
    paths = [index(gallery_of(people, weights), weights, tmp_path / "index").path for weights in others]
    assert len(set(paths)) == len(others)


def test_a_broken_picture_leaves_no_index(loaded, people, tmp_path):
    (people / "rgb" / "ann" / "0.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match=r"ann/0\.jpg: not an intact JPEG"):
        index(gallery_of(people, loaded), loaded, tmp_path / "index")
    assert not (tmp_path / "index").exists()
