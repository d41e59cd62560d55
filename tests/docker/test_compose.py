"""docker/compose.yaml: read by podman-compose, it says what a server for a group needs, and no secret."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docker.conftest import GPUS

pytestmark = pytest.mark.container

ROOT = Path(__file__).parents[2]
FILE = ROOT / "docker" / "compose.yaml"
SECRET = re.compile(r"PASSWORD|SECRET")


def test_only_the_server_listens_and_only_to_this_machine(compose) -> None:
    services = compose["services"]
    assert {name: service.get("ports", []) for name, service in services.items()} == {
        "database": [],
        "mlflow": ["127.0.0.1:5000:5000"],
        "trainer": [],
    }
    assert services["database"]["networks"] == ["store"]
    assert compose["networks"]["store"]["internal"] is True


def test_the_server_asks_for_passwords_knows_its_names_and_keeps_artifacts_itself(compose) -> None:
    server = compose["services"]["mlflow"]
    options = dict(word[2:].split("=", 1) for word in server["command"] if word.startswith("--"))
    assert options["app-name"] == "basic-auth"
    assert options["backend-store-uri"] == "postgresql+psycopg://"
    assert options["artifacts-destination"] == "/artifacts"
    assert options["allowed-hosts"].split(",") == ["mlflow:5000", "localhost", "localhost:5000"]
    assert server["environment"]["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"
    assert server["environment"]["MLFLOW_DISABLE_TELEMETRY"] == "true"


@pytest.mark.parametrize("name", ["mlflow", "trainer"])
def test_what_runs_our_image_has_no_rights_and_a_read_only_root(compose, name: str) -> None:
    service = compose["services"][name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["tmpfs"] == ["/tmp"]


def test_the_trainer_has_a_process_for_each_gpu_and_paths_that_exist(compose) -> None:
    trainer = compose["services"]["trainer"]
    (devices,) = trainer["deploy"]["resources"]["reservations"]["devices"]
    assert (devices["driver"], str(devices["count"]), devices["capabilities"]) == ("nvidia", GPUS, ["gpu"])
    assert f"--num_processes={GPUS}" in trainer["command"]
    paths = [word.split("=")[1] for word in trainer["command"] if "launch/" in word]
    assert paths == ["launch/accelerate/one_node.yaml", "launch/experiments/vcm.yaml"]
    assert all((ROOT / path).is_file() for path in paths)


def test_no_secret_stands_in_the_file_and_none_has_a_default() -> None:
    values = [line.strip() for line in FILE.read_text().splitlines() if SECRET.search(line.partition(":")[0])]
    values = [line for line in values if not line.startswith("#")]
    assert len(values) >= 5
    for line in values:
        assert re.fullmatch(
            r"\w+: \$\{(\w+:\?[^}]+|MLFLOW_TRACKING_PASSWORD:-\$\{MLFLOW_ADMIN_PASSWORD\})\}", line
        ), line


@pytest.mark.parametrize("name", ["POSTGRES_PASSWORD", "MLFLOW_ADMIN_PASSWORD", "MLFLOW_SECRET_KEY"])
def test_a_missing_secret_is_named(name: str) -> None:
    others = {"POSTGRES_PASSWORD", "MLFLOW_ADMIN_PASSWORD", "MLFLOW_SECRET_KEY"} - {name}
    environment = {key: value for key, value in os.environ.items() if key != name}
    answer = subprocess.run(
        [Path(sys.executable).parent / "podman-compose", "--file", FILE, "config"],
        env=environment | dict.fromkeys(others, "a word"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode != 0
    assert f"required variable {name} is missing" in answer.stderr
