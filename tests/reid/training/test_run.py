"""reid/training/run.py: two processes train like one, and a run stopped anywhere continues as if nothing had been."""

import logging
import shutil
import signal
import time
from itertools import takewhile
from pathlib import Path

import psutil
import pytest
import torch
import yaml

from reid import config as configuration
from reid.config import ConfigError
from reid.tracking.journal import FILE_NAME, Kind, encode, header, read
from reid.training import checkpoint
from reid.training.checkpoint import Snapshot
from reid.training.run import evaluate, read_checkpoint

LAST = 8


def steps_of(folder: Path) -> list[int]:
    return [int(path.name.removeprefix("step-")) for path in checkpoint.published(folder / "checkpoints")]


def stopped_at(run: Path, folder: Path, step: int) -> Path:
    """A copy of a run as it was at `step`: later checkpoints and the journal are missing."""
    folder.mkdir()
    for path in checkpoint.published(run / "checkpoints"):
        if path <= checkpoint.place(run / "checkpoints", step):
            shutil.copytree(path, folder / "checkpoints" / path.name)
    return folder


def data_of(folder: Path, kind: Kind) -> list[dict[str, object]]:
    return [record.data for record in read(folder) if record.kind is kind]


def assert_alike(found: Snapshot, expected: Snapshot, tolerance: float = 0.0) -> None:
    """Weights, buffers of batch normalisation and momentum."""
    torch.testing.assert_close(found.weights, expected.weights, rtol=0, atol=tolerance)
    torch.testing.assert_close(found.momentum, expected.momentum, rtol=0, atol=tolerance)


def assert_same_end(runs, folder: Path, undisturbed: Path) -> None:
    found, expected = runs.snapshot(folder, LAST), runs.snapshot(undisturbed, LAST)
    assert_alike(found, expected)
    assert found.state["processes"] == expected.state["processes"]


@pytest.mark.parametrize("step", [1, 4, 7])
def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(tiny, alone, runs, tmp_path, step):
    folder = stopped_at(alone(), tmp_path / "resumed", step)
    runs.train(tiny(), folder, resume=True)
    assert_same_end(runs, folder, alone())
    expected = {point: value for point, value in runs.points(alone()).items() if point[0] > step}
    # Means of an interval that began before the stop are among them, and the scores of the checkpoint are told again.
    scores = runs.snapshot(alone(), step).state["scores"]
    assert runs.points(folder) == expected | {(step, name): score for name, score in scores.items()}


def test_a_run_that_lost_its_journal_is_the_same_run(tiny, alone, runs, tmp_path):
    folder = stopped_at(alone(), tmp_path / "lost", 7)
    runs.train(tiny(), folder, resume=True)
    assert header(folder)["uid"] == header(alone())["uid"]
    runs.train(tiny(schedule={"stage1_epochs": 0}), tmp_path / "new")
    assert header(tmp_path / "new")["uid"] != header(alone())["uid"]


def test_what_is_repeated_after_a_kill_agrees_with_the_journal(tiny, alone, runs, tmp_path, caplog):
    folder = stopped_at(alone(), tmp_path / "killed", 3)
    shutil.copy(alone() / FILE_NAME, folder)  # it had come to the end, but no later checkpoint was published
    runs.train(tiny(), folder, resume=True)
    assert [record for record in caplog.records if "before the run was resumed" in record.getMessage()] == []
    assert runs.points(folder) == runs.points(alone())
    assert len(data_of(folder, Kind.START)) == 2


def test_a_checkpoint_that_was_published_but_never_told_of_is_told_of_with_its_scores(
    tiny, alone, runs, tmp_path
):
    folder = stopped_at(alone(), tmp_path / "killed", 4)
    before = takewhile(lambda record: (record.kind, record.step) != (Kind.CHECKPOINT, 4), read(alone()))
    (folder / FILE_NAME).write_bytes(b"".join(map(encode, before)))
    runs.train(tiny(), folder, resume=True)
    (told,) = [record for record in read(folder) if (record.kind, record.step) == (Kind.CHECKPOINT, 4)]
    scores = runs.snapshot(alone(), 4).state["scores"]
    assert {name: float(score) for name, score in told.data["values"].items()} == scores
    assert told.data["times"].keys() == scores.keys()
    assert len(scores) == 14
    assert runs.points(folder) == runs.points(alone())


def test_a_finished_run_resumes_to_its_scores(tiny, alone, runs, tmp_path):
    folder = stopped_at(alone(), tmp_path / "finished", LAST)
    scored = runs.train(tiny(), folder, resume=True)
    assert (scored.step, scored.checkpoint) == (LAST, folder / "checkpoints" / "step-00000008")
    assert_same_end(runs, folder, alone())


