"""reid/training/engine.py: what a step moves and logs, that a run is its snapshot, and what it does about damage."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from reid.data.manifest import Manifest
from reid.data.shards import DamagedFrameError
from reid.evaluation.retrieval import Evaluation
from reid.runtime import Runtime
from reid.tracking.journal import Kind, read
from reid.tracking.tracker import SilentTracker
from reid.training.engine import Engine
from reid.training.meters import NonFiniteError
from reid.training.review import batch_of
from reid.types import Role


def started(config, folder) -> Engine:
    runtime = Runtime.start(precision="fp64", device="cpu", seed=config.seed, deterministic=False)
    return Engine(config, Manifest.open(config.data.root), runtime, SilentTracker(), folder)


def test_every_step_moves_the_weights_and_every_stage_learns_with_its_own_parts(alone, runs):
    former = runs.snapshot(alone(), 4).weights
    later = runs.snapshot(alone(), 5).weights
    moved = {name.split(".")[0] for name in former if not former[name].equal(later[name])}
    assert moved == {"stem", "defence", "attacker", "attack_classifier", "guidance", "guided_classifier"}
    first = runs.snapshot(alone(), 3).weights
    assert not first["defence_classifier.weight"].equal(former["defence_classifier.weight"])


def test_the_losses_of_an_interval_are_means_over_its_iterations(tiny, alone, runs, tmp_path):
    runs.train(tiny(engine={"log_every_steps": 1, "checkpoint_every_steps": 100}), tmp_path / "each")
    each, pairs = runs.points(tmp_path / "each"), runs.points(alone())
    for name in ("train/loss", "train/def_tri", "train/p_id", "train/accuracy"):
        for step in (2, 4, 6, 8):
            assert pairs[step, name] == pytest.approx(
                (each[step - 1, name] + each[step, name]) / 2, rel=1e-12
            )


def test_the_logged_loss_is_the_weighted_sum_of_its_terms(alone, runs):
    points = runs.points(alone())
    for step in (2, 8):
        terms = {
            name: points[step, f"train/{name}"] for name in ("cov_id", "att_id", "def_id", "def_tri", "p_id")
        }
        weighted = (
            terms["cov_id"] + terms["att_id"] + (terms["def_id"] + terms["def_tri"] + terms["p_id"]) / 2
        )
        assert points[step, "train/loss"] == pytest.approx(weighted, rel=1e-12)


def test_rate_stage_and_epoch_of_the_step_just_made_are_logged(tiny, alone, runs):
    config, points = tiny(), runs.points(alone())
    for step in (2, 4, 6, 8):
        assert points[step, "train/lr"] == 0.12 * config.rate(step - 1)
        assert points[step, "stage"] == (1 if step <= 4 else 2)
        assert points[step, "epoch"] == (0 if step <= 4 else 1)


def test_scores_stand_in_the_journal_and_in_the_folder_after_every_evaluation(alone, runs):
    points = runs.points(alone())
    for step in (4, 8):
        scores = json.loads((alone() / "evaluations" / f"step-{step:08d}.json").read_text())
        assert len(scores) == 14
        assert scores == {name: points[step, name] for name in scores}
        assert 0 < scores["infrared_to_visible/rank1"] <= 1


def test_a_snapshot_holds_all_that_decides_the_next_step(tiny, alone, runs, tmp_path):
    engine = started(tiny(), tmp_path)
    engine.restore(runs.snapshot(alone(), 5))
    torch.rand(3)
    taken, expected = engine.snapshot({}), runs.snapshot(alone(), 5)
    assert taken.step == expected.step == 5
    torch.testing.assert_close(taken.weights, expected.weights, rtol=0, atol=0)
    torch.testing.assert_close(taken.momentum, expected.momentum, rtol=0, atol=0)
    assert taken.state["processes"][0]["meters"].keys() == expected.state["processes"][0]["meters"].keys()
    assert taken.state["processes"][0]["random"] != expected.state["processes"][0]["random"]


def test_momentum_exists_for_exactly_what_has_moved(tiny, runs, tmp_path):
    runs.train(tiny(model={"variant": "baseline"}, schedule={"stage1_epochs": 0}), tmp_path / "second")
    taken = runs.snapshot(tmp_path / "second", 4)
    assert {name.split(".")[0] for name in taken.momentum} == {"defence"}  # line 9 of Algorithm 1 alone
    assert {name.split(".")[0] for name in taken.weights} == {"stem", "defence", "defence_classifier"}


WILD = {
    "optimizer": {"learning_rate": 1e300, "warmup_epochs": 0},
    "schedule": {
        "recipe": "joint"
    },  # one update an iteration: the first leaves huge weights, the second none
}


def test_losses_that_are_no_numbers_stop_the_run_with_their_names_and_the_step(tiny, runs, tmp_path):
    with pytest.raises(NonFiniteError, match=r"^step 2: .*\bdef_tri\b.* stopped being finite"):
        runs.train(tiny(**WILD, engine={"checkpoint_every_steps": 100}), tmp_path / "wild")


def test_the_step_that_is_named_is_the_very_one_however_rarely_anybody_looks(tiny, runs, tmp_path):
    rarely = {"log_every_steps": 8, "checkpoint_every_steps": 100}
    with pytest.raises(
        NonFiniteError, match=r"^step 2: .*\bdef_tri\b.* of the update 'defend\+guide\+attack'"
    ):
        runs.train(tiny(**WILD, engine=rarely, evaluation={"every_epochs": 2}), tmp_path / "wild")
    assert list((tmp_path / "wild" / "checkpoints").glob("step-*")) == []


def test_nothing_is_evaluated_that_has_left_the_numbers(tiny, runs, tmp_path):
    seldom = {"log_every_steps": 100, "checkpoint_every_steps": 100}
    with pytest.raises(NonFiniteError, match=r"^step 2: .*\bdef_tri\b.* stopped being finite"):
        runs.train(tiny(**WILD, engine=seldom), tmp_path / "wild")
    assert not (tmp_path / "wild" / "evaluations").exists()


def test_features_that_collapse_are_told_of_once(tiny, runs, tmp_path, caplog):
    """All weights decay to nothing in the first step, so that all features are the same."""
    rates = {
        "learning_rate": 1e-9,
        "trunk_learning_rate": 1e-9,
        "warmup_epochs": 0,
        "scale_with_batch": False,
    }
    config = tiny(optimizer=rates | {"weight_decay": 1e9, "momentum": 0}, model={"variant": "baseline"})
    runs.train(config, tmp_path / "dull")
    told = [message for message in caplog.messages if "the features have collapsed" in message]
    assert len(told) == 1
    tags = {
        key: value
        for record in read(tmp_path / "dull")
        if record.kind is Kind.TAGS
        for key, value in record.data.items()
    }
    assert tags["collapsed"] in told[0]


def test_the_length_of_gradients_is_logged_and_nothing_was_skipped(alone, runs):
    points = runs.points(alone())
    lengths = [points[step, "train/grad_norm"] for step in (2, 4, 6, 8)]
    assert all(0 < length < 1000 for length in lengths)
    skipped = [
        record.data["health/nonfinite"]
        for record in read(alone())
        if record.kind is Kind.METRICS and "health/nonfinite" in record.data
    ]
    assert skipped == [0, 0, 0, 0]


def test_spoilt_weights_are_never_published(tiny, runs, tmp_path):
    with pytest.raises(NonFiniteError, match=r"^step 2: .*\bdef_tri\b.* stopped being finite"):
        runs.train(tiny(**WILD, engine={"log_every_steps": 100}), tmp_path / "wild")
    assert [path.name for path in (tmp_path / "wild" / "checkpoints").iterdir()] == ["step-00000001"]
    assert all(tensor.isfinite().all() for tensor in runs.snapshot(tmp_path / "wild", 1).weights.values())


def test_a_finished_run_still_answers_with_its_scores(tiny, alone, tmp_path):
    engine = started(tiny(), tmp_path)
    engine.step = engine.config.num_steps
    ending = engine.run()
    assert (ending.step, ending.signal) == (8, None)
    assert isinstance(ending.evaluation, Evaluation)


@pytest.fixture(scope="module")
def damaged(packed, tmp_path_factory):
    """A copy of the data set in which every fifth frame to train on is damaged."""
    root = Path(shutil.copytree(packed, tmp_path_factory.mktemp("damaged") / "packed"))
    manifest = Manifest.open(root)
    for row in manifest.rows(Role.TRAIN):
        frames = manifest.frames(row)
        frames.shard.chmod(0o644)
        with frames.shard.open("r+b") as file:
            for offset in frames.offset[::5].tolist():
                file.seek(offset + 30)
                file.write(b"\xff\xff")
    return root


def quarantined(folder: Path) -> dict[int, float]:
    """The logged number of damaged frames, by step."""
    return {
        record.step: record.data["health/quarantined_frames"]
        for record in read(folder)
        if record.kind is Kind.METRICS and "health/quarantined_frames" in record.data
    }


@pytest.fixture(scope="module")
def patient(tiny, runs, damaged, tmp_path_factory):
    """The folder of a run on damaged data that is allowed to go on."""
    folder = tmp_path_factory.mktemp("patient") / "run"
    runs.train(tiny(data={"root": damaged, "quarantine_frames": 1000}), folder)
    return folder


def test_damaged_frames_are_counted_step_by_step_and_only_where_they_are_allowed(patient, alone):
    counts = quarantined(patient)
    assert list(counts) == [2, 4, 6, 8]
    assert 0 < counts[2] < counts[8]
    assert quarantined(alone()) == {}


def test_damage_stops_a_run_as_it_is_unless_it_is_allowed(tiny, runs, damaged, tmp_path):
    with pytest.raises(
        DamagedFrameError, match=r"\.tar: tracklet train/.*, byte \d+: the checksum of frame \d+ is wr"
    ):
        runs.train(tiny(data={"root": damaged}), tmp_path / "run")


def test_what_is_in_quarantine_outlives_a_restart_and_counts_to_the_bound(
    tiny, runs, damaged, patient, tmp_path
):
    counts = quarantined(patient)
    for step in (1, 2, 3):
        shutil.copytree(
            patient / "checkpoints" / f"step-{step:08d}", tmp_path / f"checkpoints/step-{step:08d}"
        )
    bound = int(counts[6])
    with pytest.raises(DamagedFrameError, match=f"{bound} other damaged frames are in quarantine"):
        runs.train(tiny(data={"root": damaged, "quarantine_frames": bound}), tmp_path, resume=True)
    assert (tmp_path / "checkpoints" / "step-00000006").exists()
    runs.train(tiny(data={"root": damaged, "quarantine_frames": 1000}), tmp_path, resume=True)
    assert quarantined(tmp_path) == {step: counts[step] for step in (4, 6, 8)}
    found, expected = runs.snapshot(tmp_path, 8), runs.snapshot(patient, 8)
    torch.testing.assert_close(found.weights, expected.weights, rtol=0, atol=0)
    assert found.state["quarantine"] == expected.state["quarantine"]


def test_a_batch_with_damage_is_made_again_where_the_run_bore_it(tiny, damaged):
    manifest = Manifest.open(damaged)
    batch, clips = batch_of(tiny(data={"root": damaged, "quarantine_frames": 1000}), manifest, 0)
    assert clips.identity.tolist() == batch.identity.tolist()
    with pytest.raises(DamagedFrameError, match="the checksum of frame"):
        batch_of(tiny(data={"root": damaged}), manifest, 0)


@pytest.mark.slow
def test_two_processes_know_together_what_one_would_know(tiny, runs, damaged, patient, tmp_path):
    process = runs.launch(tiny(data={"root": damaged, "quarantine_frames": 1000}), tmp_path / "run")
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert quarantined(tmp_path / "run") == quarantined(patient)
    states = [runs.snapshot(folder, 8).state["quarantine"] for folder in (tmp_path / "run", patient)]
    assert sorted(states[0]) == sorted(states[1])
    assert output.count("The sound frame next to it is used") >= quarantined(patient)[8]
