"""Replays a journal into MLflow. The only file that imports mlflow, and never in the process that trains.

    records -> batches of metrics, parameters and tags; artifacts, data sets and checkpoints one by one -> the server

Replaying is idempotent: a point is the same (key, step, value, time) however often it is sent, and everything that MLflow
would double (runs, models, links) is looked for before it is made. MLflow chooses the id of a run itself, so a run is found
by the uid that its journal opens with; where it lies and how far it was sent stands in `RUN/mlflow.json`, by server.
"""

import fcntl
import json
import logging
import math
import os
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO
from urllib.parse import unquote, urlsplit

from reid.tracking import names, target, view
from reid.tracking.journal import Kind, Record, header, retagged, seal_before
from reid.tracking.target import AddressError, Target, redacted

REFUSED_NAME = "refused.jsonl"
MAX_METRICS = 1000
MAX_PARAMS = 100
MAX_DIGEST_CHARACTERS = 36
_SQLITE = "sqlite:///"

log = logging.getLogger(__name__)


def quiet_environment() -> None:
    """Settings that mlflow reads when it is imported: no telemetry, and no call that waits for minutes."""
    for name, value in {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
        "MLFLOW_ENABLE_ASYNC_LOGGING": "false",
        "MLFLOW_CONFIGURE_LOGGING": "false",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "GIT_PYTHON_REFRESH": "quiet",
    }.items():
        os.environ.setdefault(name, value)


def _mlflow() -> Any:
    quiet_environment()
    import mlflow  # noqa: PLC0415  # takes seconds, and must see the environment

    logging.getLogger("alembic").setLevel(logging.WARNING)  # it tells of every table of an SQLite file
    return mlflow


def client_of(tracking_uri: str) -> Any:
    """MLflow's client for a server or store. User and password of an address go where MLflow looks for them and does not
    print them: into the environment of this process. Raises AddressError.
    """
    target.require_possible(tracking_uri)
    address = urlsplit(tracking_uri)
    if address.scheme in {"http", "https"} and address.username:
        os.environ["MLFLOW_TRACKING_USERNAME"] = unquote(address.username)
        os.environ["MLFLOW_TRACKING_PASSWORD"] = unquote(address.password or "")
        tracking_uri = address._replace(netloc=address.netloc.rpartition("@")[2]).geturl()
    mlflow = _mlflow()
    try:
        return mlflow.MlflowClient(tracking_uri)
    except mlflow.MlflowException as error:
        if error.error_code != "INVALID_PARAMETER_VALUE":
            raise
        raise AddressError(
            f"{redacted(tracking_uri)}: MLflow has no such kind of address; {target.EXPECTED}"
        ) from error


class RunLostError(RuntimeError):
    """The server has forgotten a run that it had: its database was lost or replaced."""


class RunDeletedError(RuntimeError):
    """Somebody deleted the run in MLflow's pages, from where it can be restored."""


