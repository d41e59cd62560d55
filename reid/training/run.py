"""What `reid train` and `reid evaluate` do: open the data, the run's folder and the tracker, and let the engine work."""

import hashlib
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from reid import config as configuration
from reid.config import Config, ConfigError
from reid.data.dataset import open_dataset
from reid.data.manifest import Manifest
from reid.evaluation.retrieval import Evaluator, Found
from reid.evaluation.robustness import Conditions, Robustness, examine, require_plain
from reid.model.resnet import pretrained
from reid.runtime import Runtime
from reid.signals import MARKER, Stopped
from reid.tracking import family, names
from reid.tracking.tracker import SilentTracker, Status, Tracker
from reid.training import build, checkpoint, initialisation, provenance
from reid.training.checkpoint import Snapshot
from reid.training.compilation import require_compiler
from reid.training.engine import Engine
from reid.training.resume import RESOLVED, Start, start_of
from reid.types import Role, ToldElsewhereError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Scored(Found):
    """What was found, and all that is printed beside it. `robustness` is there where conditions were asked for."""

    step: int
    checkpoint: Path
    robustness: Robustness | None = None

    @property
    def labels(self) -> dict[str, Any]:
        """What a table of these scores must say: under which protocol, and whether the data is synthetic."""
        return {"protocol": self.protocol.describe(self.manifest), "synthetic": self.manifest.synthetic}


Publish = Callable[[Scored], tuple[list[Path], str]]


def train(
    config: Config, folder: Path, publish: Publish, *, resume: bool, accept_changes: bool = False
) -> Scored | None:
    """Train in `folder`, from the newest valid checkpoint there if `resume`. None if a signal ended it before the end.

    Called by every process of a launch. `publish` makes the files that shall be kept with the final scores, and the
    text that describes the run. A resumed run goes on with another configuration only if it shall `accept_changes`.
    Raises ConfigError or ValueError for a mistake of the user, before the first iteration; RuntimeError if `publish` fails.
    """
    manifest = open_data(config)
    place = manifest.place.resolve() if isinstance(manifest.place, Path) else manifest.place
    cache = config.data.cache and config.data.cache.resolve()
    config = configuration.changed(config, {"data": {"root": place, "cache": cache}})  # found from any folder
    runtime = _runtime(config)
    try:
        with runtime.watched(folder / "processes", config.engine.hang_timeout_seconds):
            runtime.doing("choosing where to begin", 0)
            start = runtime.decide(
                lambda: start_of(
                    config, folder, manifest.digest, resume=resume, accept_changes=accept_changes
                )
            )
            return _train(start, folder, manifest, runtime, publish, resume=resume)
    finally:
        with suppress(OSError):  # a run that was refused leaves nothing behind, one that began is not empty
            folder.rmdir()
        runtime.end()


def _train(
    start: Start, folder: Path, manifest: Manifest, runtime: Runtime, publish: Publish, *, resume: bool
) -> Scored | None:
    config = start.config
    init = None if start.checkpoint else config.init
    _require_possible(config, manifest, runtime, init)
    runtime.doing("reading weights to start from", 0)
    weights = None if start.checkpoint or init else pretrained(config.model.weights, config.model.backbone)
    if runtime.leads:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MARKER).unlink(missing_ok=True)
        checkpoint.set_aside(folder / "checkpoints", start.checkpoint)
    with (
        runtime.leader(lambda: _tracker(start, folder, resume=resume), SilentTracker) as tracker,
        _stopping(tracker),
    ):
        runtime.doing("beginning", 0)
        _describe(config, manifest, runtime, tracker, folder)
        engine = Engine(config, manifest, runtime, tracker, folder)
        if weights is not None:
            engine.network.load_pretrained(weights)
        if init is not None:
            tracker.tags({names.Tag.INIT_SHA: initialisation.start(init, engine.network)})
        if start.checkpoint is not None:
            _continue(engine, start.checkpoint, start.changes)
        ending = engine.run()
        if ending.signal is not None:
            _leave(ending.signal, folder, runtime, tracker)
            return None
        assert ending.evaluation is not None
        scored = Scored(engine.evaluator, ending.evaluation, engine.step, engine.newest)
        _draw(scored, publish, config, runtime, tracker)
    return scored


def _require_possible(config: Config, manifest: Manifest, runtime: Runtime, init: Path | None) -> None:
    """Raises ValueError where the batch or the network cannot be made, not start from `init`, or not be compiled."""
    plan = build.batch_plan(config, manifest)
    plan.pairs_per_process(runtime.world)
    with torch.device("meta"):
        network = build.network(config, manifest.num_identities)
    if init is not None:
        runtime.decide(lambda: initialisation.require_fitting(init, network))
    if config.engine.compile:
        runtime.decide(lambda: require_compiler(runtime))
    log.info(
        "%d identities to train on, %d more without tracklets of the required length in both modalities",
        len(plan.identities),
        len(plan.left_out),
    )