def test_resume_without_a_checkpoint_starts_even_where_a_run_died_before_its_first(
    tiny, alone, runs, tmp_path
):
    config = tiny()
    runs.train(config, tmp_path / "new", resume=True)
    assert_same_end(runs, tmp_path / "new", alone())
    shutil.rmtree(tmp_path / "new" / "checkpoints")
    runs.train(config, tmp_path / "new", resume=True)
    assert_same_end(runs, tmp_path / "new", alone())
    assert len(data_of(tmp_path / "new", Kind.RUN)) == 1


def test_a_damaged_newest_checkpoint_is_named_and_the_run_goes_on_from_the_one_before(
    tiny, alone, runs, tmp_path, caplog
):
    folder = stopped_at(alone(), tmp_path / "damaged", 5)
    damaged = folder / "checkpoints" / "step-00000005" / "weights.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    with caplog.at_level(logging.INFO):
        runs.train(tiny(), folder, resume=True)
    told = " ".join(record.getMessage() for record in caplog.records)
    assert f"passing over a damaged checkpoint: {damaged}" in told
    assert "continuing at step 4" in told
    assert_same_end(runs, folder, alone())
    assert (folder / "checkpoints" / "damaged-step-00000005").is_dir()
    assert len(steps_of(folder)) == len(steps_of(alone()))


def test_a_folder_that_holds_a_run_is_refused_without_resume(tiny, alone, runs, tmp_path):
    with pytest.raises(
        ValueError, match=r"holds a run with the checkpoint step-00000008; continue it with --resume"
    ):
        runs.train(tiny(), alone())
    folder = tmp_path / "early"
    folder.mkdir()
    shutil.copy(alone() / FILE_NAME, folder)
    with pytest.raises(ValueError, match="already holds the run 'algorithm1'"):
        runs.train(tiny(), folder)
    assert not (folder / "checkpoints").exists()


def test_a_run_that_died_before_its_first_checkpoint_is_held_to_its_configuration_too(
    tiny, alone, runs, tmp_path
):
    for name in (FILE_NAME, "config.yaml"):
        shutil.copy(alone() / name, tmp_path)
    with pytest.raises(ValueError, match="holds a run; continue it with --resume"):
        runs.train(tiny(), tmp_path)
    with pytest.raises(ValueError, match=r"objective\.margin: 0\.3 when the run began, 0\.4 now"):
        runs.train(tiny(objective={"margin": 0.4}), tmp_path, resume=True)
    assert not (tmp_path / "checkpoints").exists()


def test_resume_with_another_configuration_is_refused_with_every_difference(tiny, alone, runs):
    before = (alone() / FILE_NAME).read_bytes()
    other = tiny(objective={"margin": 0.4}, data={"padding": 3}, engine={"log_every_steps": 1})
    with pytest.raises(ValueError, match="continues a run as it began") as caught:
        runs.train(other, alone(), resume=True)
    assert str(caught.value).splitlines()[1:] == [
        "  data.padding: 10 when the run began, 3 now",
        "  objective.margin: 0.3 when the run began, 0.4 now",
    ]
    assert (alone() / FILE_NAME).read_bytes() == before


def test_changes_that_are_accepted_are_made_told_and_kept(tiny, alone, runs, tmp_path, caplog):
    folder = stopped_at(alone(), tmp_path / "changed", 5)
    runs.train(tiny(objective={"margin": 0.4}), folder, resume=True, accept_changes=True)
    change = "objective.margin: 0.3 when the run began, 0.4 now"
    assert f"continuing differently, as --accept-changes allows:\n  {change}" in caplog.text
    tags = {key: value for data in data_of(folder, Kind.TAGS) for key, value in data.items()}
    assert tags["accepted_changes"] == "at step 5: objective.margin: 0.3 before, 0.4 now"
    assert runs.snapshot(folder, LAST).state["config"]["objective"]["margin"] == 0.4
    assert runs.points(folder)[6, "train/def_tri"] > runs.points(alone())[6, "train/def_tri"]
    runs.train(tiny(objective={"margin": 0.4}), folder, resume=True)  # from now on it is what the run is


def test_a_run_cannot_go_on_with_another_network_nor_past_its_end(tiny, alone, runs, tmp_path):
    folder = stopped_at(alone(), tmp_path / "other", 5)
    with pytest.raises(ValueError, match=r"the checkpoint of step 5 is of another network: .* is of shape"):
        runs.train(tiny(model={"num_lstm_layers": 2}), folder, resume=True, accept_changes=True)
    with pytest.raises(ValueError, match=r"step-00000005: is past the 4 steps that the schedule has now"):
        runs.train(tiny(schedule={"stage2_epochs": 0}), folder, resume=True, accept_changes=True)


