"""What `reid train` and `reid evaluate` do: open the data, the run's folder and the tracker, and let the engine work."""

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from reid import config as configuration
from reid.config import Config, ConfigError
from reid.data.dataset import open_dataset
from reid.data.manifest import Manifest
from reid.evaluation.retrieval import Evaluation, Evaluator, Protocol
from reid.model.resnet import pretrained
from reid.runtime import Runtime
from reid.tracking import names
from reid.tracking.tracker import SilentTracker, Status, Tracker
from reid.training import build, checkpoint, provenance
from reid.training.checkpoint import Snapshot
from reid.training.engine import Engine
from reid.types import Role

FREE_TO_CHANGE = (  # when a run continues: where and how often, never what
    "data.cache",
    "data.num_workers",
    "data.quarantine_frames",
    "data.root",
    "engine.checkpoint_every_steps",
    "engine.device",
    "engine.keep_checkpoints",
    "engine.log_every_steps",
    "evaluation.batch_clips",
    "evaluation.every_epochs",
    "tracking.",
)
REQUEUE, RESOLVED = "requeue", "config.yaml"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Scored:
    """Scores and all that is printed beside them."""

    evaluation: Evaluation
    manifest: Manifest
    protocol: Protocol
    step: int
    checkpoint: Path

    @property
    def labels(self) -> dict[str, Any]:
        """What a table of these scores must say: under which protocol, and whether the data is synthetic."""
        return {"protocol": self.protocol.describe(self.manifest), "synthetic": self.manifest.synthetic}


Publish = Callable[[Scored], tuple[list[Path], str]]


def train(config: Config, folder: Path, publish: Publish, *, resume: bool) -> Scored | None:
    """Train in `folder`, from the newest valid checkpoint there if `resume`. None if a signal ended it before the end.

    Called by every process of a launch. `publish` makes the files that shall be kept with the final scores, and the
    text that describes the run. Raises ConfigError or ValueError for a mistake of the user, before the first iteration.
    """
    manifest = open_data(config)
    place = manifest.place.resolve() if isinstance(manifest.place, Path) else manifest.place
    cache = config.data.cache and config.data.cache.resolve()
    config = configuration.changed(config, {"data": {"root": place, "cache": cache}})  # found from any folder
    runtime = _runtime(config)
    try:
        return _train(config, folder, manifest, runtime, publish, resume=resume)
    finally:
        runtime.end()


def _train(
    config: Config, folder: Path, manifest: Manifest, runtime: Runtime, publish: Publish, *, resume: bool
) -> Scored | None:
    plan = build.batch_plan(config, manifest)
    plan.pairs_per_process(runtime.world)  # an impossible split is refused here
    log.info(
        "%d identities to train on, %d more without tracklets of the required length in both modalities",
        len(plan.identities),
        len(plan.left_out),
    )
    with torch.device("meta"):
        build.network(config, manifest.num_identities)  # so is an impossible network
    start = runtime.decide(lambda: _start_from(config, folder, manifest.digest, resume=resume))
    weights = None if start else pretrained(config.model.weights, config.model.backbone)
    if runtime.leads:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / REQUEUE).unlink(missing_ok=True)
    with runtime.leader(lambda: _tracker(config, folder, resume=resume), SilentTracker) as tracker:
        _describe(config, manifest, runtime, tracker, folder)
        engine = Engine(config, manifest, runtime, tracker, folder)
        if weights is not None:
            engine.network.load_pretrained(weights)
        if start is not None:
            engine.restore(checkpoint.load(start))
            log.info("continuing at step %d from %s", engine.step, start)
        ending = engine.run()
        if ending.signal is not None:
            _leave(ending.signal, folder, runtime, tracker)
            return None
        evaluation = ending.evaluation or engine.evaluate()
        scored = Scored(evaluation, manifest, engine.evaluator.protocol, engine.step, engine.newest)
        if runtime.leads:
            pictures, description = publish(scored)
            for path in pictures:
                tracker.artifact(path, names.Folder.PICTURES)
            tracker.description(f"{description}\n{_as_code(configuration.explanation(config))}")
    return scored


def evaluate(path: Path, config: Config, snapshot: Snapshot) -> Scored:
    """Score the weights of `snapshot`, read from `path`, as `config` says."""
    try:
        manifest = open_data(config)
    except ValueError as error:
        raise ValueError(
            f"{error}\nWhat lies elsewhere on this machine than where the run was trained is named with --root and --cache."
        ) from error
    runtime = _runtime(config)
    try:
        network = build.network(config, snapshot.state["num_identities"])
        network.load_state_dict(snapshot.weights)
        runtime.prepare(network)
        protocol = build.protocol(config)
        evaluation = Evaluator(network, manifest, protocol, runtime, config.data.num_workers).evaluate()
        return Scored(evaluation, manifest, protocol, snapshot.step, path)
    finally:
        runtime.end()


def read_checkpoint(path: Path) -> tuple[Path, Config, Snapshot]:
    """A checkpoint, or the newest valid one of a run's folder, and the configuration it was trained with.

    Raises ValueError if there is none.
    """
    found = path if (path / checkpoint.CONTENTS).exists() else checkpoint.newest(path / "checkpoints")
    if found is None:
        raise ValueError(f"{path}: neither a checkpoint nor the folder of a run with a valid one")
    snapshot = checkpoint.load(found)
    return found, configuration.from_dict(snapshot.state["config"], str(found)), snapshot


