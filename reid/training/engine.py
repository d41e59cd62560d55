"""The loop: batches -> updates -> meters -> evaluation -> checkpoint. It knows nothing of the paper.

    for each step: for each group of updates of the stage: freeze what it does not name, forward, backward, step

`step` counts finished iterations and is the only position: epoch, stage, learning rate and the tracklets of a batch are
functions of it. What a run is, beside its configuration, is the `Snapshot` that `Engine.snapshot` takes and
`Engine.restore` puts back, in this order: weights and buffers, momentum, scalers, meters, quarantine, generators, step.
"""

import json
import logging
import time
from dataclasses import dataclass
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
from reid.tracking import names
from reid.tracking.tracker import Tracker
from reid.training import build, checkpoint
from reid.training.checkpoint import Snapshot
from reid.training.curves import curves
from reid.training.meters import Meters, NonFiniteError
from reid.training.progress import Progress
from reid.training.scores import scores
from reid.training.updater import Updater

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
        self.model = runtime.prepare(self.network)
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
            self.network, manifest, build.protocol(config), runtime, config.data.num_workers
        )

    @property
    def checkpoints(self) -> Path:
        """Where checkpoints are published."""
        return self.folder / "checkpoints"

    @property
    def newest(self) -> Path:
        """Where the checkpoint of `step` lies, once it is published."""
        return checkpoint.place(self.checkpoints, self.step)

    def run(self) -> Ending:
        """Train to the end of the schedule, or until some process is asked to stop. The last act is a checkpoint.

        Raises NonFiniteError, and DamagedShardError and the like from the data room.
        """
        every_evaluation = self.config.evaluation.every_epochs * self.config.schedule.epoch_iterations
        evaluation, signal = None, None
        with self._batches() as batches, self.runtime.heeding_signals():
            progress = Progress(self.config, self.runtime, batches, self.step)
            for clips in batches:
                self._iterate(clips.to(self.runtime.device, non_blocking=True))
                progress.show(self.step)
                if self._ends(self.config.engine.log_every_steps):
                    self._log(progress)
                found: dict[str, float] = {}
                if self._ends(every_evaluation):
                    with progress.paused():
                        evaluation = self.evaluate()
                        found = scores(evaluation)
                signal = self.runtime.stop_requested()
                if signal or found or self._ends(self.config.engine.checkpoint_every_steps):
                    with progress.paused():
                        self.publish(found)
                if signal:
                    break
        return Ending(self.step, signal, evaluation)

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
        progress.note(measured)

    def _share_damage(self) -> dict[str, float]:
        """Agree with the other processes on the damaged frames of the run, and count them. Nothing where none may be.

        Raises DamagedFrameError if all together have met too many.
        """
        if self.config.data.quarantine_frames == 0:
            return {}
        self.quarantine.unite(self.runtime.collect(self.quarantine.state()))
        return {names.Metric.QUARANTINED_FRAMES: len(self.quarantine)}

    def evaluate(self) -> Evaluation:
        """Score the network as it is, log the scores and write them to the run's folder."""
        began = time.monotonic()
        evaluation = self.evaluator.evaluate()
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

    def snapshot(self) -> Snapshot:
        """All that this run is. Called by every process."""
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
            "dataset": {"name": self.manifest.name, "digest": self.manifest.digest},
            "num_identities": self.manifest.num_identities,
            "scalers": {name: scaler.state_dict() for name, scaler in self.scalers.items()},
            "quarantine": self.quarantine.state(),
            "processes": processes,
        }
        return Snapshot(self.step, self.network.state_dict(), momentum, state)

    def restore(self, snapshot: Snapshot) -> None:
        """Become the run that `snapshot` was taken of, with any number of processes."""
        self.network.load_state_dict(snapshot.weights)
        for name, parameter in self.network.named_parameters():
            if name in snapshot.momentum:
                memory = torch.empty_like(parameter).copy_(snapshot.momentum[name])
                self.optimizer.state[parameter]["momentum_buffer"] = memory
        for name, scaler in self.scalers.items():
            if state := snapshot.state["scalers"][name]:  # empty where the run was not in fp16 so far
                scaler.load_state_dict(state)
        processes = snapshot.state["processes"]
        self.meters.restore([process["meters"] for process in processes], self.runtime)
        self.quarantine.unite([snapshot.state.get("quarantine", [])])  # an older checkpoint has none
        self.runtime.set_random_state(processes[self.runtime.rank % len(processes)]["random"])
        self.step = snapshot.step

    def publish(self, found: dict[str, float]) -> None:
        """Write a checkpoint with the scores `found` for it, if any, and forget the oldest.

        Raises NonFiniteError rather than keep weights that are spoilt.
        """
        self.meters.require_finite(self.runtime)  # an objective is to blame before what it spoils
        self._require_finite_weights()
        snapshot = self.snapshot()
        if self.runtime.leads:
            path = checkpoint.publish(self.checkpoints, snapshot)
            checkpoint.prune(self.checkpoints, self.config.engine.keep_checkpoints, self.step)
            self.tracker.checkpoint(path, checkpoint.digest(path), self.step, found)
            log.info("step %d: checkpoint %s", self.step, path)

    def _require_finite_weights(self) -> None:
        """The same on every process, because the weights are."""
        broken = [name for name, tensor in self.network.state_dict().items() if not tensor.isfinite().all()]
        if broken:
            raise NonFiniteError(
                f"step {self.step}: {broken[0]} and {len(broken) - 1} more tensors of the network stopped being finite "
                "since the last checkpoint. Lower the learning rate, warm up for longer, or use precision bf16 or fp32"
            )
