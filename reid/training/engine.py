"""The loop: batches -> updates -> meters -> evaluation -> checkpoint. It knows nothing of the paper.

    for each step: for each group of updates of the stage: freeze what it does not name, forward, backward, step

`step` counts finished iterations and is the only position: epoch, stage, learning rate and the tracklets of a batch are
functions of it. What a run is, beside its configuration, is the `Snapshot` that `Engine.snapshot` takes and
`Engine.restore` puts back, in this order: weights and buffers, their average, momentum, scalers, meters, quarantine,
generators, step.

All processes hear of a request to stop in the same place, between two steps or two rounds of an evaluation. An evaluation
that was broken off is due in the checkpoint, and the first thing that the continued run does.
"""

import json
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch.amp import GradScaler

from reid.config import Config
from reid.data.clips import PairedClips, normalise
from reid.data.loader import Stream, training_batches
from reid.data.manifest import Manifest
from reid.data.quarantine import Quarantine
from reid.evaluation.retrieval import Evaluation, Evaluator
from reid.runtime import Runtime
from reid.signals import Stopped
from reid.tracking import names
from reid.tracking.tracker import Tracker
from reid.training import build, checkpoint
from reid.training.average import Average
from reid.training.checkpoint import Snapshot
from reid.training.compilation import compile_blocks
from reid.training.curves import curves, have_collapsed
from reid.training.meters import Meters, NonFiniteError
from reid.training.progress import Progress
from reid.training.scores import scores
from reid.training.updater import Updater
from reid.training.writer import Writer

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ending:
    """How a call of `Engine.run` ended: after the last step (`signal` is None), or because some process was signalled.

    `evaluation` is the newest one of this call, if there was one.
    """

    step: int
    signal: str | None
    evaluation: Evaluation | None


