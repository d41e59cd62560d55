"""reid/doctor/services.py: real servers, ports and databases, in good and in bad health."""

import json
import os
import shutil
import socket
import sqlite3
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata

import pytest

from reid.doctor import services
from reid.doctor.finding import Status


class Talker(ThreadingHTTPServer):
    """Answers as an MLflow server of a version would, or with an error code, and tells any time."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.uri = f"http://127.0.0.1:{self.server_port}"
        self.code, self.version, self.date = 200, metadata.version("mlflow"), ""
        self.authorization: str | None = None


class _Answer(BaseHTTPRequestHandler):
    server: Talker

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.authorization = self.headers.get("Authorization")
        is_version = self.path == "/version"
        body = self.server.version.encode() if is_version else json.dumps({"experiments": []}).encode()
        self.send_response(200 if is_version else self.server.code)
        if self.server.code == 302:
            self.send_header("Location", "http://127.0.0.1:9/")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def date_time_string(self, timestamp: float | None = None) -> str:
        return self.server.date or super().date_time_string(timestamp)

    def log_message(self, *_: object) -> None:
        pass

    do_GET = do_POST = answer  # noqa: N815  # so http.server calls them


@pytest.fixture
def talker() -> Iterator[Talker]:
    server = Talker()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def mlflow(subject, uri):
    return services.mlflow(subject(tracking={"uri": uri}))


def test_a_server_of_our_version_passes(subject, talker):
    version = metadata.version("mlflow")
    assert mlflow(subject, talker.uri) == (Status.OK, f"{talker.uri}, MLflow {version}", "")


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        (403, "--allowed-hosts"),
        (401, "MLFLOW_TRACKING_USERNAME"),
        (404, "address"),
        (302, "address"),
        (500, "address"),
    ],
)
def test_a_server_that_refuses_us_is_a_failure_with_its_own_remedy(subject, talker, code, remedy):
    talker.code = code
    found = mlflow(subject, talker.uri)
    assert found.status is Status.FAILURE
    assert f"answered {code}" in found.found
    assert remedy in found.remedy


def test_a_server_that_is_not_there_is_a_failure(subject):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    found = mlflow(subject, f"http://127.0.0.1:{port}")
    assert found.status is Status.FAILURE
    assert "refused" in found.found
    assert "reid runs sync" in found.remedy


@pytest.mark.parametrize("address", ["http://127.0.0.1:abc", "http://127.0.0.1:70000", "https://"])
def test_an_address_that_can_never_be_is_called_wrong(subject, address, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    found = services.mlflow(subject())
    assert found.status is Status.FAILURE
    assert f"{address}: wrong address" in found.found
    assert "MLFLOW_TRACKING_URI" in found.remedy
    assert services.server_clock(subject()).status is Status.OK


@pytest.mark.parametrize(
    ("version", "status"), [("2.22.0", Status.FAILURE), ("3.1.0", Status.WARNING), ("<html>", Status.WARNING)]
)
def test_a_server_of_another_version_is_told(subject, talker, version, status):
    talker.version = version
    assert mlflow(subject, talker.uri).status is status


def test_credentials_are_sent_and_never_shown(subject, talker, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hunter2")
    assert mlflow(subject, talker.uri).status is Status.OK
    assert talker.authorization == "Basic bWU6aHVudGVyMg=="
    talker.code = 401
    assert "hunter2" not in str(mlflow(subject, talker.uri))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", talker.uri.replace("//", "//you:secret@"))
    found = services.mlflow(subject())
    assert talker.authorization == "Basic eW91OnNlY3JldA=="
    assert "secret" not in str(found)


def test_the_clock_of_a_server_is_compared_with_ours(subject, talker):
    asked = subject(tracking={"uri": talker.uri})
    assert services.server_clock(asked).status is Status.OK
    talker.date = "Sun, 01 Jan 2023 00:00:00 GMT"
    found = services.server_clock(asked)
    assert found.status is Status.WARNING
    assert "behind" in found.found


def test_a_database_is_opened_or_will_be_made(subject, tmp_path):
    path = tmp_path / "mlflow.db"
    assert mlflow(subject, f"sqlite:///{path}").status is Status.OK
    path.write_bytes(b"no database" * 100)
    assert mlflow(subject, f"sqlite:///{path}").status is Status.FAILURE
    path.unlink()
    with sqlite3.connect(path) as database:
        database.execute("create table experiments (name text)")
        database.execute("insert into experiments values ('vcm')")
    assert mlflow(subject, f"sqlite:///{path}").found == f"{path}, 1 experiments"
    assert mlflow(subject, "offline").status is Status.OK
    assert mlflow(subject, "postgresql://host/db").status is Status.WARNING


def test_a_port_that_is_taken_is_a_failure(subject, monkeypatch):
    assert services.port(subject()).status is Status.OK
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        monkeypatch.setenv("MASTER_PORT", str(taken.getsockname()[1]))
        found = services.port(subject())
    assert found.status is Status.FAILURE
    assert "Address already in use" in found.found
    assert services.port(subject()).status is Status.OK
    monkeypatch.setenv("MASTER_PORT", "http")
    assert services.port(subject()).status is Status.FAILURE


def test_the_address_of_the_first_process_must_exist_and_not_be_local_to_every_node(subject, monkeypatch):
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    assert services.address(subject()).status is Status.OK
    monkeypatch.setenv("SLURM_NNODES", "2")
    assert services.address(subject()).status is Status.FAILURE
    monkeypatch.setenv("SLURM_NNODES", "")
    assert services.address(subject()).status is Status.OK
    monkeypatch.setenv("SLURM_NNODES", "two")
    with pytest.raises(ValueError, match="SLURM_NNODES='two': expected a number"):
        services.address(subject())
    monkeypatch.setenv("MASTER_ADDR", "nowhere.invalid")
    assert services.address(subject()).status is Status.FAILURE


def programs(folder, **texts: str) -> None:
    for name, text in texts.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)


def test_slurm_is_asked_for_its_version_and_whether_it_answers(subject, tmp_path, monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert services.slurm(subject()) == (Status.OK, "not installed here", "")
    programs(tmp_path, sbatch="echo slurm-wlm 22.05.8", scontrol="echo 'Slurmctld(primary) at head is DOWN'")
    assert services.slurm(subject()).status is Status.WARNING
    programs(tmp_path, scontrol="echo 'Slurmctld(primary) at head is UP'")
    assert services.slurm(subject()) == (Status.OK, "slurm-wlm 22.05.8, outside of a job", "")
    programs(tmp_path, sbatch="echo 'fatal: no configuration' >&2; exit 1")
    assert "sbatch does not work: fatal: no configuration" in services.slurm(subject()).found


def test_a_job_with_several_tasks_a_node_is_a_warning(subject, tmp_path, monkeypatch):
    programs(tmp_path, sbatch="echo slurm-wlm 22.05.8")
    for name, value in {
        "PATH": str(tmp_path),
        "SLURM_JOB_ID": "7",
        "SLURM_NTASKS": "8",
        "SLURM_NNODES": "2",
    }.items():
        monkeypatch.setenv(name, value)
    assert services.slurm(subject()).status is Status.WARNING
    monkeypatch.setenv("SLURM_NTASKS", "2")
    assert services.slurm(subject()) == (Status.OK, "slurm-wlm 22.05.8, job 7, 2 tasks on 2 nodes", "")


@pytest.mark.slurm
def test_the_installed_slurm_is_recognised(subject, monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert shutil.which("sbatch"), os.environ["PATH"]
    assert services.slurm(subject()).status is not Status.FAILURE