class Replay:
    """One run on one server. `send` may fail at any time, and is then called again with the same records."""

    def __init__(self, run_folder: Path, tracking_uri: str) -> None:
        self._mlflow = _mlflow()
        self._run_folder = run_folder
        self._uri = tracking_uri
        self._header = header(run_folder)
        self._client: Any = None
        self._target: Target | None = None

    @property
    def offset(self) -> int:
        """Bytes of the journal that this server has, as far as this machine knows."""
        known = target.load(self._run_folder, self._uri)
        if known is None:
            return 0
        if known.offset and known.seal != seal_before(self._run_folder, known.offset):
            log.warning(
                "%s: the journal is not the one that %s was sent; sending all of it again",
                self._run_folder,
                redacted(self._uri),
            )
            known.offset = 0
            target.save(self._run_folder, self._uri, known)
        return known.offset

    @property
    def is_nested(self) -> bool:
        """Whether the run was put below its parent on this server."""
        known = target.load(self._run_folder, self._uri)
        return known is not None and known.has_parent

    def connect(self, started: float) -> Target:
        """Find the run on the server, or make it (`started`: seconds since 1970)."""
        if self._target is not None:
            return self._target
        with _first_use_alone(self._uri):
            self._client = client_of(self._uri)
            experiment_id = self._experiment()
        known = target.load(self._run_folder, self._uri)
        if known is not None:
            with self._noticing_a_loss():
                self._require_active(known)
        else:
            run_id = self._find_run(experiment_id, self._header["uid"])
            known = Target(experiment_id, run_id or self._create_run(experiment_id, started))
            target.save(self._run_folder, self._uri, known)
        self._target = known
        return known

    def send(self, records: list[Record], offset: int) -> None:
        """Bring records to the server; `offset` is where the journal continues behind them.

        Raises whatever MLflow and its transport raise, and RunDeletedError; nothing is then counted as sent. RunLostError:
        send again from the beginning of the journal. A record that the server refuses for what it says is written to
        `RUN/refused.jsonl`, and the others go on.
        """
        run = self.connect(records[0].time)
        with self._noticing_a_loss():
            for group in _groups(records):
                try:
                    self._send_group(run, group)
                except self._mlflow.MlflowException as error:
                    if error.error_code != "INVALID_PARAMETER_VALUE":
                        raise
                    self._require_active(run)  # MLflow has no other word for a run that was deleted
                    for record in group:
                        self._send_or_refuse(run, record)
            self._link_parent(run)
        run.offset, run.seal = offset, seal_before(self._run_folder, offset)
        target.save(self._run_folder, self._uri, run)

    def nest(self) -> None:
        """Put the run, which was sent, below its parent, if that is there."""
        run = self.connect(0.0)
        self._link_parent(run)
        target.save(self._run_folder, self._uri, run)

    def beat(self, now: float) -> None:
        """Tell the server that the run lives, also if it was reaped meanwhile. `now` in seconds since 1970."""
        run = self.connect(now)
        self._client.set_tag(run.run_id, names.Tag.HEARTBEAT, str(int(now)))
        self._client.update_run(run.run_id, status="RUNNING")
        self._remove_tags(run, [names.Tag.ENDED_BY])

    def _require_active(self, run: Target) -> None:
        if self._client.get_run(run.run_id).info.lifecycle_stage == "deleted":
            raise RunDeletedError(
                f"{self._run_folder}: the run was deleted on {redacted(self._uri)}, and takes nothing. Nothing is lost: "
                f"restore it there (`mlflow runs restore --run-id {run.run_id}`) and send it again"
            )

    def _experiment(self) -> str:
        """The id of the experiment, which is made if there is none, with what its pages need."""
        name = self._header["experiment"]
        found = self._client.get_experiment_by_name(name) or self._create_experiment(name)
        for key, value in view.experiment_tags(found.experiment_id).items():
            if key not in found.tags:
                self._client.set_experiment_tag(found.experiment_id, key, value)
        return str(found.experiment_id)

    def _create_experiment(self, name: str) -> Any:
        beside = None
        if self._uri.startswith(_SQLITE):
            beside = (Path(self._uri.removeprefix(_SQLITE)).parent / "artifacts" / _as_folder(name)).as_uri()
        try:
            self._client.create_experiment(name, artifact_location=beside)
        except self._mlflow.MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        return self._client.get_experiment_by_name(name)

    def _find_run(self, experiment_id: str, uid: str) -> str | None:
        found = self._client.search_runs([experiment_id], f"tags.{names.Tag.RUN_UID} = '{uid}'")
        return found[0].info.run_id if found else None

    def _create_run(self, experiment_id: str, started: float) -> str:
        tags = {names.Tag.RUN_UID: self._header["uid"]}
        run = self._client.create_run(experiment_id, _milliseconds(started), tags, self._header["name"])
        return str(run.info.run_id)

    def _link_parent(self, run: Target) -> None:
        """MLflow nests a run below another by that one's id, which exists only once that one was sent."""
        if self._header["parent_uid"] and not run.has_parent:
            parent = self._find_run(run.experiment_id, self._header["parent_uid"])
            if parent:
                self._client.set_tag(run.run_id, names.Tag.PARENT, parent)
                run.has_parent = True

    @contextmanager
    def _noticing_a_loss(self) -> Iterator[None]:
        try:
            yield
        except self._mlflow.MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            self._target = None
            target.save(self._run_folder, self._uri, None)
            raise RunLostError(f"{redacted(self._uri)} no longer has this run: {error}") from error

    def _send_or_refuse(self, run: Target, record: Record) -> None:
        try:
            self._send_group(run, [record])
        except self._mlflow.MlflowException as error:
            if error.error_code != "INVALID_PARAMETER_VALUE":
                raise
            self._refuse(record, str(error))

    def _refuse(self, record: Record, reason: str) -> None:
        log.error("record %d (%s) cannot be sent: %s", record.sequence, record.kind, reason)
        with (self._run_folder / REFUSED_NAME).open("a") as file:
            told = {"server": redacted(self._uri), "sequence": record.sequence, "reason": redacted(reason)}
            file.write(json.dumps(told) + "\n")

    def _send_group(self, run: Target, group: list[Record]) -> None:
        record = group[0]
        match record.kind:
            case Kind.METRICS | Kind.PARAMS | Kind.TAGS:
                self._send_values(run, group)
            case Kind.ARTIFACT:
                path = self._run_folder / record.data["path"]
                if path.exists():
                    self._client.log_artifact(run.run_id, str(path), record.data["folder"])
                else:
                    self._refuse(record, f"{path} is no longer there")
            case Kind.DATASET:
                self._send_dataset(run, record)
            case Kind.CHECKPOINT:
                self._send_checkpoint(run, record)
            case Kind.START:
                self._client.update_run(run.run_id, status="RUNNING")
                self._remove_tags(run, [names.Tag.ENDED_BY])
            case Kind.FINISH:
                self._send_end(run, record)
            case Kind.RUN:
                pass

    def _send_end(self, run: Target, record: Record) -> None:
        """How a life ended, and who says so; what `reap` guessed before does not count any more."""
        if record.data["status"] == "SCHEDULED":
            self._client.update_run(run.run_id, status="SCHEDULED")
        else:
            self._client.set_terminated(run.run_id, record.data["status"], _milliseconds(record.time))
        if reason := record.data.get(names.Tag.ENDED_BY):
            self._client.set_tag(run.run_id, names.Tag.ENDED_BY, reason)
        else:
            self._remove_tags(run, [names.Tag.ENDED_BY])

    def _send_values(self, run: Target, group: list[Record]) -> None:
        entities = self._mlflow.entities
        metrics, params = [], []
        tags: dict[str, str | None] = {}
        for record in group:
            for key, value in record.data.items():
                if record.kind is Kind.METRICS:
                    metrics.append(
                        entities.Metric(key, _plottable(value), _milliseconds(record.time), record.step)
                    )
                elif record.kind is Kind.PARAMS:
                    params.append(entities.Param(key, value))
                else:
                    tags[key] = value
        set_tags = [entities.RunTag(key, value) for key, value in retagged({}, tags).items()]
        self._client.log_batch(run.run_id, metrics=metrics, params=params, tags=set_tags)
        self._remove_tags(run, [key for key, value in tags.items() if value is None])

    def _remove_tags(self, run: Target, keys: Sequence[str]) -> None:
        """Take tags away, those that are there: MLflow knows no other way to ask for it."""
        there = self._client.get_run(run.run_id).data.tags if keys else {}
        for key in keys:
            if key in there:
                self._client.delete_tag(run.run_id, key)

    def _send_dataset(self, run: Target, record: Record) -> None:
        entities, data = self._mlflow.entities, record.data
        dataset = entities.Dataset(
            name=data["name"],
            digest=data["digest"][:MAX_DIGEST_CHARACTERS],
            source_type="local",
            source=json.dumps({"uri": data["source"]}),
            profile=json.dumps(data["profile"]),
        )
        context = [entities.InputTag(names.CONTEXT_OF_DATASET, data["role"])]
        self._client.log_inputs(run.run_id, [entities.DatasetInput(dataset, context)])

    def _send_checkpoint(self, run: Target, record: Record) -> None:
        """A model that stands for the checkpoint: its name, its scores on their data set, and a link from the run."""
        entities, data, step = self._mlflow.entities, record.data, record.step or 0
        tags = {
            names.ModelTag.PATH: data["path"],
            names.ModelTag.DIGEST: data["digest"],
            names.ModelTag.STEP: str(step),
        }
        same = f"source_run_id = '{run.run_id}' AND tags.{names.ModelTag.STEP} = '{step}'"
        found = self._client.search_logged_models([run.experiment_id], same, max_results=1)
        model = found[0] if found else None
        if model is None:
            name = f"{_as_folder(self._header['name'])}-step-{step}"
            model = self._client.create_logged_model(run.experiment_id, name, run.run_id, tags)
        dataset = data.get("dataset") or {"name": None, "digest": ""}
        metrics = [
            entities.Metric(
                key,
                _plottable(float(value)),
                _milliseconds(data["times"][key]),
                step,
                model_id=model.model_id,
                dataset_name=dataset["name"],
                dataset_digest=dataset["digest"][:MAX_DIGEST_CHARACTERS] or None,
            )
            for key, value in data["values"].items()
        ]
        if metrics:
            self._client.log_batch(run.run_id, metrics=metrics)
        self._client.finalize_logged_model(model.model_id, "READY")
        outputs = self._client.get_run(run.run_id).outputs
        if all(output.model_id != model.model_id for output in (outputs.model_outputs if outputs else [])):
            self._client.log_outputs(run.run_id, [entities.LoggedModelOutput(model.model_id, step)])


