"""MLflow for the tests of this folder: databases that are ready (making one takes seconds), and a real server."""

import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from reid.tracking.mlflow import quiet_environment

quiet_environment()


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory) -> Path:
    """An SQLite file with MLflow's tables."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def runs(empty_database, tmp_path, monkeypatch) -> Path:
    """A folder of runs, whose default database is ready."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = tmp_path / "runs"
    folder.mkdir()
    shutil.copy(empty_database, folder / "mlflow.db")
    return folder


class Server:
    """A real `mlflow server` of one folder, which can be stopped and started again on the same port."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db"]
        command += ["--artifacts-destination", str(self.folder / "artifacts")]
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        environment.pop("MLFLOW_TRACKING_URI", None)
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        wait_for(self._answers, 90)

    def signal(self, number: int) -> None:
        """Send a signal to the server and its workers."""
        assert self.process is not None
        os.killpg(self.process.pid, number)

    def stop(self) -> None:
        if self.process is not None:
            self.signal(9)
            self.process.wait()
            self.process = None

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=1) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


class Grumpy(ThreadingHTTPServer):
    """Stands in front of a server and passes requests on, slowly (`delay_seconds`) or not at all (`refusal`: a code)."""

    def __init__(self, behind: str) -> None:
        super().__init__(("127.0.0.1", 0), _PassOn)
        self.behind = behind
        self.uri = f"http://127.0.0.1:{self.server_port}"
        self.refusal: int | None = None
        self.delay_seconds = 0.0
        self.num_requests = 0


class _PassOn(BaseHTTPRequestHandler):
    server: Grumpy

    def pass_on(self) -> None:
        self.server.num_requests += 1
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        time.sleep(self.server.delay_seconds)
        if self.server.refusal is not None:
            self.answer(self.server.refusal, b"no")
            return
        headers = {key: value for key, value in self.headers.items() if key.lower() != "host"}
        request = urllib.request.Request(
            self.server.behind + self.path, body or None, headers, method=self.command
        )
        try:
            with urllib.request.urlopen(request, timeout=20) as found:
                self.answer(found.status, found.read())
        except urllib.error.HTTPError as error:
            self.answer(error.code, error.read())
        except OSError:
            self.answer(502, b"nobody there")

    def answer(self, code: int, body: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = pass_on  # noqa: N815  # so http.server calls them


@pytest.fixture
def grumpy(server: Server) -> Iterator[Grumpy]:
    """A proxy in front of `server`."""
    proxy = Grumpy(server.uri)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    try:
        yield proxy
    finally:
        proxy.shutdown()
        proxy.server_close()


@pytest.fixture
def server(empty_database, tmp_path) -> Iterator[Server]:
    """A server that is not started yet."""
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    server = Server(tmp_path)
    try:
        yield server
    finally:
        server.stop()


def wait_for(condition: Callable[[], object], seconds: float) -> None:
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up, f"not within {seconds} s"
        time.sleep(0.1)