class Engine:
    """One training run in `folder`, from `step` on. Every process has one; only the leading one writes."""

    def __init__(
        self, config: Config, manifest: Manifest, runtime: Runtime, tracker: Tracker, folder: Path
    ) -> None:
        self.config = config
        self.manifest = manifest
        self.runtime = runtime
        self.tracker = tracker
        self.folder = folder
        self.step = 0
        self.network = build.network(config, manifest.num_identities)
        decay = config.optimizer.ema_decay
        self.average = None if decay is None else Average(self.network, decay, runtime)
        self.model = runtime.prepare(self.network)
        if config.engine.compile:
            compile_blocks(self.network)
        self.optimizer = build.optimizer(config, self.network)
        self.stages = build.training_stages(config, self.network)
        self.scalers = {
            group.name: GradScaler(runtime.device.type, enabled=runtime.precision == "fp16")
            for stage in self.stages
            for group in stage.groups
        }
        self.updater = Updater(
            self.network,
            self.model,
            self.optimizer,
            build.criterion(config, runtime),
            self.scalers,
            config.optimizer.clip_norm,
        )
        self.meters = Meters()
        self.quarantine = Quarantine(config.data.quarantine_frames)
        self.evaluator = Evaluator(
            self.network if self.average is None else self.average.network,
            manifest,
            build.protocol(config),
            runtime,
            config.data.num_workers,
            partial(self._go_on, "evaluating"),
        )
        self.writer = Writer(self.checkpoints, config.engine.keep_checkpoints)
        self._evaluation_is_due = False
        self._is_warned = False
        self._kept: int | None = None  # the step of the newest snapshot

    @property
    def checkpoints(self) -> Path:
        """Where checkpoints are published."""
        return self.folder / "checkpoints"

    @property
    def newest(self) -> Path:
        """Where the checkpoint of `step` lies, once it is published."""
        return checkpoint.place(self.checkpoints, self.step)

    def _published_at(self) -> float | None:
        """When the newest checkpoint was published, in seconds since 1970; None where there is none."""
        if self.writer.published_at is None and self.newest.exists():  # the one that this run continues from
            self.writer.published_at = self.newest.stat().st_mtime
        return self.writer.published_at

    def run(self) -> Ending:
        """Train to the end of the schedule, or until some process is asked to stop. The last act is a checkpoint.

        Raises NonFiniteError, OSError where no checkpoint can be written, and DamagedShardError and the like from the data
        room.
        """
        evaluation, signal = None, None
        with (
            self.runtime.heeding_signals(),
            self._batches() as batches,
            self.writer,
            Progress(self.config, self.runtime, batches, self.step, self._published_at) as progress,
        ):
            try:
                if self._evaluation_is_due or self.step == self.config.num_steps:
                    evaluation = self._evaluate_again(progress)
                for clips in self._awaited(batches):
                    self._iterate(clips)
                    evaluation = self._round_off(progress) or evaluation
                    self._go_on("training")
            except Stopped as stopped:
                signal = stopped.name
                if self._kept != self.step:
                    self.publish({})
        return Ending(self.step, signal, evaluation)

    def _awaited(self, batches: Stream[PairedClips]) -> Iterator[PairedClips]:
        """The batches on the device. That one is waited for is told."""
        while True:
            self.runtime.doing("waiting for data", self.step)
            clips = next(batches, None)
            if clips is None:
                return
            self.runtime.doing("updating", self.step)
            yield clips.to(self.runtime.device)

    def _round_off(self, progress: Progress) -> Evaluation | None:
        """What comes after a step, when its time has come: a point of the curves, an evaluation, a checkpoint."""
        progress.show(self.step)
        if self._ends(self.config.engine.log_every_steps):
            self._log(progress)
        evaluation, found = None, {}
        with progress.paused():
            if self._ends(self.config.evaluation.every_epochs * self.config.schedule.epoch_iterations):
                evaluation = self.evaluate()
                found = scores(evaluation)
            if found or self._ends(self.config.engine.checkpoint_every_steps):
                self.publish(found)
        return evaluation

    def _evaluate_again(self, progress: Progress) -> Evaluation:
        """The evaluation of the checkpoint this run continues from: it was broken off, or nothing else is left to do."""
        was_due = self._evaluation_is_due
        with progress.paused():
            evaluation = self.evaluate()
        if was_due and self.runtime.leads:
            self._tell_published(self.step, scores(evaluation), self.newest)
        return evaluation

    def _go_on(self, activity: str) -> None:
        """Called equally often by all processes. Raises Stopped in all at once, or what went wrong with a checkpoint."""
        self.runtime.doing(activity, self.step)
        self.writer.settle()
        self.runtime.heed()

    def _batches(self) -> Stream[PairedClips]:
        return training_batches(
            self.manifest,
            build.batch_plan(self.config, self.manifest),
            first=self.step,
            last=self.config.num_steps,
            shape=build.clip_shape(self.config),
            augmentation=build.augmentation(self.config),
            rank=self.runtime.rank,
            world=self.runtime.world,
            num_workers=self.config.data.num_workers,
            quarantine=self.quarantine,
        )

    def _ends(self, interval: int) -> bool:
        """Whether the step just finished is the last of an interval, or of the run."""
        return self.step % interval == 0 or self.step == self.config.num_steps

    def _iterate(self, clips: PairedClips) -> None:
        """All updates of one iteration."""
        rate = self.config.rate(self.step)
        for weights in self.optimizer.param_groups:
            weights["lr"] = weights["peak"] * rate
        visible, infrared = (
            normalise(pixels).to(self.runtime.dtype) for pixels in (clips.visible, clips.infrared)
        )
        identity = clips.identity.repeat(2)  # visible rows first
        for group in self.stages[self.config.stage(self.step)].groups:
            measured = self.updater.apply(group, visible, infrared, identity)
            self.meters.add(group.name, measured, self.step + 1)
        if self.average is not None:
            self.average.update(self.network, self.step)
        self.step += 1

    def _log(self, progress: Progress) -> None:
        """Read the meters, on every process, and tell the tracker."""
        measured = {
            **curves(self.meters.read(self.runtime)),
            names.Metric.LEARNING_RATE: self.config.optimizer.learning_rate * self.config.rate(self.step - 1),
            names.Metric.STAGE: self.config.stage(self.step - 1) + 1,
            names.Metric.EPOCH: self.config.epoch(self.step - 1),
            names.Metric.GRADIENT_SCALE: min(scaler.get_scale() for scaler in self.scalers.values()),
            **self._share_damage(),
            **progress.speeds(self.step),
        }
        self.tracker.metrics(self.step, measured)
        self._warn_of_collapse(measured)
        progress.note(measured)

    def _warn_of_collapse(self, measured: dict[str, float]) -> None:
        """Once. A run goes on: it may be what somebody wants to see."""
        margin, num_identities = self.config.objective.margin, self.manifest.num_identities
        if self._is_warned or not have_collapsed(measured, margin, num_identities):
            return
        self._is_warned = True
        log.warning(
            "step %d: the features have collapsed: def_tri is its margin and def_id is what guessing among %d identities "
            "costs. Nothing is learned like this; lower optimizer.learning_rate, warm up for longer, or choose "
            "objective.triplet euclidean_unit",
            self.step,
            num_identities,
        )
        self.tracker.tags({names.Tag.COLLAPSED: f"step {self.step}"})

    def _share_damage(self) -> dict[str, float]:
        """Agree with the other processes on the damaged frames of the run, and count them. Nothing where none may be.

        Raises DamagedFrameError if all together have met too many.
        """
        if self.config.data.quarantine_frames == 0:
            return {}
        self.quarantine.unite(self.runtime.collect(self.quarantine.state()))
        return {names.Metric.QUARANTINED_FRAMES: len(self.quarantine)}

    def evaluate(self) -> Evaluation:
        """Score the network as it is, or its average if it has one, log the scores and write them to the run's folder.

        Raises NonFiniteError rather than score weights that are spoilt.
        """
        self.meters.require_finite(self.runtime)
        began = time.monotonic()
        self._evaluation_is_due = True
        evaluation = self.evaluator.evaluate()
        self._evaluation_is_due = False
        seconds = time.monotonic() - began
        found = scores(evaluation)
        self.tracker.metrics(self.step, {**found, names.Metric.EVALUATION_SECONDS: seconds})
        if self.runtime.leads:
            path = self.folder / "evaluations" / f"step-{self.step:08d}.json"
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(found, indent=1))
            log.info(
                "step %d: %s", self.step, ", ".join(f"{name} {score:.3f}" for name, score in found.items())
            )
        return evaluation

    def snapshot(self, found: dict[str, float]) -> Snapshot:
        """All that this run is, with the scores `found` for it, if any. Called by every process."""
        self._share_damage()
        momentum = {
            name: self.optimizer.state[parameter]["momentum_buffer"]
            for name, parameter in self.network.named_parameters()
            if self.optimizer.state[parameter].get("momentum_buffer") is not None
        }
        processes = self.runtime.collect(
            {"random": self.runtime.random_state(), "meters": self.meters.state()}
        )
        state = {
            "config": self.config.model_dump(mode="json"),
            "dataset": {
                "name": self.manifest.name,
                "digest": self.manifest.digest,
                "synthetic": self.manifest.synthetic,
            },
            "num_identities": self.manifest.num_identities,
            "scalers": {name: scaler.state_dict() for name, scaler in self.scalers.items()},
            "quarantine": self.quarantine.state(),
            "evaluation_is_due": self._evaluation_is_due,
            "scores": found,
            "run": self.tracker.uid,
            "processes": processes,
        }
        average = {} if self.average is None else self.average.network.state_dict()
        return Snapshot(self.step, self.network.state_dict(), momentum, state, average)

    def restore(self, snapshot: Snapshot) -> None:
        """Become the run that `snapshot` was taken of, with any number of processes.

        Raises ValueError for the snapshot of another network.
        """
        self._require_same_network(snapshot)
        self.network.load_state_dict(snapshot.weights)
        if self.average is not None:  # it begins with the weights in a run that had none so far
            self.average.network.load_state_dict(snapshot.evaluated)
        for name, parameter in self.network.named_parameters():
            if name in snapshot.momentum:
                memory = torch.empty_like(parameter).copy_(snapshot.momentum[name])
                self.optimizer.state[parameter]["momentum_buffer"] = memory
        for name, scaler in self.scalers.items():
            if state := snapshot.state["scalers"].get(name):  # none where the run was not in fp16 so far
                scaler.load_state_dict(state)
        processes = snapshot.state["processes"]
        self.meters.restore([process["meters"] for process in processes], self.runtime)
        self.quarantine.unite([snapshot.state.get("quarantine", [])])  # an older checkpoint has none
        self.runtime.set_random_state(processes[self.runtime.rank % len(processes)]["random"])
        self._evaluation_is_due = snapshot.state["evaluation_is_due"]
        self.step = self._kept = snapshot.step

    def publish(self, found: dict[str, float]) -> None:
        """Begin to write a checkpoint with the scores `found` for it, if any; the oldest is forgotten.

        Raises NonFiniteError rather than keep weights that are spoilt.
        """
        self.runtime.doing("saving", self.step)
        self.meters.require_finite(self.runtime)  # an objective is to blame before what it spoils
        self._require_finite_weights()
        snapshot = self.snapshot(found)
        self._kept = self.step
        if self.runtime.leads:
            self.tracker.sync()  # a checkpoint knows nothing that the journal does not know
            self.writer.begin(snapshot, partial(self._tell_published, self.step, found))

    def _tell_published(self, step: int, found: dict[str, float], path: Path) -> None:
        self.tracker.checkpoint(path, checkpoint.digest(path), step, found)
        log.info("step %d: checkpoint %s", step, path)

    def _require_same_network(self, snapshot: Snapshot) -> None:
        ours, theirs = (
            {name: tuple(tensor.shape) for name, tensor in weights.items()}
            for weights in (self.network.state_dict(), snapshot.weights)
        )
        other = sorted(name for name in ours | theirs if ours.get(name) != theirs.get(name))
        if other:
            raise ValueError(
                f"the checkpoint of step {snapshot.step} is of another network: {other[0]} is of shape "
                f"{theirs.get(other[0])} there and of shape {ours.get(other[0])} here, and so on for {len(other)} tensors. "
                "Such a run cannot be continued; start another one"
            )

    def _require_finite_weights(self) -> None:
        """The same on every process, because the weights are."""
        broken = [name for name, tensor in self.network.state_dict().items() if not tensor.isfinite().all()]
        if broken:
            raise NonFiniteError(
                f"step {self.step}: {broken[0]} and {len(broken) - 1} more tensors of the network stopped being finite "
                "since the last checkpoint. Lower the learning rate, warm up for longer, or use precision bf16 or fp32"
            )
