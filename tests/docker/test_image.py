"""docker/Dockerfile: the image is built, and what it is for is done in it, without rights, network, or a root to write to.

Data is made, packed, trained on and evaluated as launch/quickstart.sh does it, in little. The MLflow server of
docker/compose.yaml then gets that run from another container, and keeps it in a real PostgreSQL.
"""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = [pytest.mark.container, pytest.mark.slow, pytest.mark.timeout(1500)]

ROOT = Path(__file__).parents[2]
USER = 10001
HEALTHCHECK = ("python", "docker/healthy.py")
TRAIN = """
accelerate launch --config_file launch/accelerate/cpu.yaml -m reid train --config launch/experiments/demo.yaml \\
    --data.root /runs/shards --schedule.stage1_epochs 1 --schedule.stage2_epochs 1 """
JOB = f"""
python -m preprocess synthesize /runs/raw --num-identities 24 --tracklets-per-modality 4
python -m preprocess pack /runs/raw /runs/shards --json >/runs/packed.json
{TRAIN} --schedule.epoch_iterations 2 --run /runs/run
reid evaluate --checkpoint /runs/run --json >/runs/scores.json
"""
SMOKE = (
    "tests/launch/test_locks.py",
    "tests/launch/test_pillow_simd.py",
    "tests/preprocess/test_images.py",
    "tests/reid/data/test_clips.py",
    "tests/reid/model/test_network.py",
)
# Prints the status of three requests, and the runs that the server knows with their artifacts.
ASK = """
import base64, http.client, json, os
import mlflow

def status(**headers):
    server = http.client.HTTPConnection("localhost", 5000)
    server.request("GET", "/api/2.0/mlflow/experiments/get?experiment_id=0", headers=headers)
    return server.getresponse().status

word = os.environ["MLFLOW_TRACKING_USERNAME"] + ":" + os.environ["MLFLOW_TRACKING_PASSWORD"]
known = {"Authorization": "Basic " + base64.b64encode(word.encode()).decode()}
client = mlflow.MlflowClient("http://localhost:5000")
runs = client.search_runs([found.experiment_id for found in client.search_experiments()])
print(json.dumps({
    "unknown": status(), "known": status(**known), "by another name": status(Host="elsewhere:5000", **known),
    "runs": [{**run.data.tags, **run.data.metrics} for run in runs],
    "artifacts": sorted(file.path for run in runs for file in client.list_artifacts(run.info.run_id)),
}))
"""


@pytest.fixture(scope="module")
def runs(image, tmp_path_factory) -> Path:
    """The folder mounted as /runs, in which JOB was done."""
    folder = tmp_path_factory.mktemp("runs")
    os.chown(folder, USER, USER)
    image.run("bash", "-euxc", JOB, options=(f"--volume={folder}:/runs",))
    return folder


@pytest.fixture
def database(image, compose) -> Iterator[Path]:
    """The folder with the socket of a PostgreSQL made as the compose file wants it."""
    settings = compose["services"]["database"]["environment"]
    folder = image.folder / "database"
    folder.mkdir()
    (folder / "password").write_text(settings["POSTGRES_PASSWORD"])
    os.chown(folder, *_postgres_user())
    data = f"--pgdata={folder}/data"

    def postgres(program: str, *arguments: str) -> None:
        user, group = _postgres_user()
        subprocess.run(
            [program, *arguments],
            check=True,
            cwd=folder,
            user=user,
            group=group,
            extra_groups=[],
            env=os.environ | {"PGPASSWORD": settings["POSTGRES_PASSWORD"], "PGHOST": str(folder)},
            stdout=subprocess.DEVNULL,
        )

    postgres(
        "initdb", data, f"--username={settings['POSTGRES_USER']}", "--pwfile=password", "--auth=scram-sha-256"
    )
    listening = f"-k {folder} -c listen_addresses="
    postgres("pg_ctl", "start", data, "--wait", f"--log={folder}/log", f"--options={listening}")
    postgres("createdb", f"--username={settings['POSTGRES_USER']}", settings["POSTGRES_DB"])
    yield folder
    postgres("pg_ctl", "stop", data, "--mode=immediate")


def _postgres_user() -> tuple[int, int]:
    owner = Path("/var/lib/postgresql").stat()
    return owner.st_uid, owner.st_gid


@pytest.fixture
def server(image, compose, database, tmp_path) -> Iterator[str]:
    """The name of a container that runs the compose file's MLflow server; its artifacts are in tmp_path."""
    service = compose["services"]["mlflow"]
    os.chown(tmp_path, USER, USER)
    environment = service["environment"] | {"PGHOST": "/database"}
    image.run(
        *service["command"],
        options=(
            *("--name=server", "--detach"),
            *(f"--env={name}={value}" for name, value in environment.items()),
            *(f"--volume={database}:/database", f"--volume={tmp_path}:/artifacts"),
        ),
    )
    deadline = time.monotonic() + 120
    while image.podman("exec", "server", *HEALTHCHECK, check=False).returncode:
        assert time.monotonic() < deadline, image.podman("logs", "server", check=False).stderr[-4000:]
        time.sleep(1)
    yield "server"
    image.podman("stop", "--time=20", "server")


