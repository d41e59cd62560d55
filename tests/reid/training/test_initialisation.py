"""reid/training/initialisation.py: a run starts from another one's weights, tells so, and takes nothing that does not fit."""

import logging
import shutil

import pytest
import torch
import yaml

from reid.tracking.journal import Kind, read
from reid.training import build, checkpoint, initialisation


def told(folder, kind):
    return {
        key: value for record in read(folder) if record.kind is kind for key, value in record.data.items()
    }


def test_weights_and_statistics_are_taken_and_classifiers_of_other_identities_are_not(
    tiny, alone, runs, caplog
):
    path = checkpoint.place(alone() / "checkpoints", 8)
    network = build.network(tiny(), 5)
    born = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with caplog.at_level(logging.INFO):
        assert initialisation.start(path, network) == checkpoint.digest(path)
    fresh = {"attack_classifier.weight", "defence_classifier.weight", "guided_classifier.weight"}
    former = runs.snapshot(alone(), 8).weights
    for name, tensor in network.state_dict().items():
        expected = born[name] if name in fresh else former[name].to(tensor.dtype)
        torch.testing.assert_close(tensor, expected, rtol=0, atol=0, msg=name)
    assert "starting from the weights of" in caplog.text
    names = caplog.text.strip().rpartition("identities differs: ")[2]
    assert set(names.split(", ")) == fresh


def test_as_many_identities_keep_their_classifiers(tiny, alone):
    network = build.network(tiny(), 8)
    weights = checkpoint.load(checkpoint.place(alone() / "checkpoints", 8)).weights
    assert initialisation.fitting(weights, network, alone()).keys() == network.state_dict().keys()


def test_every_tensor_of_another_structure_is_named(tiny, alone):
    weights = dict(checkpoint.load(checkpoint.place(alone() / "checkpoints", 8)).weights)
    weights["defence_classifier.weight"] = torch.zeros(
        8, 7
    )  # not another number of identities: another width
    weights["stem.visible.conv2.weight"] = torch.zeros(1)
    del weights["stem.visible.bn1.bias"]
    with pytest.raises(
        ValueError, match="is of another structure; configure `model` as that run did"
    ) as caught:
        initialisation.fitting(weights, build.network(tiny(), 8), alone())
    assert str(caught.value).splitlines()[1:] == [
        "  stem.visible.bn1.bias: missing there",
        "  stem.visible.conv2.weight: there is no such part here",
        "  defence_classifier.weight: (8, 7) there, (8, 128) here",
    ]


@pytest.fixture(scope="module")
def tuned(tiny, alone, runs, tmp_path_factory):
    """The folder of a run that started from the weights of another, named by its folder."""
    folder = tmp_path_factory.mktemp("tuned") / "run"
    runs.train(tiny().model_copy(update={"init": alone()}), folder)
    return folder


def test_a_run_says_where_its_weights_are_from(alone, tuned):
    origin = checkpoint.place(alone() / "checkpoints", 8)
    assert yaml.safe_load((tuned / "config.yaml").read_text())["init"] == str(origin)
    assert f'init: "{origin}"' in (tuned / "difference.yaml").read_text()
    assert told(tuned, Kind.PARAMS)["init"] == str(origin)
    assert told(tuned, Kind.TAGS)["init_sha256"] == checkpoint.digest(origin)
    assert "init" not in told(alone(), Kind.PARAMS)


def test_it_goes_on_from_those_weights_with_everything_else_anew(alone, tuned, runs):
    former, first = runs.snapshot(alone(), 8), runs.snapshot(tuned, 1)
    key = "stem.visible.bn1.num_batches_tracked"
    assert first.weights[key] == former.weights[key] + 3  # one iteration of three updates more
    drawn = runs.snapshot(alone(), 1).weights
    for name in ("defence.layers.layer1.0.conv1.weight", "guidance.motion.weight_hh_l0"):
        distance = {
            origin: (first.weights[name] - weights[name]).norm()
            for origin, weights in (("former", former.weights), ("drawn", drawn))
        }
        assert distance["former"] < 0.5 * distance["drawn"]
    assert first.step == 1
    assert runs.points(tuned)[2, "train/lr"] == runs.points(alone())[2, "train/lr"]


def test_a_resumed_run_has_its_own_weights_and_needs_the_others_no_more(tiny, alone, tuned, runs, tmp_path):
    origin = shutil.copytree(checkpoint.place(alone() / "checkpoints", 8), tmp_path / "origin")
    config = tiny().model_copy(update={"init": origin})
    runs.train(config, tmp_path / "run")
    for path in checkpoint.published(tmp_path / "run" / "checkpoints")[3:]:
        shutil.rmtree(path)
    shutil.rmtree(origin)
    runs.train(config, tmp_path / "run", resume=True)
    found, expected = runs.snapshot(tmp_path / "run", 8), runs.snapshot(tuned, 8)
    torch.testing.assert_close(found.weights, expected.weights, rtol=0, atol=0)


def test_a_resumed_run_keeps_the_checkpoint_that_it_began_with_whatever_became_of_the_other_run(
    tiny, alone, runs, tmp_path
):
    """The other run went on, so that its folder stands for another checkpoint, and then it was removed."""
    other = tmp_path / "other"
    for step in (3, 4):
        place = checkpoint.place(other / "checkpoints", step)
        shutil.copytree(checkpoint.place(alone() / "checkpoints", step), place)
    config = tiny().model_copy(update={"init": other})
    runs.train(config, tmp_path / "run")
    for gone in (place, other):
        shutil.rmtree(checkpoint.place(tmp_path / "run" / "checkpoints", 8))
        shutil.rmtree(gone)
        runs.train(config, tmp_path / "run", resume=True)
        assert runs.snapshot(tmp_path / "run", 8).state["config"]["init"] == str(place)


def test_a_run_is_resumed_with_the_start_it_had(tiny, alone, tuned, runs):
    with pytest.raises(
        ValueError, match="holds a run with the checkpoint step-00000008; continue it with --resume"
    ):
        runs.train(tiny().model_copy(update={"init": alone()}), tuned)
    with pytest.raises(ValueError, match=r"init: '.*step-00000008' when the run began, None now"):
        runs.train(tiny(), tuned, resume=True)
    with pytest.raises(ValueError, match=r"init: None when the run began, '.*step-00000008' now"):
        runs.train(tiny().model_copy(update={"init": alone()}), alone(), resume=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": {"variant": "baseline"}}, "attacker.imsa.0.query.weight: there is no such part here"),
        (
            {"model": {"attention_reduction": 4}},
            r"cmca3.query.weight: \(32, 64, 1, 1\) there, \(16, 64, 1, 1\) here",
        ),
    ],
)
def test_weights_that_do_not_fit_are_refused_before_anything_is_written(
    tiny, alone, runs, tmp_path, change, message
):
    with pytest.raises(ValueError, match=message):
        runs.train(tiny(**change).model_copy(update={"init": alone()}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_folder_without_a_checkpoint_is_refused(tiny, runs, tmp_path):
    with pytest.raises(ValueError, match="is neither a checkpoint nor the folder of a run with a valid one"):
        runs.train(tiny().model_copy(update={"init": tmp_path}), tmp_path / "run")
    assert not (tmp_path / "run").exists()