def test_resume_on_another_data_set_is_refused_but_a_moved_one_is_fine(tiny, alone, runs, packed, tmp_path):
    folder = stopped_at(alone(), tmp_path / "moved", 7)
    moved = shutil.copytree(packed, tmp_path / "packed")
    runs.train(tiny(data={"root": moved}), folder, resume=True)
    assert_same_end(runs, folder, alone())
    description = moved / "dataset.json"
    description.write_text(description.read_text() + "\n")  # same tables, another description
    with pytest.raises(ValueError, match=r"the data set: .* when the run began, .* now"):
        runs.train(tiny(data={"root": moved}), folder, resume=True)


def test_a_run_that_died_before_its_first_checkpoint_is_held_to_its_data_set_too(
    tiny, alone, runs, packed, tmp_path
):
    folder = tmp_path / "early"
    folder.mkdir()
    for name in (FILE_NAME, "config.yaml"):
        shutil.copy(alone() / name, folder)
    other = shutil.copytree(packed, tmp_path / "packed")
    description = other / "dataset.json"
    description.write_text(description.read_text() + "\n")
    with pytest.raises(ValueError, match=r"the data set: .* when the run began, .* now"):
        runs.train(tiny(data={"root": other}), folder, resume=True)


def test_without_a_data_set_the_way_to_one_is_told(tiny, runs, tmp_path):
    nameless = configuration.from_dict(tiny().model_dump() | {"data": {}}, "a test")
    with pytest.raises(ConfigError, match=r"data\.root: no data set is named; pack one"):
        runs.train(nameless, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_folder_of_a_run_says_what_it_is(tiny, alone):
    assert configuration.from_yaml(alone() / "config.yaml") == tiny()
    lines = (alone() / "difference.yaml").read_text().splitlines()
    assert "data.clip_frames: 3  # the paper: 6" in lines
    assert yaml.safe_load("\n".join(lines)).keys() == configuration.difference(tiny()).keys()
    params = {key: value for data in data_of(alone(), Kind.PARAMS) for key, value in data.items()}
    assert (params["P"], params["K"], params["T"], params["world_size"]) == ("4", "2", "3", "1")
    assert {data["role"] for data in data_of(alone(), Kind.DATASET)} == {"train", "query", "gallery"}
    assert data_of(alone(), Kind.FINISH) == [{"status": "FINISHED"}]
    tags = {key: value for data in data_of(alone(), Kind.TAGS) for key, value in data.items()}
    assert tags["synthetic"] == "True"
    headline, _, difference = tags["mlflow.note.content"].partition("\n")
    assert headline == "described"
    assert "\ndata.clip_frames: 3  # the paper: 6\n" in difference


def test_a_checkpoint_is_read_by_its_own_folder_and_by_that_of_its_run(tiny, alone, tmp_path):
    path = alone() / "checkpoints" / "step-00000003"
    assert read_checkpoint(path)[0] == path
    found, config, snapshot = read_checkpoint(alone())
    assert (found.name, config, snapshot.step) == ("step-00000008", tiny(), LAST)
    with pytest.raises(ValueError, match="neither a checkpoint nor the folder of a run"):
        read_checkpoint(tmp_path)


def test_a_checkpoint_scores_again_as_it_did_in_training(alone, runs):
    path, config, snapshot = read_checkpoint(alone() / "checkpoints" / "step-00000004")
    scored = evaluate(path, config, snapshot)
    logged = runs.points(alone())
    for direction, result in scored.evaluation.results.items():
        assert result.map == logged[4, f"{direction}/map"]
        assert result.rank(1) == logged[4, f"{direction}/rank1"]


@pytest.mark.parametrize(
    ("number", "marker", "status"),
    [
        (signal.SIGTERM, "SIGTERM\n", "SCHEDULED"),
        (signal.SIGUSR1, "SIGUSR1\n", "SCHEDULED"),
        (signal.SIGINT, None, "KILLED"),
    ],
)
def test_a_signal_ends_a_run_with_a_checkpoint_and_a_wish_to_be_started_again(
    tiny, alone, runs, signalled_after, tmp_path, number, marker, status
):
    folder = tmp_path / "run"
    with signalled_after(folder, 1, number):
        assert runs.train(tiny(), folder) is None
    requeue = folder / "requeue"
    assert (requeue.read_text() if requeue.exists() else None) == marker
    assert data_of(folder, Kind.FINISH) == [{"status": status}]
    assert steps_of(folder)[-1] < LAST
    runs.train(tiny(), folder, resume=True)
    assert not requeue.exists()
    assert_same_end(runs, folder, alone())
    assert runs.points(folder) == runs.points(alone())


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["algorithm1", "joint"])
def test_two_processes_train_like_one_with_the_same_global_batch(alone, together, runs, recipe):
    one, two = alone(recipe), together(recipe)
    for step in (4, 8):  # the last of each stage
        assert_alike(runs.snapshot(two, step), runs.snapshot(one, step), tolerance=1e-9)
    found, expected = runs.points(two), runs.points(one)
    assert found == pytest.approx(expected, abs=1e-9)
    assert {name for _, name in found} >= {f"train/{term}" for term in ("loss", "def_tri", "cov_id", "p_id")}


