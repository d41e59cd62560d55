"""reid/deployment/tracklets.py: tracklets of packed data sets and of plain folders, and mistakes told by name."""

import os
from pathlib import Path

import numpy as np
import pytest
import simplejpeg

from reid.data.clips import ClipShape
from reid.data.manifest import Manifest
from reid.deployment.tracklets import open_gallery, tracklet_of
from reid.types import Modality, Role

from .drawing import draw_frames

SHAPE = ClipShape(3, 40, 20)


def test_a_folder_of_tracklets_says_the_light_by_its_folders_and_nothing_of_people(people):
    gallery = open_gallery(str(people), SHAPE)
    assert [(t.key, t.modality, t.num_frames) for t in gallery.tracklets] == [
        ("ir/night-9", Modality.INFRARED, 12),
        ("ir/night-10", Modality.INFRARED, 12),
        ("rgb/ann", Modality.VISIBLE, 12),
        ("rgb/bob", Modality.VISIBLE, 12),
        ("rgb/cat", Modality.VISIBLE, 12),
    ]
    assert {(t.identity, t.camera) for t in gallery.tracklets} == {(None, None)}
    assert gallery.synthetic is None


@pytest.mark.parametrize(("place", "indices"), [(0, [0, 4, 8]), (3, [3, 7, 11])])
def test_frames_are_chosen_in_the_order_of_filming_as_evaluation_chooses_them(people, place, indices):
    clip = np.zeros((*SHAPE, 3), dtype=np.uint8)
    tracklet_of("rgb/bob", open_gallery(str(people), SHAPE)).read(clip, place)
    for index, picture in zip(indices, clip, strict=True):
        jpeg = (people / "rgb" / "bob" / f"{index}.jpg").read_bytes()
        np.testing.assert_array_equal(picture, simplejpeg.decode_jpeg(jpeg))


def test_a_packed_data_set_offers_its_test_tracklets_and_knows_them_all_by_key(packed):
    manifest = Manifest.open(packed)
    gallery = open_gallery(str(packed), SHAPE)
    tested = np.sort(np.concatenate([manifest.rows(role) for role in (Role.QUERY, Role.GALLERY)]))
    assert [t.key for t in gallery.tracklets] == [manifest.key(row) for row in tested]
    assert [t.identity for t in gallery.tracklets] == manifest.identity[tested].tolist()
    assert [t.camera for t in gallery.tracklets] == manifest.camera[tested].tolist()
    assert [t.modality for t in gallery.tracklets] == manifest.modality[tested].tolist()
    assert (gallery.digest, gallery.synthetic) == (manifest.digest, True)
    trained = manifest.key(int(manifest.rows(Role.TRAIN)[0]))
    assert tracklet_of(trained, gallery).key == trained


def test_short_tracklets_of_a_packed_data_set_are_left_out_as_in_evaluation(packed):
    assert len(open_gallery(str(packed), SHAPE, 1).tracklets) > 0
    with pytest.raises(ValueError, match="no test tracklet"):
        open_gallery(str(packed), SHAPE, 10_000)


def test_a_changed_picture_makes_another_digest(people):
    before = open_gallery(str(people), SHAPE).digest
    assert open_gallery(str(people), SHAPE).digest == before
    os.utime(people / "ir" / "night-9" / "3.jpg", ns=(5, 5))
    assert open_gallery(str(people), SHAPE).digest != before


def test_a_folder_of_frames_is_a_query_whose_light_is_told_by_its_place_or_in_words(people, tmp_path):
    gallery = open_gallery(str(people), SHAPE)
    beside = draw_frames(tmp_path / "elsewhere" / "ir" / "walk", 4, 9)
    assert tracklet_of(str(beside), gallery).modality is Modality.INFRARED
    loose = draw_frames(tmp_path / "loose", 4, 9)
    assert tracklet_of(str(loose), gallery, Modality.VISIBLE).modality is Modality.VISIBLE
    with pytest.raises(ValueError, match=r"which light was it filmed in\? Say --modality"):
        tracklet_of(str(loose), gallery)
    with pytest.raises(ValueError, match="--modality says visible, but it is infrared"):
        tracklet_of(str(beside), gallery, Modality.VISIBLE)
    with pytest.raises(ValueError, match="--modality says infrared, but it is visible"):
        tracklet_of("rgb/ann", gallery, Modality.INFRARED)


def test_who_is_not_there_is_told_with_an_example(people):
    with pytest.raises(ValueError, match=r"rgb/dan: neither a tracklet of .* \(such as ir/night-9, "):
        tracklet_of("rgb/dan", open_gallery(str(people), SHAPE))


def test_folders_without_tracklets_or_frames_are_named(people, tmp_path):
    with pytest.raises(ValueError, match=r"no tracklets here; expected rgb/NAME/\*\.jpg"):
        open_gallery(str(people / "rgb"), SHAPE)
    with pytest.raises(ValueError, match="no tracklets here"):
        open_gallery(str(tmp_path / "nowhere"), SHAPE)
    empty = people / "rgb" / "dan"
    empty.mkdir()
    (empty / "0.png").write_bytes(b"\x89PNG")
    with pytest.raises(ValueError, match=r"dan: no frames of a tracklet here; expected JPEG"):
        open_gallery(str(people), SHAPE)


@pytest.mark.parametrize("broken", [b"", b"\x89PNG\r\n", b"cut"])
def test_a_broken_picture_is_named(people, broken):
    path = people / "rgb" / "ann" / "4.jpg"
    path.write_bytes(path.read_bytes()[:200] if broken == b"cut" else broken)
    clip = np.zeros((*SHAPE, 3), dtype=np.uint8)
    with pytest.raises(ValueError, match=r"ann/4\.jpg: not an intact JPEG"):
        tracklet_of("rgb/ann", open_gallery(str(people), SHAPE)).read(clip)


def test_a_picture_of_absurd_size_is_not_read(people):
    path = Path(people / "rgb" / "ann" / "0.jpg")
    with path.open("r+b") as file:
        file.truncate(1 << 30)
    with pytest.raises(ValueError, match="larger than"):
        tracklet_of("rgb/ann", open_gallery(str(people), SHAPE)).read(np.zeros((*SHAPE, 3), np.uint8))
