"""Trainings on a small set of walking figures, for the parts of the evidence that compare them.

    synthesize, pack -> Walkers -> train: Engine, to the end of its schedule -> Trained: scores, the network, what was watched

What trains and scores is the library's own engine. A comparison changes its configuration, or the weights of one
objective. Figures are 64 x 32, the trunk is thin and starts from random weights; who is tested was not trained on.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from preprocess.options import Options
from preprocess.pack import pack
from preprocess.synthetic import SyntheticConfig, synthesize
from reid import config as configuration
from reid.config import Config
from reid.data.manifest import Manifest
from reid.evaluation.retrieval import Evaluation
from reid.model.network import Network
from reid.runtime import Runtime
from reid.tracking.tracker import SilentTracker
from reid.training.engine import Engine
from reid.training.recipe import Stage
from reid.types import Variant

FIGURES = SyntheticConfig(
    num_identities=72, num_train_identities=40, tracklets_per_modality=5, height=64, width=32
)
BASE: dict[str, Any] = {
    "data": {
        "height": FIGURES.height,
        "width": FIGURES.width,
        "clip_frames": 4,
        "padding": 3,
        "grey": 0.5,
        "num_workers": 0,
    },
    "model": {"backbone": "thin", "weights": "none", "num_parts": 2},
    "objective": {"lambda2": 1.0, "lambda3": 1.0},
    "optimizer": {
        "learning_rate": 0.03,
        "trunk_learning_rate": 0.03,
        "warmup_epochs": 1,
        "milestones": (5, 7),
    },
    "schedule": {"stage1_epochs": 8, "stage2_epochs": 0, "epoch_iterations": 30},
    "evaluation": {"every_epochs": 2},
    "engine": {
        "precision": "fp32",
        "device": "cpu",
        "log_every_steps": 10000,
        "checkpoint_every_steps": 10000,
    },
}

Readings = dict[str, float]
Probe = Callable[[Network], Readings]
Weights = Mapping[str, float]


class WatchedEngine(Engine):
    """An engine that takes readings of its network before each evaluation."""

    def watch(self, probe: Probe) -> None:
        self._probe = probe
        self.readings: dict[int, Readings] = {}

    def evaluate(self) -> Evaluation:
        self.readings[self.step] = self._probe(self.network)
        return super().evaluate()


@dataclass(frozen=True)
class Trained:
    """A finished run."""

    engine: WatchedEngine
    evaluation: Evaluation

    @property
    def rank1(self) -> float:
        """The mean of both directions."""
        return _mean(result.rank(1) for result in self.evaluation.results.values())

    @property
    def map(self) -> float:
        return _mean(result.map for result in self.evaluation.results.values())


def _mean(values: Iterator[float]) -> float:
    found = list(values)
    return sum(found) / len(found)


@dataclass
class Walkers:
    """A packed set in `folder`, and the runs on it; a run that was asked for before is not trained again."""

    folder: Path
    changes: dict[str, dict[str, Any]] = field(default_factory=dict)
    _runs: dict[Any, Trained] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.manifest = Manifest.open(self.folder / "packed")
        base = configuration.from_dict(BASE, "the evidence on walking figures")
        self.base = configuration.changed(base, self.changes)

    @classmethod
    @contextmanager
    def made(cls, figures: SyntheticConfig = FIGURES, **changes: dict[str, Any]) -> Iterator["Walkers"]:
        """A set of figures in a folder that is gone afterwards."""
        with TemporaryDirectory() as folder:
            synthesize(figures, Path(folder, "raw"))
            pack(Path(folder, "raw"), Path(folder, "packed"), Options())
            yield cls(Path(folder), changes)

    def config(self, variant: Variant, seed: int, **sections: dict[str, Any]) -> Config:
        changed = configuration.changed(self.base, {**sections, "model": {"variant": variant}})
        return changed.model_copy(update={"seed": seed})

    def train(
        self, variant: Variant, seed: int, weights: Weights | None = None, probe: Probe = lambda _: {}
    ) -> Trained:
        """A run of the variant by Step I; `weights` replaces the weights of objectives by their names."""
        key = (variant, seed, tuple(sorted((weights or {}).items())))
        if key not in self._runs:
            engine = self.engine(self.config(variant, seed))
            engine.watch(probe)
            engine.stages = (weighted(engine.stages[0], weights or {}), engine.stages[1])
            self._runs[key] = finish(engine)
        return self._runs[key]

    def engine(self, config: Config) -> WatchedEngine:
        """A run that is about to begin. Weights are drawn here, from the seed of the configuration."""
        runtime = Runtime.start(precision="fp32", device="cpu", seed=config.seed, deterministic=False)
        folder = self.folder / "runs" / f"{len(list(self.folder.glob('runs/*'))):03d}"
        folder.mkdir(parents=True)
        return WatchedEngine(config, self.manifest, runtime, SilentTracker(), folder)


def finish(engine: WatchedEngine) -> Trained:
    """Train to the end of the schedule."""
    evaluation = engine.run().evaluation
    assert evaluation is not None
    return Trained(engine, evaluation)


def weighted(stage: Stage, weights: Weights) -> Stage:
    """The stage with other weights of its objectives."""
    groups = (
        replace(
            group,
            updates=tuple(
                replace(
                    update,
                    objectives={
                        **update.objectives,
                        **{name: weight for name, weight in weights.items() if name in update.objectives},
                    },
                )
                for update in group.updates
            ),
        )
        for group in stage.groups
    )
    return replace(stage, groups=tuple(groups))