def open_data(config: Config) -> Manifest:
    """The packed data set of the configuration. Raises ConfigError if none is named."""
    if config.data.root is None:
        raise ConfigError(
            "data.root: no data set is named; pack one with `python -m preprocess pack` and give its folder"
        )
    return open_dataset(config.data.root, config.data.cache, config.data.cache_gigabytes)


def _runtime(config: Config) -> Runtime:
    return Runtime.start(
        precision=config.engine.precision,
        device=config.engine.device,
        seed=config.seed,
        deterministic=config.engine.deterministic,
    )


def _start_from(config: Config, folder: Path, digest: str, *, resume: bool) -> Path | None:
    """The checkpoint to continue from; None at the beginning.

    Raises ConfigError where continuing would not continue the same run.
    """
    found, begun = checkpoint.newest(folder / "checkpoints"), folder / RESOLVED
    if found is None and not begun.exists():
        return None
    if not resume:
        raise ConfigError(
            f"{folder}: holds a run{f' with the checkpoint {found.name}' if found else ''}; continue it with --resume, "
            "or name another folder with --run"
        )
    if found is None:
        former, data_set = configuration.from_yaml(begun), digest
    else:
        state = json.loads((found / checkpoint.STATE).read_text())
        former, data_set = configuration.from_dict(state["config"], str(found)), state["dataset"]["digest"]
    changes = [
        f"  {key}: {old!r} when the run began, {new!r} now"
        for key, (old, new) in configuration.difference(config, former).items()
        if not key.startswith(FREE_TO_CHANGE)
    ]
    if data_set != digest:
        changes.append(f"  the data set: {data_set[:12]} when the run began, {digest[:12]} now")
    if changes:
        raise ConfigError(
            "\n".join([f"{folder}: --resume continues a run as it began; start another with --run", *changes])
        )
    return found


def _tracker(config: Config, folder: Path, *, resume: bool) -> Tracker:
    return Tracker.open(
        folder,
        experiment=config.tracking.experiment,
        run_name=config.tracking.run_name or folder.resolve().name,
        tracking_uri=config.tracking.uri,
        resume=resume,
    )


def _describe(config: Config, manifest: Manifest, runtime: Runtime, tracker: Tracker, folder: Path) -> None:
    """Tell the tracker what this run is: parameters, tags, data sets, and the configuration as files."""
    if not runtime.leads:
        return
    resolved = configuration.to_yaml(config)
    partial = folder / f".{RESOLVED}"
    partial.write_text(resolved)
    partial.replace(folder / RESOLVED)  # --resume reads it: never half of one
    difference = configuration.explanation(config)
    (folder / "difference.yaml").write_text(difference)
    (folder / "environment.txt").write_text(provenance.environment())
    tracker.params(_params(config, manifest, runtime))
    tracker.tags(
        {
            names.Tag.CONFIG_SHA: hashlib.sha256(resolved.encode()).hexdigest(),
            names.Tag.SYNTHETIC: manifest.synthetic,
            **provenance.tags(),
        }
    )
    tracker.description(_as_code(difference))
    for role in Role:
        rows = manifest.rows(role, minimum_frames=config.data.minimum_frames)
        profile = {"tracklets": len(rows), "frames": int(manifest.num_frames[rows].sum())}
        tracker.dataset(f"{manifest.name}-{role}", manifest.digest, role, str(manifest.place), profile)
    for name in (RESOLVED, "difference.yaml", "environment.txt"):
        tracker.artifact(folder / name, names.Folder.CONFIG)


def _as_code(yaml: str) -> str:
    """YAML as Markdown shows it."""
    return f"```yaml\n{yaml}```\n"


def _params(config: Config, manifest: Manifest, runtime: Runtime) -> dict[str, Any]:
    data, model, objective = config.data, config.model, config.objective
    return {
        names.Param.VARIANT: model.variant,
        names.Param.RECIPE: config.schedule.recipe,
        names.Param.WEIGHTS: model.weights,
        names.Param.BACKBONE: model.backbone,
        names.Param.LAMBDA1: objective.lambda1,
        names.Param.LAMBDA2: objective.lambda2,
        names.Param.LAMBDA3: objective.lambda3,
        names.Param.LEARNING_RATE: config.optimizer.learning_rate,
        names.Param.TRIPLET: config.triplet_distance,
        names.Param.IDENTITIES_PER_BATCH: data.num_identities,
        names.Param.TRACKLETS_PER_IDENTITY: data.num_tracklets,
        names.Param.FRAMES_PER_CLIP: data.clip_frames,
        names.Param.SIZE: f"{data.height}x{data.width}",
        names.Param.SEED: config.seed,
        names.Param.PRECISION: config.engine.precision,
        names.Param.WORLD_SIZE: runtime.world,
        names.Param.STEPS: config.num_steps,
        names.Param.PROTOCOL: build.protocol(config).describe(manifest),
        names.Param.DATASET: manifest.name,
        names.Param.DATASET_DIGEST: manifest.digest[:12],
    }


def _leave(signal: str, folder: Path, runtime: Runtime, tracker: Tracker) -> None:
    """End on a signal. A marker asks whoever started the job to start it again; an interrupt by hand leaves none.

    All leave together: the launcher ends the others as soon as one has left, and the leading one has most to do.
    """
    again = signal != "SIGINT"
    if runtime.leads and again:
        (folder / REQUEUE).write_text(f"{signal}\n")
    log.warning("stopped by %s; the checkpoint is published, continue with --resume", signal)
    tracker.finish(Status.SCHEDULED if again else Status.KILLED)
    runtime.wait()