BEYOND = {
    "data": {"clip_frames": 10, "channel_exchange": 0.5, "channel_erasing": 0.5},
    "model": {"pooling": "gem", "non_local": True},
    "optimizer": {"schedule": "cosine", "ema_decay": 0.9},
}


@pytest.fixture(scope="module")
def beyond(tiny, runs, tmp_path_factory):
    """The folder of a run with every option that the paper does not have, and ten frames."""
    folder = tmp_path_factory.mktemp("beyond") / "run"
    runs.train(tiny(**BEYOND), folder)
    return folder


def test_with_all_options_beyond_the_paper_every_part_learns_and_a_run_resumes_bit_for_bit(
    tiny, beyond, runs, tmp_path
):
    first, end = runs.snapshot(beyond, 1).weights, runs.snapshot(beyond, LAST)
    for name in ("defence.gem.power", "guidance.gem.power"):
        assert end.weights[name] != first[name]
    for name in ("defence.layers.non_local2.0", "attacker.layers.non_local3.0"):
        assert end.weights[f"{name}.output.1.weight"].count_nonzero() > 0
        assert not end.weights[f"{name}.key.weight"].equal(first[f"{name}.key.weight"])
    assert runs.points(beyond)[8, "train/lr"] == pytest.approx(0.12 * tiny(**BEYOND).rate(7))
    protocol = next(data for data in data_of(beyond, Kind.PARAMS) if "protocol" in data)["protocol"]
    assert "10 evenly spaced frames" in protocol
    folder = stopped_at(beyond, tmp_path / "resumed", 3)
    runs.train(tiny(**BEYOND), folder, resume=True)
    assert_same_end(runs, folder, beyond)
    torch.testing.assert_close(runs.snapshot(folder, LAST).average, end.average, rtol=0, atol=0)


@pytest.mark.slow
def test_two_processes_train_like_one_with_all_options_beyond_the_paper(tiny, beyond, runs, tmp_path):
    process = runs.launch(tiny(**BEYOND), tmp_path / "two")
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    found, expected = (runs.snapshot(folder, LAST) for folder in (tmp_path / "two", beyond))
    assert_alike(found, expected, tolerance=1e-9)
    torch.testing.assert_close(found.average, expected.average, rtol=0, atol=1e-9)
    assert runs.points(tmp_path / "two") == pytest.approx(runs.points(beyond), abs=1e-9)


def process_of_rank(launcher: "psutil.Process", rank: int) -> psutil.Process:
    return next(
        child for child in launcher.children(recursive=True) if child.environ().get("RANK") == str(rank)
    )


@pytest.mark.slow
def test_two_processes_of_which_one_is_told_to_stop_end_together_and_continue_identically(
    tiny, together, runs, tmp_path
):
    folder = tmp_path / "run"
    config = tiny(engine={"checkpoint_every_steps": 100})
    process = runs.launch(config, folder)
    journal = folder / FILE_NAME
    while not (journal.exists() and runs.points(folder)):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)
    process_of_rank(psutil.Process(process.pid), 1).send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1, output
    assert "stopped by SIGTERM; the checkpoint is published" in output
    assert (folder / "requeue").read_text() == "SIGTERM\n"
    assert data_of(folder, Kind.FINISH) == [{"status": "SCHEDULED"}]
    stopped = steps_of(folder)[-1]
    assert 2 < stopped < LAST
    assert len(runs.snapshot(folder, stopped).state["processes"]) == 2

    continued = runs.launch(tiny(), folder, "--resume")
    output, _ = continued.communicate(timeout=120)
    assert continued.returncode == 0, output
    assert not (folder / "requeue").exists()
    assert_same_end(runs, folder, together())
    assert runs.points(folder) == runs.points(together())
    assert len(data_of(folder, Kind.RUN)) == 1


@pytest.mark.slow
def test_a_run_of_two_processes_continues_on_one_and_again_on_two(tiny, alone, together, runs, tmp_path):
    one = stopped_at(together(), tmp_path / "one", 3)  # amid a log interval, whose means are shared out
    runs.train(tiny(), one, resume=True)
    two = stopped_at(one, tmp_path / "two", 5)
    process = runs.launch(tiny(), two, "--resume")
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    expected = runs.points(alone())
    for folder, world in ((one, 1), (two, 2)):
        end = runs.snapshot(folder, LAST)
        assert len(end.state["processes"]) == world
        assert_alike(end, runs.snapshot(alone(), LAST), tolerance=1e-9)
        for point, value in runs.points(folder).items():
            assert value == pytest.approx(expected[point], abs=1e-9), point