@contextmanager
def _stopping(tracker: Tracker) -> Iterator[None]:
    """Within, a request to stop before the first step or after the last one ends the run as it ends it between them."""
    try:
        yield
    except Stopped as stopped:
        tracker.finish(Status.SCHEDULED if stopped.asks_again else Status.KILLED)
        raise


def _continue(engine: Engine, start: Path, changes: tuple[str, ...]) -> None:
    # The leading process has verified it when it chose it.
    snapshot = checkpoint.load(start, verified=engine.runtime.leads)
    engine.restore(snapshot)
    # Told again: a run that is killed once a checkpoint is published has not told of it yet.
    scores = snapshot.state.get("scores", {})  # an older checkpoint has none
    engine.tracker.checkpoint(start, checkpoint.digest(start), snapshot.step, scores)
    log.info("continuing at step %d from %s", engine.step, start)
    if changes:
        log.warning("continuing differently, as --accept-changes allows:\n  %s", "\n  ".join(changes))
        told = "; ".join(change.replace("when the run began", "before") for change in changes)
        engine.tracker.tags({names.Tag.ACCEPTED_CHANGES: f"at step {engine.step}: {told}"})


def _draw(scored: Scored, publish: Publish, config: Config, runtime: Runtime, tracker: Tracker) -> None:
    """Let the leading process draw, while the others wait. A run whose pictures fail is complete nevertheless."""
    runtime.doing("drawing", scored.step)
    failure = None
    if runtime.leads:
        try:
            pictures, description = publish(scored)
            for path in pictures:
                tracker.artifact(path, names.Folder.PICTURES)
            tracker.description(f"{description}\n{_as_code(configuration.explanation(config))}")
        except Exception as error:
            log.exception("drawing failed")
            failure = (
                f"the run is complete, with its scores and {scored.checkpoint}, but its pictures could not be drawn "
                f"({type(error).__name__}: {error}); the same command with --resume draws them again"
            )
            tracker.finish(Status.FINISHED)
    told = runtime.agree(failure)
    if told is not None:
        raise RuntimeError(told) if runtime.leads else ToldElsewhereError(told)


def evaluate(path: Path, config: Config, snapshot: Snapshot, conditions: Conditions | None = None) -> Scored:
    """Score the weights of `snapshot`, read from `path`, as `config` says, and once more under each of the `conditions`."""
    protocol = build.protocol(config)
    if conditions is not None:
        require_plain(protocol)
    try:
        manifest = open_data(config)
    except ValueError as error:
        raise ValueError(
            f"{error}\nWhat lies elsewhere on this machine than where the run was trained is named with --root and --cache."
        ) from error
    runtime = _runtime(config)
    try:
        network = build.network(config, snapshot.state["num_identities"])
        network.load_state_dict(snapshot.evaluated)
        runtime.place(network)
        evaluator = Evaluator(network, manifest, protocol, runtime, config.data.num_workers)
        evaluation = evaluator.evaluate()
        robustness = None if conditions is None else examine(evaluator, evaluation, conditions)
        return Scored(evaluator, evaluation, snapshot.step, path, robustness)
    finally:
        runtime.end()


def read_checkpoint(path: Path) -> tuple[Path, Config, Snapshot]:
    """A checkpoint, or the newest valid one of a run's folder, and the configuration it was trained with.

    Raises ValueError if there is none.
    """
    found = checkpoint.at(path)
    if found is None:
        raise ValueError(f"{path}: neither a checkpoint nor the folder of a run with a valid one")
    snapshot = checkpoint.load(found, verified=found != path)
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
        timeout_seconds=2 * config.engine.hang_timeout_seconds,  # the watchdog is first, and says more
    )


def _tracker(start: Start, folder: Path, *, resume: bool) -> Tracker:
    config = start.config
    experiment, parent = config.tracking.experiment, config.tracking.parent
    if parent is not None:
        family.begin(parent, experiment=experiment, run_name=parent.resolve().name)
    return Tracker.open(
        folder,
        experiment=experiment,
        run_name=config.tracking.run_name or folder.resolve().name,
        tracking_uri=config.tracking.uri,
        resume=resume,
        parent=parent,
        uid=start.uid,
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
            names.Tag.LEARNED_SHA: configuration.digest_of_learned(config),
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
        **({names.Param.INIT: config.init} if config.init is not None else {}),
    }


def _leave(signal: str, folder: Path, runtime: Runtime, tracker: Tracker) -> None:
    """End on a signal. A marker asks whoever started the job to start it again; an interrupt by hand leaves none.

    All leave together: the launcher ends the others as soon as one has left, and the leading one has most to do.
    """
    again = signal != "SIGINT"
    if runtime.leads and again:
        (folder / MARKER).write_text(f"{signal}\n")
    log.warning("stopped by %s; the checkpoint is published, continue with --resume", signal)
    tracker.finish(Status.SCHEDULED if again else Status.KILLED)
    runtime.wait()
