"""Real things that the tests of this folder try the tracking against: an `mlflow server`, a proxy in front of it, a
PostgreSQL server, a disk that is easily filled, and a program that trains nothing but is tracked like one that does.
"""

import math
import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from mlflow import MlflowClient

from reid.tracking import target
from reid.tracking.journal import Kind, read

IN_TIME = 45.0  # the half minute that is promised, and what a busy machine takes to tell
TRAINER = """
import subprocess, sys, time
from pathlib import Path
from reid.tracking.tracker import Tracker

run, ending = Path(sys.argv[1]), sys.argv[2]
with Tracker.open(run, experiment="endings", run_name=ending, resume=True) as tracker:
    if ending == "hurried":
        tracker.finish("FINISHED", wait_seconds=4)
        sys.exit()
    step = 0
    while not (run / "end").exists():
        found = {"train/loss": 1 / (step + 1), "train/lr": 0.1 * step}
        if step % 5 == 0:
            found["health/nonfinite"] = float("nan" if step % 2 else "inf")
        tracker.metrics(step, found)
        step += 1
        time.sleep(0.05)
    if ending == "exception":
        raise RuntimeError("diverged")
    if ending != "normal":
        subprocess.run(["sleep", "60"])  # a process of the group, as a worker would be
"""


def wait_for(condition: Callable[[], object], seconds: float) -> None:
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up, f"not within {seconds} s"
        time.sleep(0.1)


def start_trainer(run: Path, ending: str, uri: str | None = None) -> subprocess.Popen[bytes]:
    """A trainer in a group of its own, that writes twenty points a second until the file `end` is in its folder."""
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    if uri is not None:
        environment["MLFLOW_TRACKING_URI"] = uri
    command = [sys.executable, "-c", TRAINER, str(run), ending]
    return subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, start_new_session=True)


def runs_of(uri: str, experiment: str):
    """The runs of an experiment by name."""
    client = MlflowClient(uri)
    found = client.get_experiment_by_name(experiment)
    return {run.info.run_name: run for run in client.search_runs([found.experiment_id])}


def steps_in_journal(run: Path) -> list[int | None]:
    return [record.step for record in read(run) if record.kind is Kind.METRICS]


def assert_complete(uri: str, run: Path) -> None:
    """Every point of the journal is on the server, once, with its value, and no other is."""
    client, known = MlflowClient(uri), target.load(run, uri)
    assert known is not None
    there = Counter(
        (key, metric.step, str(metric.value))
        for key in client.get_run(known.run_id).data.metrics
        for metric in client.get_metric_history(known.run_id, key)
    )
    written = Counter(
        (key, record.step, str(value if math.isfinite(value) else math.nan))  # MLflow's axes bear no infinity
        for record in read(run)
        if record.kind is Kind.METRICS
        for key, value in record.data.items()
    )
    assert there == written


class Server:
    """A real `mlflow server` of one folder, which can be stopped and started again on the same port."""

    def __init__(self, folder: Path, store: str | None = None) -> None:
        self.folder = folder
        self.store = store or f"sqlite:///{folder}/mlflow.db"
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--workers", "1", "--backend-store-uri", self.store]
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


class PostgreSQL:
    """A PostgreSQL server of its own, without a password, that can be killed and started again."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.port = port
        self.store = f"postgresql+psycopg://tester@127.0.0.1:{port}/postgres"

    def control(self, action: str, *options: str) -> None:
        command = ["pg_ctl", "--pgdata", str(self.folder / "data"), "--wait", action, *options]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, **_as_postgres())

    def start(self) -> None:
        options = f"-h 127.0.0.1 -p {self.port} -k {self.folder} -c fsync=off"
        self.control("start", "--options", options, "--log", str(self.folder / "log"))

    def kill(self) -> None:
        self.control("stop", "--mode", "immediate")


@contextmanager
def postgresql() -> Iterator[PostgreSQL]:
    """Below /tmp, because its server refuses to be root's and its user may not enter root's folders."""
    folder = Path(tempfile.mkdtemp(prefix="postgresql-"))
    server = PostgreSQL(folder, free_port())
    user = _as_postgres().get("user")
    if user is not None:
        shutil.chown(folder, user)
    initdb = [
        "initdb",
        "--pgdata",
        str(folder / "data"),
        "--username",
        "tester",
        "--auth",
        "trust",
        "--no-sync",
    ]
    try:
        subprocess.run(initdb, check=True, stdout=subprocess.DEVNULL, **_as_postgres())
        server.start()
        yield server
    finally:
        if (folder / "data" / "postmaster.pid").exists():
            server.kill()
        shutil.rmtree(folder)


def _as_postgres() -> dict[str, str]:
    """PostgreSQL refuses to be root; Debian's package makes a user for it."""
    return {"user": pwd.getpwnam("postgres").pw_name, "cwd": "/"} if os.geteuid() == 0 else {}


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path | None]:
    """A file system of its own, as large as said; None where this process may not mount one."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    if subprocess.run(command, check=False, stderr=subprocess.DEVNULL).returncode != 0:
        yield None
        return
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(path: Path) -> None:
    """Write to a file until its disk is full."""
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
