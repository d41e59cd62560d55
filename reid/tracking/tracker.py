"""What the loop tells about a run: written to the journal at once, sent to MLflow by another process.

    engine -> Tracker -> RUN/journal.jsonl -> sender (its own process) -> MLflow

No call here waits for a server, and none fails because of one. A silent tracker stands in on the ranks that do not write.
"""

import logging
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Self

from reid.tracking import names
from reid.tracking.journal import Journal, Kind, read, topmost
from reid.tracking.target import redacted, servers
from reid.types import Role

OFFLINE = "offline"
TRACKING_URI = "MLFLOW_TRACKING_URI"
ADDRESS = "tracking_uri"  # in a record of START: where the run shall go, without secrets, if somebody said so
MAX_PARAM_CHARACTERS = 6000
MAX_TAG_CHARACTERS = 8000
_KEY = re.compile(r"[A-Za-z0-9_\-./]{1,250}")

log = logging.getLogger(__name__)


class Status(StrEnum):
    """How a life of a run ended. SCHEDULED: it was pre-empted and asked to be started again."""

    FINISHED = "FINISHED"
    FAILED = "FAILED"
    KILLED = "KILLED"
    SCHEDULED = "SCHEDULED"


def tracking_uri_of(run_folder: Path, chosen: str | None = None) -> str:
    """Where a run is sent: `chosen`, else MLFLOW_TRACKING_URI, else an SQLite file beside the folder of the run, or of the
    topmost one above it.
    """
    if found := chosen or os.environ.get(TRACKING_URI):
        return found
    return f"sqlite:///{topmost(run_folder.resolve()).parent / 'mlflow.db'}"


def destination_of(run_folder: Path, chosen: str | None = None) -> str:
    """Where a run is sent later: `chosen`, else MLFLOW_TRACKING_URI, else what its last start was told. A parent is never
    started: it goes to the server that its children brought it to. Else as `tracking_uri_of`.
    """
    if found := chosen or os.environ.get(TRACKING_URI):
        return found
    told = [record.data.get(ADDRESS) for record in read(run_folder) if record.kind is Kind.START]
    if not told:
        told = [address for address in servers(run_folder) if not address.startswith("sqlite:")]
    return (told and told[-1]) or tracking_uri_of(run_folder)


