"""docker/basic_auth.ini on a real MLflow server: who has a password may write, and nobody else."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mlflow_users import ADMIN_PASSWORD, EXPECTED, USERS

ROOT = Path(__file__).parents[2]
POSTGRESQL = "postgresql+psycopg://"


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """Of a server that is configured as that of compose.yaml, but for the database: users lie in an SQLite file."""
    settings = (ROOT / "docker" / "basic_auth.ini").read_text()
    assert POSTGRESQL in settings
    (tmp_path / "auth.ini").write_text(settings.replace(POSTGRESQL, "sqlite:///users.db"))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    log = tmp_path / "log"
    with log.open("w") as output:
        server = subprocess.Popen(
            [
                *(
                    Path(sys.executable).parent / "mlflow",
                    "server",
                    "--app-name=basic-auth",
                    f"--port={port}",
                ),
                *(
                    "--workers=1",
                    "--backend-store-uri=sqlite:///mlflow.db",
                    "--artifacts-destination=artifacts",
                ),
            ],
            cwd=tmp_path,
            env=os.environ
            | {
                "MLFLOW_AUTH_CONFIG_PATH": "auth.ini",
                "MLFLOW_AUTH_ADMIN_USERNAME": "admin",
                "MLFLOW_AUTH_ADMIN_PASSWORD": ADMIN_PASSWORD,
                "MLFLOW_FLASK_SERVER_SECRET_KEY": "a long random word",
                "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
                "MLFLOW_DISABLE_TELEMETRY": "true",
            },
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 120
        while not answers(f"http://127.0.0.1:{port}/health"):
            assert time.monotonic() < deadline, log.read_text()
            assert server.poll() is None, log.read_text()
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait()


def answers(url: str) -> bool:
    try:
        return urllib.request.urlopen(url, timeout=10).status == 200
    except (urllib.error.URLError, OSError):
        return False


@pytest.mark.slow
def test_a_user_writes_into_an_experiment_of_the_admin_and_a_stranger_does_not(address: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", USERS, address], capture_output=True, text=True, check=False, timeout=180
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == EXPECTED
