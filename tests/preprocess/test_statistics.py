"""Counts of a data set, beside those of the official release."""

from pathlib import Path

import pytest

from preprocess.options import Mixed, Options
from preprocess.pack import pack
from preprocess.statistics import PUBLISHED, PUBLISHED_FRAMES, count, differences, inspect, same_camera_pairs
from preprocess.tree import Tree
from reid.data.manifest import Manifest
from reid.types import Modality, Split


def published_counts() -> dict[str, dict[str, dict[str, int]]]:
    counts = {
        split.value: {light.name.lower(): {**PUBLISHED[split, light], "frames": 0} for light in Modality}
        for split in Split
    }
    for split, frames in PUBLISHED_FRAMES.items():
        counts[split]["visible"]["frames"] = frames
    return counts


@pytest.fixture
def tree() -> Tree:
    return Tree(Path(), "hitsz-vcm", "flat")


def test_the_published_data_set_differs_in_nothing(tree):
    assert differences(published_counts(), tree, 12) == []


def test_a_count_that_differs_is_told_with_the_reason_where_one_is_known(tree):
    counts = published_counts()
    counts["train"]["infrared"]["tracklets"] -= 39
    tree.mixed, tree.num_mixed[Split.TRAIN] = Mixed.DROP, 39
    assert differences(counts, tree, 12) == [
        "train infrared tracklets: 4,919 published, 4,880 found; 39 rows mix sources and were treated with `drop`"
    ]


def test_another_minimum_length_is_a_reason_for_other_long_tracklets(tree):
    counts = published_counts()
    counts["test"]["visible"]["long_tracklets"] += 1
    assert differences(counts, tree, 10) == [
        "test visible long tracklets: 5,099 published, 5,100 found; the minimum is 10 frames here, 12 as published"
    ]


def test_unused_lines_are_a_reason_for_missing_frames(tree):
    counts = published_counts()
    counts["test"]["visible"]["frames"] -= 3
    tree.notes = ["test_name.txt: 3 lines belong to no row of track_test_info.txt, the first is line 9"]
    (told,) = differences(counts, tree, 12)
    assert told.startswith(
        "test frames: 230,763 published, 230,760 found; test_name.txt: 3 lines belong to no row"
    )


def test_a_difference_without_a_known_reason_says_so(tree):
    counts = published_counts()
    counts["train"]["visible"]["identities"] = 499
    (told,) = differences(counts, tree, 12)
    assert told.endswith("the index files differ from the published ones, no other reason is known")


def test_counts_are_those_of_the_tree(raw, tmp_path):
    pack(raw, tmp_path / "packed", Options())
    counts = count(Manifest.open(tmp_path / "packed"))
    assert counts["train"]["infrared"] == {"identities": 3, "tracklets": 6, "long_tracklets": 3, "frames": 57}
    assert counts["test"]["visible"] == {"identities": 2, "tracklets": 4, "long_tracklets": 2, "frames": 38}
    assert (counts["identities"], counts["queries"], counts["shards"], counts["frames"]) == (5, 4, 2, 190)


def test_same_camera_pairs_are_those_that_evaluation_leaves_out(raw, tmp_path):
    (raw / "query_IDX.txt").write_text("1 5\n")
    pack(raw, tmp_path / "packed", Options(minimum_frames=1))
    manifest = Manifest.open(tmp_path / "packed")
    assert same_camera_pairs(manifest) == 2
    shown = inspect(manifest)
    assert shown["same_camera_pairs"] == 2
    assert shown["cameras"] == {1: {"infrared": 0, "visible": 10}, 2: {"infrared": 10, "visible": 0}}
    assert shown["frames_per_tracklet"] == {"least": 5, "mean": 9.5, "most": 14}
