"""reid/deployment/weights.py: what a user names leads to one checkpoint, and says what it is."""

import json
import shutil

import pytest
import torch

from reid.deployment import weights
from reid.tracking.sender import sync
from reid.tracking.tracker import OFFLINE, TRACKING_URI, Tracker
from reid.training import checkpoint
from reid.types import Embedding


def test_the_folder_of_a_run_stands_for_its_newest_checkpoint_and_a_checkpoint_for_itself(run):
    path = run / "checkpoints" / "step-00000008"
    assert weights.found(str(run)) == weights.found(str(path)) == path


def test_a_folder_without_a_checkpoint_is_refused(tmp_path):
    with pytest.raises(ValueError, match="neither a checkpoint, nor the folder of a run"):
        weights.found(str(tmp_path))


def test_a_model_of_mlflow_needs_a_server_to_ask(monkeypatch):
    monkeypatch.delenv(TRACKING_URI, raising=False)
    with pytest.raises(ValueError, match=r"models:/m-1: say with --uri"):
        weights.found("models:/m-1")


@pytest.mark.slow
def test_a_model_of_mlflow_leads_to_its_checkpoint_as_long_as_that_is_there_and_the_same(run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    path, uri = folder / "checkpoints" / "step-00000008", f"sqlite:///{tmp_path}/mlflow.db"
    with Tracker.open(folder, experiment="an experiment", run_name="a run", tracking_uri=OFFLINE) as tracker:
        tracker.checkpoint(path, checkpoint.digest(path), 8, {})
    sync(folder, uri)
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("an experiment").experiment_id
    (model,) = client.search_logged_models([experiment])
    assert weights.found(f"models:/{model.model_id}", uri) == path.resolve()
    with pytest.raises(ValueError, match="there is no model 'm-none'"):
        weights.found("models:/m-none", uri)
    foreign = client.create_logged_model(experiment, "theirs", model.source_run_id)
    with pytest.raises(ValueError, match="stands for no checkpoint of ours"):
        weights.found(f"models:/{foreign.model_id}", uri)
    contents = path / checkpoint.CONTENTS
    contents.write_text(contents.read_text() + "\n")
    with pytest.raises(ValueError, match="is another checkpoint by now"):
        weights.found(f"models:/{model.model_id}", uri)
    shutil.rmtree(path)
    with pytest.raises(ValueError, match="cannot be reached from this machine"):
        weights.found(f"models:/{model.model_id}", uri)


def test_weights_of_any_precision_are_loaded_in_float32_for_evaluation(run, loaded):
    stored = checkpoint.load(weights.found(str(run))).weights
    own = loaded.network.state_dict()
    for name in ("stem.visible.conv1.weight", "guided_classifier.weight"):
        torch.testing.assert_close(own[name], stored[name].float(), rtol=0, atol=0)
    assert {tensor.dtype for tensor in own.values()} == {torch.float32, torch.int64}
    assert not loaded.network.training


def test_the_average_is_deployed_where_there_is_one(run, tmp_path):
    snapshot = checkpoint.load(weights.found(str(run)))
    average = {name: torch.zeros_like(tensor) for name, tensor in snapshot.weights.items()}
    state = {name: snapshot.state[name] for name in ("config", "dataset", "num_identities")}
    path = checkpoint.publish(tmp_path, checkpoint.Snapshot(8, snapshot.weights, {}, state, average))
    assert not any(tensor.any() for tensor in weights.load(path).network.state_dict().values())


def test_the_facts_are_those_of_the_checkpoint(run, loaded):
    facts = json.loads(json.dumps(loaded.facts()))
    path = weights.found(str(run))
    assert facts["checkpoint_sha256"] == checkpoint.digest(path)
    assert facts["clip"] == {"frames": 3, "height": 32, "width": 16}
    assert (facts["step"], facts["variant"], facts["embedding"]) == (8, "full", "guided")
    assert facts["embedding_size"] == loaded.network.guided_classifier.in_features
    assert facts["synthetic"] is facts["data_set"]["synthetic"] is True


def test_another_embedding_may_be_asked_for_if_the_variant_has_it(run):
    assert weights.load(run, Embedding.BOTH).width > weights.load(run).width
