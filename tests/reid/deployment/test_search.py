"""reid/deployment/search.py: the most alike of the other light, first."""

from pathlib import Path

import numpy as np
import pytest
import torch

from reid.deployment.index import Index, embed, index
from reid.deployment.search import Answer, search
from reid.deployment.tracklets import open_gallery, tracklet_of
from reid.types import Modality

from .drawing import draw_frames


def test_the_answers_are_the_tracklets_of_the_other_light_by_cosine(loaded, packed, tmp_path):
    gallery = open_gallery(str(packed), loaded.protocol.shape)
    known = index(gallery, loaded, tmp_path)
    for light in Modality:
        query = next(tracklet for tracklet in gallery.tracklets if tracklet.modality is light)
        answers = search(query, gallery, known, loaded, 1000)
        vector = embed([query], loaded)[0].numpy()
        cosines = {
            tracklet.key: float(np.dot(known.vectors[i].numpy(), vector))
            for i, tracklet in enumerate(gallery.tracklets)
            if tracklet.modality is not light
        }
        assert [answer.rank for answer in answers] == [*range(1, 1 + len(cosines))]
        assert {answer.tracklet.key for answer in answers} == cosines.keys()
        for answer in answers:
            assert answer.similarity == pytest.approx(cosines[answer.tracklet.key], abs=1e-6)
        similarities = [answer.similarity for answer in answers]
        assert similarities == sorted(similarities, reverse=True)
        assert search(query, gallery, known, loaded, 2) == answers[:2]


def test_equal_cosines_keep_the_order_of_the_gallery(loaded, people):
    gallery = open_gallery(str(people), loaded.protocol.shape)
    same = torch.nn.functional.normalize(torch.ones(5, loaded.width), dim=1)
    answers = search(gallery.tracklets[0], gallery, Index(Path(), same, True), loaded, 3)
    assert [answer.tracklet.key for answer in answers] == ["rgb/ann", "rgb/bob", "rgb/cat"]


def test_an_answer_is_right_or_wrong_only_where_people_are_known(loaded, packed, people):
    one, *others = open_gallery(str(packed), loaded.protocol.shape).tracklets
    verdicts = {Answer(1, other, 0.5).is_right(one) == (other.identity == one.identity) for other in others}
    assert verdicts == {True}
    stranger = open_gallery(str(people), loaded.protocol.shape).tracklets[0]
    assert Answer(1, stranger, 0.5).is_right(one) is Answer(1, one, 0.5).is_right(stranger) is None


def test_a_gallery_of_the_same_light_alone_is_refused(loaded, tmp_path):
    draw_frames(tmp_path / "ir" / "ann", 3, 0)
    gallery = open_gallery(str(tmp_path), loaded.protocol.shape)
    query = tracklet_of("ir/ann", gallery)
    with pytest.raises(ValueError, match="all of its tracklets are infrared, as ir/ann is"):
        search(query, gallery, index(gallery, loaded, tmp_path / "index"), loaded, 3)
