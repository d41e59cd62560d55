"""Checks of what a run talks to: MLflow and its clock, the other processes of a job, Slurm."""

import os
import shutil
import socket
import sqlite3
import subprocess
import time
from importlib import metadata
from pathlib import Path

import psutil

from reid.doctor.finding import Finding, Subject, failure, ok, warning
from reid.tracking import probe
from reid.tracking.probe import Welcome
from reid.tracking.target import redacted
from reid.tracking.tracker import OFFLINE, tracking_uri_of

SQLITE = "sqlite:///"
OLDEST_SERVER = 3
SKEWED_SECONDS = 30.0
REMEDIES = {
    Welcome.UNREACHABLE: "Start the server, look at MLFLOW_TRACKING_URI and the way to it, or use --tracking.uri offline "
    "and `reid runs sync` later",
    Welcome.UNAUTHORIZED: "Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN",
    Welcome.FORBIDDEN: "Name this host's name for the server in its --allowed-hosts, or ask for the right to write",
    Welcome.MISTAKEN: "Correct MLFLOW_TRACKING_URI, or --tracking.uri",
    Welcome.STRANGE: "Look whether the address is that of an MLflow server, with its path",
}


def mlflow(subject: Subject) -> Finding:
    """Whether the server would take the run. Training never waits for it, but nobody would see the run."""
    uri = _uri(subject)
    if uri == OFFLINE:
        return ok("offline: the journal is kept, `reid runs sync` sends it later")
    if uri.startswith(SQLITE):
        return _database(Path(uri.removeprefix(SQLITE)))
    if not uri.startswith(("http://", "https://")):
        return warning(
            f"{redacted(uri)} is not asked",
            "Name a server (http://HOST) or a file (sqlite:////FOLDER/mlflow.db)",
        )
    return _server(uri)


def _server(uri: str) -> Finding:
    reply = probe.ask(uri)
    if reply.welcome is not Welcome.READY:
        return failure(reply.detail, REMEDIES[reply.welcome])
    ours = metadata.version("mlflow")
    if reply.version is None or not reply.version.split(".")[0].isdigit():
        return warning(f"{reply.detail}, of unknown version", f"Use MLflow {ours} on the server, as here")
    if int(reply.version.split(".")[0]) < OLDEST_SERVER:
        return failure(
            f"{reply.detail}, {ours} here: it cannot keep models of checkpoints",
            f"Update the server to MLflow {ours}",
        )
    if reply.version.split(".")[:2] != ours.split(".")[:2]:
        return warning(f"{reply.detail}, {ours} here", f"Use MLflow {ours} on both sides")
    return ok(reply.detail)


def _database(path: Path) -> Finding:
    if not path.exists():
        return ok(f"{path} is made with the first run")
    try:
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=2) as database:
            (number,) = database.execute("select count(*) from experiments").fetchone()
    except sqlite3.Error as error:
        return failure(
            f"{path}: {error}", "Name another with --tracking.uri; the journals of runs can fill it again"
        )
    return ok(f"{path}, {number} experiments")


def server_clock(subject: Subject) -> Finding:
    """Heartbeats are compared with other machines' clocks."""
    uri = _uri(subject)
    if not uri.startswith(("http://", "https://")):
        return ok("no server to compare with")
    told = probe.ask(uri).seconds_since_1970
    if told is None:
        return ok("the server does not tell the time")
    ahead = told - time.time()
    found = f"the server is {abs(ahead):.0f} s {'ahead' if ahead > 0 else 'behind'}"
    if abs(ahead) > SKEWED_SECONDS:
        return warning(found, "Set the clocks by NTP: runs would seem dead, or alive, when they are not")
    return ok(found)


def port(_: Subject) -> Finding:
    """Where the processes of a job would meet, if a port is chosen."""
    chosen = os.environ.get("MASTER_PORT")
    if chosen is None:
        return ok("MASTER_PORT is not set: the launcher takes a free one")
    if not chosen.isdigit() or not 0 < int(chosen) < 1 << 16:
        return failure(
            f"MASTER_PORT={chosen!r}", "Set a number below 32768, another for each job of a machine"
        )
    with socket.socket() as meeting:
        meeting.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            meeting.bind(("", int(chosen)))
        except OSError as error:
            return failure(
                f"MASTER_PORT={chosen}: {error.strerror}",
                "Choose another port, such as one from the job's id",
            )
    return ok(f"MASTER_PORT={chosen} is free")


def address(_: Subject) -> Finding:
    """Whether the machine where the processes of a job would meet has an address."""
    name = os.environ.get("MASTER_ADDR")
    if name is None:
        return ok("MASTER_ADDR is not set: all processes are on this machine")
    try:
        found = socket.gethostbyname(name)
    except OSError as error:
        return failure(f"MASTER_ADDR={name}: {error}", "Set it to the first of `scontrol show hostnames`")
    own = {one.address for interface in psutil.net_if_addrs().values() for one in interface}
    if found.startswith("127.") and _slurm_count("NNODES") > 1:
        return failure(
            f"MASTER_ADDR={name} is {found}: every node would wait for itself",
            "Name the first node of the job",
        )
    return ok(f"MASTER_ADDR={name} is {found}{', this machine' if found in own else ''}")


def slurm(_: Subject) -> Finding:
    if shutil.which("sbatch") is None:
        return ok("not installed here")
    version = _answer("sbatch", "--version")
    if not version.startswith("slurm"):
        return warning(
            f"sbatch does not work: {version}", "Look at slurm.conf, or submit from another machine"
        )
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        state = _answer("scontrol", "ping")
        if "UP" not in state:
            return warning(f"{version}, {state}", "Jobs cannot be sent now: look at slurmctld")
        return ok(f"{version}, outside of a job")
    tasks, nodes = _slurm_count("NTASKS"), _slurm_count("NNODES")
    found = f"{version}, job {job}, {tasks} tasks on {nodes} nodes"
    if tasks > nodes:
        return warning(
            found, "Ask for one task a node (--ntasks-per-node=1): a task starts a process for each GPU"
        )
    return ok(found)


def _slurm_count(name: str) -> int:
    """What Slurm says that a job has; 1 where it says nothing. Raises ValueError."""
    told = os.environ.get(f"SLURM_{name}") or "1"
    if not told.isdecimal():
        raise ValueError(f"SLURM_{name}={told!r}: expected a number, as Slurm sets it")
    return int(told)


def _answer(*command: str) -> str:
    """What a program prints in one line, or the last of what it complains about."""
    try:
        done = subprocess.run(  # noqa: S603 - our own words only
            command, capture_output=True, text=True, timeout=4, check=False
        )
    except subprocess.TimeoutExpired:
        return "no answer"
    complaints = done.stderr.strip().splitlines()
    return " ".join(done.stdout.split()) or (complaints[-1] if complaints else "no answer")


def _uri(subject: Subject) -> str:
    return tracking_uri_of(subject.folder, subject.config.tracking.uri)