def test_the_image_says_what_it_is(image) -> None:
    told = json.loads(image.podman("inspect", "--type=image", "localhost/reid").stdout)[0]
    assert told["User"] == f"{USER}:{USER}"
    assert told["Healthcheck"]["Test"] == ["CMD", *HEALTHCHECK]
    labels = told["Labels"]
    assert labels["org.opencontainers.image.revision"] == "0f1e2d"
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"


def test_the_image_holds_the_product_and_nothing_of_its_making(image) -> None:
    left = "find /root /tmp /var/cache/apt /var/lib/apt/lists -mindepth 1 -type f -not -name '.*rc' -not -name .profile"
    held = image.run("bash", "-euc", f"ls -A; {left}", options=("--user=0",))
    wanted = ".venv LICENSE README.md docker launch preprocess pyproject.toml reid requirements.lock"
    assert held.stdout.split() == wanted.split()
    compilers = image.run("which", "cc", "c++", "gcc", "g++", "clang", "ld", "make", check=False)
    assert compilers.stdout == ""


def test_its_user_has_no_rights_and_its_root_may_be_read_only(image) -> None:
    attempt = "id -u; touch /tmp/here && touch /opt/reid/here"
    answer = image.run("bash", "-c", attempt, check=False)
    assert answer.stdout == f"{USER}\n"
    assert answer.stderr.endswith("Read-only file system\n")


def test_any_other_user_may_run_it(image) -> None:
    answer = image.run("reid", "config", "--model.variant", "adm", options=("--user=4321:4321",))
    assert "variant: adm" in answer.stdout


def test_its_environment_wants_nothing_more_where_there_is_no_compiler(image) -> None:
    answer = image.run("launch/environment.sh")
    assert (answer.stdout, answer.stderr) == ("", "")


def test_smoke_tests_pass_inside(image) -> None:
    answer = image.run(
        *("python", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow", *SMOKE),
        options=(
            f"--volume={ROOT}/tests:/opt/reid/tests:ro",
            "--env=CI=true",
        ),
    )
    assert " passed" in answer.stdout
    assert "skipped" not in answer.stdout


def test_data_is_packed_trained_on_and_searched(runs) -> None:
    packed = json.loads((runs / "packed.json").read_text())
    assert packed["backend"]["version"] == "12.1.1.post0+simd.avx2"
    assert packed["description"]["counts"]["identities"] == 24
    scores = json.loads((runs / "scores.json").read_text())
    assert scores["step"] == 4
    assert 0 < scores["mean"]["map"] < 1
    assert {path.stat().st_uid for path in runs.rglob("*")} == {USER}


def test_a_training_that_is_stopped_leaves_a_checkpoint(image, runs) -> None:
    image.run(
        *(
            "bash",
            "-euc",
            f"exec {TRAIN.strip()} --schedule.epoch_iterations 1000 --engine.log_every_steps 1 --run /runs/stopped",
        ),
        options=("--name=trainer", "--detach", f"--volume={runs}:/runs"),
    )
    deadline = time.monotonic() + 120
    journal = runs / "stopped" / "journal.jsonl"
    while not (journal.exists() and "train/loss" in journal.read_text()):
        assert time.monotonic() < deadline, image.podman("logs", "trainer", check=False).stderr[-4000:]
        time.sleep(0.5)
    image.podman("stop", "--time=60", "trainer")
    assert (runs / "stopped" / "requeue").read_text() == f"{signal.SIGTERM.name}\n"
    assert list((runs / "stopped" / "checkpoints").glob("step-*"))


@pytest.mark.postgresql
def test_a_server_with_passwords_and_postgresql_keeps_the_run(image, compose, runs, server, tmp_path) -> None:
    trainer = compose["services"]["trainer"]["environment"]
    password = {name: trainer[name] for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")}
    options = (f"--volume={runs}:/runs", *(f"--env={name}={value}" for name, value in password.items()))
    client = {"options": options, "network": f"container:{server}"}
    image.run("reid", "runs", "sync", "/runs/run", "--uri", "http://localhost:5000", **client)
    told = json.loads(image.run("python", "-c", ASK, **client).stdout)
    assert (told["unknown"], told["known"], told["by another name"]) == (401, 200, 403)
    (run,) = told["runs"]
    scores = json.loads((runs / "scores.json").read_text())
    assert run["mean/map"] == pytest.approx(scores["mean"]["map"])
    assert run["mlflow.source.git.commit"] == "0f1e2d"
    assert {"config", "pictures"} <= set(told["artifacts"])
    assert list(tmp_path.rglob("config.yaml"))