class Tracker:
    """The tracker of the one process that writes. Use it in a `with`: how the block ends is how the run ended.

    A point once written keeps its value: when a resumed run repeats a step, the value is compared with the journal's, and a
    difference is counted in `health/resume_mismatch`.
    """

    def __init__(self, journal: Journal, sender: "Sender | None") -> None:
        self._journal = journal
        self._sender = sender
        self._resumed_at = journal.last_step
        self._num_mismatches = 0
        self._scored_on: dict[str, str] | None = None
        self._ended = False

    @classmethod
    def open(
        cls,
        run_folder: Path,
        *,
        experiment: str,
        run_name: str,
        tracking_uri: str | None = None,
        resume: bool = False,
        parent: Path | None = None,
        uid: str | None = None,
    ) -> Self:
        """Begin or continue the run of a folder, and start its sender.

        `tracking_uri` "offline" starts none: the journal is enough, and can be sent later. `parent` is the folder of the
        run that this one is a child of. `uid` is that of the run that is continued: without its journal, it is the same run in
        MLflow nevertheless. Raises ValueError if the folder holds a run and `resume` is False.
        """
        run_folder = run_folder.resolve()
        journal = Journal.open(run_folder)
        if journal.run is not None and not resume:
            journal.close()
            raise ValueError(
                f"{run_folder}: this folder already holds the run {journal.run['name']!r}. "
                "Resume it, or choose another folder"
            )
        if journal.run is None:
            try:
                journal.introduce(experiment=experiment, name=run_name, parent=parent, uid=uid)
            except ValueError:
                journal.close()
                raise
        uri = tracking_uri_of(run_folder, tracking_uri)
        chosen = tracking_uri or os.environ.get(TRACKING_URI) or OFFLINE
        address = {} if chosen == OFFLINE else {ADDRESS: redacted(chosen)}
        journal.append(Kind.START, {"pid": os.getpid(), "host": os.uname().nodename, **address})
        tracker = cls(journal, None if uri == OFFLINE else Sender(run_folder, uri))
        inherited = journal.run.get("tags", {}) if journal.run else {}
        restarts = journal.num_starts - 1
        tracker.tags({names.Tag.RUN_FOLDER: run_folder, names.Tag.RESTARTS: restarts, **inherited})
        tracker.sync()
        return tracker

    @property
    def uid(self) -> str:
        """Who this run is, for ever."""
        assert self._journal.run is not None
        return str(self._journal.run["uid"])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.finish(Status.FINISHED)
        elif issubclass(kind, Exception):
            self.finish(Status.FAILED)
        else:
            self.finish(Status.KILLED)

    def params(self, params: Mapping[str, object]) -> None:
        """Parameters of the run. One that a resumed run changes is kept, and its new value becomes a tag."""
        wanted = {_key(key): str(value)[:MAX_PARAM_CHARACTERS] for key, value in params.items()}
        known = self._journal.params
        if new := {key: value for key, value in wanted.items() if key not in known}:
            self._journal.append(Kind.PARAMS, new)
        self.tags(
            {names.changed(key): None if known[key] == value else value for key, value in wanted.items()}
        )

    def tags(self, tags: Mapping[str, object]) -> None:
        """Facts that may change; the last value counts, and None takes a tag away. Values longer than MLflow's limit are cut."""
        wanted = {
            _key(key): None if value is None else str(value)[:MAX_TAG_CHARACTERS]
            for key, value in tags.items()
        }
        if new := {key: value for key, value in wanted.items() if self._journal.tags.get(key) != value}:
            self._journal.append(Kind.TAGS, new)

    def description(self, markdown: str) -> None:
        """The text that MLflow shows at the head of the run."""
        self.tags({names.Tag.DESCRIPTION: markdown})

    def metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Values at a step. Non-finite values are kept as they are."""
        new: dict[str, float] = {}
        for key, number in metrics.items():
            value = float(number)
            known = self._journal.points.get((_key(key), step))
            if known is None:
                new[key] = value
            elif names.is_repeatable(key) and not known.equals(value):
                self._num_mismatches += 1
                log.warning(
                    "%s at step %d is %r, and was %r before the run was resumed",
                    key,
                    step,
                    value,
                    known.value,
                )
        if new and step > self._resumed_at >= 0:
            new[names.Metric.RESUME_MISMATCH] = float(self._num_mismatches)
            self._resumed_at = -1
        if new:
            self._journal.append(Kind.METRICS, new, step)
        if (stage := metrics.get(names.Metric.STAGE)) is not None:
            self.tags({names.Tag.STAGE: int(stage)})

    def artifact(self, path: Path, folder: str) -> None:
        """A file of the run folder that MLflow shall keep in `folder`. It is sent as it is when its turn comes."""
        self._journal.append(Kind.ARTIFACT, {"path": self._inside(path), "folder": folder})

    def dataset(self, name: str, digest: str, role: str, source: str, profile: Mapping[str, object]) -> None:
        """A data set this run reads: `role` is train, query or gallery; `source` its root; `profile` counts of it.

        Scores of checkpoints are those of the query.
        """
        data = {"name": name, "digest": digest, "role": role, "source": source, "profile": dict(profile)}
        self._journal.append(Kind.DATASET, data)
        if role == Role.QUERY:
            self._scored_on = {"name": name, "digest": digest}

    def checkpoint(self, path: Path, digest: str, step: int, metrics: Mapping[str, float]) -> None:
        """A published checkpoint and its scores. Its path and digest are sent, not its weights."""
        self.metrics(step, metrics)
        times = {key: self._journal.points[key, step].time for key in metrics}
        values = {key: str(float(value)) for key, value in metrics.items()}
        data = {
            "path": self._inside(path),
            "digest": digest,
            "values": values,
            "times": times,
            "dataset": self._scored_on,
        }
        self._journal.append(Kind.CHECKPOINT, data, step)
        self.tags({names.Tag.LAST_CHECKPOINT: f"{data['path']} (step {step}, sha256 {digest[:12]})"})
        self.sync()

    def sync(self) -> None:
        """Bring the journal to the disk, and see that the sender lives. Call it with each checkpoint."""
        self._journal.sync()
        if self._sender is not None:
            self._sender.ensure_running()

    def finish(self, status: str, wait_seconds: float | None = None) -> None:
        """End this life of the run, and wait for the sender to complete. A second call does nothing.

        The wait is at most `wait_seconds`: by default 30, and 3 for a run that is being stopped, as machines that stop a
        run give it little time. The sender goes on for as long as it may.
        """
        if self._ended:
            return
        self._ended = True
        self._journal.append(Kind.FINISH, {"status": Status(status)})
        self._journal.close()
        if wait_seconds is None:
            wait_seconds = 3.0 if status in (Status.SCHEDULED, Status.KILLED) else 30.0
        if self._sender is not None:
            self._sender.wait(wait_seconds)

    def _inside(self, path: Path) -> str:
        folder = self._journal.path.parent
        resolved = path.resolve()
        if not resolved.exists():
            raise ValueError(f"{path}: no such file")
        if not resolved.is_relative_to(folder):
            raise ValueError(
                f"{path}: lies outside the run folder {folder}, so it could not be sent from elsewhere"
            )
        return resolved.relative_to(folder).as_posix()


class SilentTracker(Tracker):
    """Has the tracker's methods and writes nothing: for the ranks that do not track, and for runs that nobody tracks."""

    def __init__(self) -> None:
        pass

    @property
    def uid(self) -> str:
        return ""

    def params(self, params: Mapping[str, object]) -> None:
        pass

    def tags(self, tags: Mapping[str, object]) -> None:
        pass

    def metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        pass

    def artifact(self, path: Path, folder: str) -> None:
        pass

    def dataset(self, name: str, digest: str, role: str, source: str, profile: Mapping[str, object]) -> None:
        pass

    def checkpoint(self, path: Path, digest: str, step: int, metrics: Mapping[str, float]) -> None:
        pass

    def sync(self) -> None:
        pass

    def finish(self, status: str, wait_seconds: float | None = None) -> None:
        pass


