"""The synthetic data set: layout, determinism, and what carries identity."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from preprocess.synthetic import (
    Cues,
    SyntheticConfig,
    SyntheticTracklet,
    cast,
    plan_identity,
    render,
    synthesize,
)
from reid.types import Modality

SMALL = SyntheticConfig(num_identities=10, tracklets_per_modality=3, num_cameras=6, height=48, width=24)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    root = tmp_path_factory.mktemp("synthetic") / "vcm"
    return root, synthesize(SMALL, root)


def rows(root, split):
    lines = (root / f"track_{split}_info.txt").read_text().splitlines()
    return [tuple(int(word) for word in line.split()) for line in lines]


def names(root, split):
    return (root / f"{split}_name.txt").read_text().splitlines()


def path_of(root, name):
    identity, modality, camera, _, frame = re.fullmatch(r"(\d{4})M(\d)D(\d+)T(\d+)F(\d+)\.jpg", name).groups()
    return root / identity / {"1": "ir", "2": "rgb"}[modality] / f"D{camera}" / f"{frame}.jpg"


def left_in(folder):
    return sorted(path.name for path in folder.iterdir())


def digests(root):
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("split", ["train", "test"])
def test_rows_of_the_track_file_cover_the_name_file_without_gap_or_overlap(tree, split):
    root, _ = tree
    bounds = [(start, end) for _, start, end, _, _ in rows(root, split)]
    assert [start for start, _ in bounds] == [1, *(end + 1 for _, end in bounds[:-1])]
    assert bounds[-1][1] == len(names(root, split))


@pytest.mark.parametrize("split", ["train", "test"])
def test_every_frame_of_a_row_carries_the_person_modality_and_camera_of_that_row(tree, split):
    root, _ = tree
    listed = names(root, split)
    for modality, start, end, identity, camera in rows(root, split):
        stems = {re.sub(r"F\d+\.jpg$", "", name) for name in listed[start - 1 : end]}
        assert len(stems) == 1
        assert re.fullmatch(rf"{identity:04d}M{modality}D{camera}T\d+", stems.pop())


def test_files_on_disk_are_exactly_those_that_the_name_files_list(tree):
    root, summary = tree
    listed = [path_of(root, name) for name in names(root, "train") + names(root, "test")]
    assert len(set(listed)) == len(listed) == summary.frames
    assert set(listed) == set(root.rglob("*.jpg"))


def test_frames_are_colour_jpegs_of_the_wanted_size(tree):
    root, _ = tree
    for name in names(root, "test")[::37]:
        with Image.open(path_of(root, name)) as picture:
            assert (picture.format, picture.mode, picture.size) == ("JPEG", "RGB", (24, 48))


def test_query_list_names_the_infrared_rows_of_the_test_split_counted_from_one(tree):
    root, _ = tree
    queries = [int(word) for word in (root / "query_IDX.txt").read_text().split()]
    infrared = [row for row, (modality, *_) in enumerate(rows(root, "test"), start=1) if modality == 1]
    assert queries == infrared
    assert len(queries) == len(SMALL.test_identities()) * SMALL.tracklets_per_modality


def test_description_can_be_turned_back_into_the_configuration(tree):
    root, _ = tree
    described = json.loads((root / "synthetic.json").read_text())
    assert SyntheticConfig(**described["parameters"]) == SMALL
    assert described["seed"] == SMALL.seed
    assert described["generator_version"] >= 1


def test_summary_counts_what_was_written(tree):
    root, summary = tree
    lengths = [end - start + 1 for split in ("train", "test") for _, start, end, _, _ in rows(root, split)]
    assert (summary.tracklets, summary.frames) == (len(lengths), sum(lengths))
    assert summary.tracklets == 10 * 2 * SMALL.tracklets_per_modality
    assert summary.short_tracklets == sum(length < 12 for length in lengths)
    assert (summary.train_identities, summary.test_identities) == (5, 5)


def test_bytes_on_disk_do_not_depend_on_the_number_of_processes(tree, tmp_path):
    root, _ = tree
    synthesize(SMALL, tmp_path / "again", num_workers=2)
    assert digests(tmp_path / "again") == digests(root)


def test_progress_hears_of_every_identity_in_turn(tmp_path):
    heard = []
    synthesize(
        SyntheticConfig(num_identities=2, tracklets_per_modality=2, height=32, width=16),
        tmp_path / "out",
        progress=lambda done, total: heard.append((done, total)),
    )
    assert heard == [(1, 2), (2, 2)]


@given(st.integers(2, 927))
def test_any_number_of_identities_is_split_in_the_proportion_of_vcm(num_identities):
    config = SyntheticConfig(num_identities=num_identities)
    train, test = config.train_identities(), config.test_identities()
    assert len(train) + len(test) == num_identities == len({*train, *test})
    assert min(len(train), len(test)) >= 1
    assert abs(len(train) - num_identities * 500 / 927) <= 0.5 or num_identities < 3
    assert max(test) <= 9999


def test_full_size_has_the_identities_of_vcm():
    config = SyntheticConfig(num_identities=927)
    assert (len(config.train_identities()), len(config.test_identities())) == (500, 427)


def test_wanted_train_count_is_kept():
    config = SyntheticConfig(num_identities=160, num_train_identities=120)
    assert (len(config.train_identities()), len(config.test_identities())) == (120, 40)


@given(st.integers(1, 999), st.integers(2, 30), st.integers(4, 12), st.integers(0, 2**32))
def test_each_identity_is_seen_by_several_cameras_of_each_modality(identity, tracklets, num_cameras, seed):
    config = SyntheticConfig(tracklets_per_modality=tracklets, num_cameras=num_cameras, seed=seed)
    planned = plan_identity(config, identity)
    for modality in Modality:
        cameras = [tracklet.camera for tracklet in planned if tracklet.modality is modality]
        assert len(cameras) == tracklets
        assert len(set(cameras)) >= 2
        assert all(camera % 2 == (modality is Modality.VISIBLE) for camera in cameras)
        assert all(1 <= camera <= num_cameras for camera in cameras)


def test_tracklets_have_12_to_24_frames_apart_from_the_wanted_share_of_short_ones():
    config = SyntheticConfig(tracklets_per_modality=20, short_fraction=0.2)
    lengths = np.array([t.num_frames for identity in range(1, 51) for t in plan_identity(config, identity)])
    assert 4 <= lengths.min() < 12 < lengths.max() == 24
    assert (lengths < 12).mean() == pytest.approx(0.2, abs=0.03)


def test_no_tracklet_is_short_when_none_is_wanted():
    config = SyntheticConfig(short_fraction=0.0)
    assert min(t.num_frames for identity in range(1, 51) for t in plan_identity(config, identity)) >= 12


def test_frame_name_and_path_follow_the_official_convention():
    tracklet = SyntheticTracklet(7, Modality.VISIBLE, camera=11, tracklet=2, first_frame=24, num_frames=2)
    assert tracklet.names() == ["0007M2D11T2F24.jpg", "0007M2D11T2F25.jpg"]
    assert tracklet.paths() == [Path("0007/rgb/D11/24.jpg"), Path("0007/rgb/D11/25.jpg")]


def test_another_seed_makes_other_people():
    tracklet = SyntheticTracklet(1, Modality.VISIBLE, 1, 1, 1, 12)
    first, second = (render(SyntheticConfig(seed=seed), tracklet).astype(float) for seed in (0, 1))
    assert np.abs(first - second).mean() > 10


@pytest.mark.parametrize(
    ("cues", "keeps_appearance", "keeps_gait"),
    [(Cues.BOTH, True, True), (Cues.APPEARANCE, True, False), (Cues.GAIT, False, True)],
)
def test_a_cue_that_is_left_out_is_drawn_anew_for_every_tracklet(cues, keeps_appearance, keeps_gait):
    config = SyntheticConfig(cues=cues)
    (look, gait), (later_look, later_gait) = (
        cast(config, tracklet) for tracklet in plan_identity(config, 3)[:2]
    )
    assert (look == later_look) is keeps_appearance
    assert (gait == later_gait) is keeps_gait


def test_gap_changes_the_infrared_frames_only():
    narrow, wide = SyntheticConfig(gap=0.0), SyntheticConfig(gap=1.0)
    for tracklet in plan_identity(narrow, 5):
        is_same = np.array_equal(render(narrow, tracklet), render(wide, tracklet))
        assert is_same is (tracklet.modality is Modality.VISIBLE)


def test_identity_shows_across_modalities_the_better_the_smaller_the_gap():
    """Rank-1 of coarse brightness pictures: far above guessing, far below solved, and hard when the gap is 1."""
    found = {gap: cross_modal_rank1(SyntheticConfig(num_identities=42, gap=gap)) for gap in (0.0, 0.3, 1.0)}
    chance = 1 / 40
    assert found[0.0] > found[0.3] > found[1.0]
    assert found[0.3] > 4 * chance
    assert found[0.0] < 0.9


def cross_modal_rank1(config):
    features = {modality: [] for modality in Modality}
    for identity in range(1, 41):
        seen = plan_identity(config, identity)
        for modality in Modality:
            pictures = []
            for tracklet in [t for t in seen if t.modality is modality][:3]:
                grey = (
                    render(config, tracklet._replace(num_frames=6))
                    .mean(axis=(0, 3))
                    .reshape(24, 4, 12, 4)
                    .mean(axis=(1, 3))
                )
                pictures.append((grey - grey.mean()) / grey.std())
            features[modality].append(np.mean(pictures, axis=0).ravel())
    scaled = []
    for modality in Modality:
        stack = np.stack(features[modality])
        stack = (stack - stack.mean(axis=0)) / stack.std(axis=0)
        scaled.append(stack / np.linalg.norm(stack, axis=1, keepdims=True))
    return float(((scaled[0] @ scaled[1].T).argmax(axis=1) == np.arange(40)).mean())


def test_all_mistakes_in_a_configuration_are_reported_at_once():
    with pytest.raises(
        ValueError, match=r"num_identities must be 2 to 927, found 1000; .*gap must be 0 to 1, found 2"
    ):
        SyntheticConfig(num_identities=1000, gap=2.0)


def test_frames_wider_than_tall_are_refused():
    with pytest.raises(ValueError, match="width must be 16 to the height, 96, found 97"):
        SyntheticConfig(width=97)


def test_a_train_count_that_leaves_no_test_identity_is_refused():
    with pytest.raises(ValueError, match="num_train_identities must leave both splits an identity"):
        SyntheticConfig(num_identities=20, num_train_identities=20)


def test_an_occupied_folder_is_refused_and_left_alone(tmp_path):
    kept = tmp_path / "out" / "thesis.txt"
    kept.parent.mkdir()
    kept.write_text("mine")
    with pytest.raises(ValueError, match="is not an empty folder; name another folder, or remove it first"):
        synthesize(SMALL, kept.parent)
    assert digests(tmp_path) == {"out/thesis.txt": hashlib.sha256(b"mine").hexdigest()}


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "out").mkdir()
    tiny = SyntheticConfig(num_identities=2, tracklets_per_modality=2, height=32, width=16)
    synthesize(tiny, tmp_path / "out")
    assert left_in(tmp_path) == ["out"]
    assert len(rows(tmp_path / "out", "train")) == 4


@pytest.mark.parametrize("num_workers", [1, 2])
def test_nothing_is_left_behind_after_an_exception(tmp_path, num_workers):
    def fail(done, total):
        raise RuntimeError("the lamp broke")

    with pytest.raises(RuntimeError, match="the lamp broke"):
        synthesize(SMALL, tmp_path / "out", num_workers, progress=fail)
    assert left_in(tmp_path) == []


@pytest.mark.parametrize("num_workers", [1, 2])
def test_nothing_is_left_behind_after_an_interrupt(tmp_path, num_workers):
    program = f"""