def num_refused(run_folder: Path, tracking_uri: str) -> int:
    """Records of a run that a server refused, now or before, by `RUN/refused.jsonl`."""
    path = run_folder / REFUSED_NAME
    refused = set()
    for line in path.read_text().splitlines() if path.exists() else ():
        with suppress(ValueError):  # a line that a power loss cut short
            told = json.loads(line)
            refused |= {told["sequence"]} if told["server"] == redacted(tracking_uri) else set()
    return len(refused)


def _groups(records: Iterable[Record]) -> Iterator[list[Record]]:
    """Runs of metrics, of parameters or of tags within MLflow's limits a request; any other record alone."""
    limits = {Kind.METRICS: MAX_METRICS, Kind.PARAMS: MAX_PARAMS, Kind.TAGS: MAX_PARAMS}
    group: list[Record] = []
    size = 0
    for record in records:
        limit = limits.get(record.kind, 0)
        if group and (record.kind is not group[0].kind or size + len(record.data) > limit):
            yield group
            group, size = [], 0
        group.append(record)
        size += len(record.data)
    if group:
        yield group


def _plottable(value: float) -> float:
    """MLflow stores an infinity as 1.8e308, which ruins every axis: the journal keeps it, MLflow gets NaN."""
    return value if math.isfinite(value) else math.nan


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)