class Sender:
    """The process that sends the journal. It outlives the trainer by 30 s at most."""

    def __init__(self, run_folder: Path, tracking_uri: str) -> None:
        self._run_folder = run_folder
        self._tracking_uri = tracking_uri
        self._process: subprocess.Popen[bytes] | None = None

    def ensure_running(self) -> subprocess.Popen[bytes]:
        """The process, started if there is none, in a session of its own: signals to the trainer's group miss it."""
        if self._process is not None and self._process.poll() is None:
            return self._process
        package_root = Path(__file__).parents[2]
        python_path = os.pathsep.join(filter(None, [str(package_root), os.environ.get("PYTHONPATH")]))
        environment = {
            **os.environ,
            TRACKING_URI: self._tracking_uri,
            "PYTHONPATH": python_path,
            "CUDA_VISIBLE_DEVICES": "",
            "OMP_NUM_THREADS": "1",
        }
        command = [
            sys.executable,
            "-m",
            "reid.tracking.sender",
            str(self._run_folder),
            "--watch",
            str(os.getpid()),
        ]
        with (self._run_folder / "sender.log").open("ab") as output:
            self._process = subprocess.Popen(  # noqa: S603
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        return self._process

    def wait(self, seconds: float) -> None:
        """Wait for the process to end; say how to complete what it leaves."""
        process = self._process
        if process is None or process.poll() not in (None, 0):
            process = self.ensure_running()
        try:
            is_complete = process.wait(seconds) == 0
        except subprocess.TimeoutExpired:
            is_complete = False
        if not is_complete:
            log.warning(
                "MLflow does not have all of this run yet. The journal has: if the sender cannot complete it, do so with "
                "`reid runs sync %s`",
                self._run_folder,
            )


def _key(key: str) -> str:
    if not _KEY.fullmatch(key):
        raise ValueError(
            f"{key!r}: a name holds 1 to 250 letters, digits, '_', '-', '.' or '/', as MLflow demands"
        )
    return str(key)
