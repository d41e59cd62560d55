"""MLflow for the tests of this folder: databases that are ready (making one takes seconds), and a real server."""

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from reid.tracking.mlflow import quiet_environment

from .lab import Grumpy, Server

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