def _as_folder(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]", "_", name)


@contextmanager
def _first_use_alone(uri: str) -> Iterator[TextIO | None]:
    """Processes that create the tables of one SQLite file at the same time break each other: one after the other."""
    if not uri.startswith(_SQLITE):
        yield None
        return
    database = Path(uri.removeprefix(_SQLITE))
    database.parent.mkdir(parents=True, exist_ok=True)
    with database.with_suffix(".lock").open("w") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)
        yield lock


def reap(tracking_uri: str, experiment: str, silent_seconds: float) -> list[str]:
    """Close runs of a server whose sender has been silent: their node is gone. Returns their names.

    A run without any heartbeat was not sent by us, and is left alone. Raises ValueError if there is no such experiment, and
    ConnectionError if the server does not answer.
    """
    mlflow = _mlflow()
    try:
        return _reap(client_of(tracking_uri), experiment, silent_seconds)
    except mlflow.MlflowException as error:
        raise ConnectionError(f"{redacted(tracking_uri)}: {redacted(str(error).splitlines()[0])}") from error


def _reap(client: Any, experiment: str, silent_seconds: float) -> list[str]:
    found = client.get_experiment_by_name(experiment)
    if found is None:
        raise ValueError(f"the server has no experiment {experiment!r}; name one with --experiment")
    ours = f"attributes.status = 'RUNNING' AND tags.{names.Tag.HEARTBEAT} LIKE '%'"
    closed = []
    for run in client.search_runs([found.experiment_id], ours):
        beat = float(run.data.tags[names.Tag.HEARTBEAT])
        if time.time() - beat > silent_seconds:
            client.set_tag(run.info.run_id, names.Tag.ENDED_BY, "silence: its node has vanished")
            client.set_terminated(run.info.run_id, "KILLED", _milliseconds(beat))
            closed.append(run.info.run_name)
    return closed


def checkpoint_of(tracking_uri: str, model_id: str) -> tuple[Path, str]:
    """Where the checkpoint lies that a model stands for, on the machine that trained it, and its sha256.

    Raises ValueError if there is no such model, or one of another origin; ConnectionError if the server does not answer.
    """
    mlflow = _mlflow()
    try:
        client = client_of(tracking_uri)
        model = client.get_logged_model(model_id)
        folder = client.get_run(model.source_run_id).data.tags[names.Tag.RUN_FOLDER]
        return Path(folder) / model.tags[names.ModelTag.PATH], model.tags[names.ModelTag.DIGEST]
    except KeyError as error:
        raise ValueError(
            f"{model_id}: this model stands for no checkpoint of ours; it has no tag {error}"
        ) from error
    except mlflow.MlflowException as error:
        told = redacted(str(error).splitlines()[0])
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            raise ValueError(
                f"{redacted(tracking_uri)}: there is no model {model_id!r} ({told}); MLflow's pages show the id of each"
            ) from error
        raise ConnectionError(f"{redacted(tracking_uri)}: {told}") from error