from pathlib import Path
from preprocess.synthetic import SyntheticConfig, synthesize

if __name__ == "__main__":
    synthesize(SyntheticConfig(num_identities=900), Path({str(tmp_path / "out")!r}), {num_workers})
"""
    script = tmp_path / "program.py"
    script.write_text(program)
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    process = subprocess.Popen(
        [sys.executable, script], env=environment, stderr=subprocess.PIPE, start_new_session=True
    )
    deadline = time.monotonic() + 60
    while not any(tmp_path.glob(".out.*.partial/*/*/*/*.jpg")) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert errors.count(b"KeyboardInterrupt") == 1
    assert left_in(tmp_path) == ["program.py"]


def test_light_varies_within_an_identity_as_much_as_between_identities():
    config = SyntheticConfig(nuisance=1.0, tracklets_per_modality=24, num_cameras=4)
    corners = []
    for identity in range(1, 9):
        seen = [tracklet for tracklet in plan_identity(config, identity) if tracklet.camera == 1]
        corners.append(
            [render(config, tracklet._replace(num_frames=2))[:, :6, :6].mean() for tracklet in seen]
        )
    within = np.var(corners, axis=1, ddof=1).mean()
    between = np.var(np.mean(corners, axis=1), ddof=1) * len(corners[0])
    assert between / within < 2.5  # the 98 % quantile of the F distribution with 7 and 88 degrees of freedom
