"""reid/training/review.py: a run's weights scored again, its batches made again, and the reason where that cannot be."""

import shutil

import numpy as np
import pytest
import torch

from reid.config import ConfigError
from reid.data.manifest import Manifest
from reid.training.review import batch_of, review
from reid.training.run import train
from reid.types import Direction


@pytest.fixture(scope="module")
def run(tiny, tmp_path_factory):
    """A finished run of two steps, in fp64, and its scores."""
    folder = tmp_path_factory.mktemp("review") / "run"
    scored = train(tiny(schedule={"epoch_iterations": 1}), folder, lambda _: ([], ""), resume=False)
    return folder, scored


def test_the_newest_weights_are_scored_as_when_they_were_trained_but_in_fp32(run):
    folder, scored = run
    left = review(folder, {}, 0)
    assert left.unscored == left.unseen == ""
    assert left.scored.step == 2
    assert left.scored.evaluator.runtime.dtype is torch.float32
    assert left.config.engine.precision == "fp64"
    for direction in Direction:
        before, again = (of.evaluation.results[direction] for of in (scored, left.scored))
        assert again.map == pytest.approx(before.map, abs=1e-3)
    torch.testing.assert_close(
        left.scored.evaluation.query.vectors, scored.evaluation.query.vectors, atol=1e-4, rtol=0
    )


def test_the_batch_is_that_of_the_step(run):
    folder, _ = run
    left = review(folder, {}, 1)
    manifest = Manifest.open(left.scored.manifest.root)
    batch, clips = batch_of(left.config, manifest, 1)
    np.testing.assert_array_equal(left.batch[0].visible, batch.visible)
    assert torch.equal(left.batch[1].infrared, clips.infrared)
    assert not torch.equal(left.batch[1].infrared, batch_of(left.config, manifest, 0)[1].infrared)


@pytest.mark.parametrize("step", [-1, 2])
def test_a_step_that_is_none_is_refused(run, step):
    with pytest.raises(ConfigError, match=f"no step {step}; the run has the steps 0 to 1"):
        review(run[0], {}, step)


def test_what_is_gone_is_missing_with_the_reason(run, tmp_path, caplog):
    folder = shutil.copytree(run[0], tmp_path / "run")
    without_data = review(folder, {"data": {"root": str(tmp_path / "gone")}}, 0)
    assert "gone is not a packed data set" in without_data.unscored
    assert without_data.unseen == without_data.unscored
    assert without_data.config == review(folder, {}, 0).config
    assert "gone is not a packed data set" in caplog.text
    shutil.rmtree(folder / "checkpoints")
    without_weights = review(folder, {}, 0)
    assert "neither a checkpoint" in without_weights.unscored
    assert without_weights.config.schedule.epoch_iterations == 1
    (folder / "config.yaml").unlink()
    assert review(folder, {}, 0).config is None


def test_a_damaged_shard_is_named_and_ends_nothing(run, packed, tmp_path):
    damaged = shutil.copytree(packed, tmp_path / "packed")
    for shard in damaged.glob("shards/*-test-*.tar"):
        data = bytearray(shard.read_bytes())
        for place in range(0, len(data), 997):
            data[place] ^= 255
        shard.write_bytes(data)
    left = review(run[0], {"data": {"root": str(damaged)}}, 0)
    assert left.scored is None
    assert "-test-" in left.unscored
    assert "tracklet" in left.unscored


def test_the_batch_of_another_data_set_is_not_made(run, packed, tmp_path):
    from preprocess.options import Options
    from preprocess.pack import pack

    other = tmp_path / "other"
    pack(packed.parent / "raw", other, Options(minimum_frames=1))
    left = review(run[0], {"data": {"root": str(other)}}, 0)
    assert left.scored is not None
    assert left.batch is None
    assert left.unseen.startswith("the run was trained on the data set ")
