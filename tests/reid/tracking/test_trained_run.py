"""What a trained run leaves on a real server, and what it leaves nowhere: one training, killed in its middle and resumed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from reid import config as configuration
from reid.tracking import names, target
from reid.tracking.journal import FILE_NAME
from reid.types import Direction

from .lab import IN_TIME, Server, wait_for

CANARIES = {
    "MLFLOW_TRACKING_PASSWORD": "canary-1",
    "HF_TOKEN": "canary-2",
    "AWS_SECRET_ACCESS_KEY": "canary-3",
}
IN_ADDRESS = {"user": "canary-4", "password": "canary-5"}
SLURM = {"SLURM_JOB_ID": "4242", "SLURM_JOB_NODELIST": "n[01-02]", "SLURM_RESTART_COUNT": "1"}

pytestmark = pytest.mark.slow


class Trained(NamedTuple):
    """A finished run, and its server's folder."""

    folder: Path
    client: MlflowClient
    run: Run
    server: Path
    told: str

    def artifacts(self, folder: str) -> set[str]:
        return {file.path for file in self.client.list_artifacts(self.run.info.run_id, folder)}

    def text_of(self, artifact: str) -> str:
        return Path(self.client.download_artifacts(self.run.info.run_id, artifact)).read_text()


@pytest.fixture(scope="module")
def trained(tiny, empty_database, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    (folder / "mlflow.db").write_bytes(empty_database.read_bytes())
    server = Server(folder)
    server.start()
    uri = server.uri.replace("//", "//{user}:{password}@".format(**IN_ADDRESS))
    config = tiny(
        schedule={"epoch_iterations": 40}, engine={"checkpoint_every_steps": 20, "log_every_steps": 10}
    )
    content = config.model_dump(mode="json")
    content["tracking"] = {"experiment": "whole", "parent": str(folder / "seeds")}
    (folder / "config.yaml").write_text(configuration.to_yaml(configuration.from_dict(content, "a test")))
    environment = {**os.environ, **CANARIES, **SLURM, "MLFLOW_TRACKING_URI": uri, "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = str(Path.cwd())
    run = folder / "seeds" / "seed-0"
    command = [
        sys.executable,
        "-m",
        "reid",
        "train",
        "--config",
        str(folder / "config.yaml"),
        "--run",
        str(run),
    ]
    try:
        with (folder / "told").open("wb") as told:
            first = subprocess.Popen([*command, "--resume"], env=environment, stdout=told, stderr=told)
            wait_for((run / "checkpoints" / "step-00000020").exists, 240)
            first.send_signal(signal.SIGKILL)
            killed = time.monotonic()
            first.wait()
            wait_for((run / target.FILE_NAME).exists, 120)  # the sender goes on, or begins only now
            client = MlflowClient(server.uri)
            run_id = json.loads((run / target.FILE_NAME).read_text())[server.uri]["run_id"]
            wait_for(lambda: client.get_run(run_id).info.status == "KILLED", IN_TIME)
            assert time.monotonic() - killed < IN_TIME
            subprocess.run([*command, "--resume"], env=environment, stdout=told, stderr=told, check=True)
        wait_for(lambda: client.get_run(run_id).info.status == "FINISHED", IN_TIME)
        yield Trained(run, client, client.get_run(run_id), folder, (folder / "told").read_text())
    finally:
        server.stop()


def test_it_is_one_run_below_its_parent_and_no_point_is_doubled(trained):
    runs = trained.client.search_runs([trained.run.info.experiment_id])
    by_name = {run.info.run_name: run for run in runs}
    assert set(by_name) == {"seeds", "seed-0"}
    assert trained.run.data.tags["mlflow.parentRunId"] == by_name["seeds"].info.run_id
    assert trained.run.data.tags[names.Tag.RESTARTS] == "1"
    assert trained.run.data.tags[names.Tag.STAGE] == "2"
    assert names.Tag.ENDED_BY not in trained.run.data.tags  # it was killed, but that was not its end
    history = trained.client.get_metric_history(trained.run.info.run_id, names.Metric.LOSS)
    assert [point.step for point in history] == list(range(10, 81, 10))
    assert trained.run.data.metrics[names.Metric.RESUME_MISMATCH] == 0


def test_it_holds_what_people_filter_by(trained):
    params = trained.run.data.params
    assert set(params) == set(names.Param) - {names.Param.INIT}  # it starts from no other run
    assert (params["variant"], params["seed"], params["P"]) == ("full", "0", "4")
    tags = trained.run.data.tags
    told = {key: tags[key] for key in (names.Tag.SLURM_JOB, names.Tag.SLURM_NODES, names.Tag.SLURM_RESTARTS)}
    assert list(told.values()) == list(SLURM.values())
    assert {names.Tag.COMMIT, names.Tag.DIRTY, names.Tag.HOST, names.Tag.USER, names.Tag.LEARNED_SHA} <= set(
        tags
    )
    described = tags[names.Tag.DESCRIPTION]
    assert "| Infrared to visible |" in described
    assert "data.clip_frames: 3  # the paper: 6" in described


def test_it_holds_curves_of_learning_of_scores_and_of_the_machine_within_sixty_keys(trained):
    metrics = set(trained.run.data.metrics)
    assert len(metrics) <= 60
    assert set(names.SCORES) <= metrics
    measured = {
        names.Metric.LOSS,
        names.Metric.CPU_PERCENT,
        names.Metric.RESIDENT_GB,
        names.Metric.EVALUATION_SECONDS,
    }
    assert measured <= metrics


def test_it_holds_its_configuration_its_environment_and_its_pictures(trained):
    expected = {f"config/{name}" for name in ("config.yaml", "difference.yaml", "environment.txt")}
    assert trained.artifacts("config") == expected
    assert trained.text_of("config/config.yaml") == (trained.folder / "config.yaml").read_text()
    assert "torch==" in trained.text_of("config/environment.txt")
    kinds = {Path(path).stem.removesuffix("_to_visible") for path in trained.artifacts("pictures")}
    assert {"retrieval_infrared", "failures_infrared", "cmc", "embeddings", "attention", "training"} <= kinds


def test_its_data_sets_have_digests_and_its_checkpoints_scores(trained):
    datasets = {data.tags[0].value: data.dataset for data in trained.run.inputs.dataset_inputs}
    assert set(datasets) == {"train", "query", "gallery"}
    assert all(len(data.digest) == 36 for data in datasets.values())
    models = trained.client.search_logged_models([trained.run.info.experiment_id])
    scored = {int(model.tags["step"]): model for model in models if model.metrics}
    assert set(scored) == {40, 80}
    rank1 = names.rank(Direction.INFRARED_TO_VISIBLE, 1)
    (score,) = [metric for metric in scored[80].metrics if metric.key == rank1]
    assert score.value == trained.run.data.metrics[rank1]
    assert (score.dataset_name, score.dataset_digest) == (datasets["query"].name, datasets["query"].digest)


def test_no_secret_reaches_a_file_of_the_run_its_log_or_the_server(trained):
    files = [path for path in trained.server.rglob("*") if path.is_file()]
    assert trained.folder / FILE_NAME in files
    assert trained.server / "mlflow.db" in files
    assert any("artifacts" in path.parts for path in files)
    secrets = [secret.encode() for secret in (*CANARIES.values(), *IN_ADDRESS.values())]
    told = [path for path in files if any(secret in path.read_bytes() for secret in secrets)]
    assert told == []
