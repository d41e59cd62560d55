"""Which weights to put to use: those of a checkpoint, of the newest one of a run, or of a model in MLflow.

    what the user names -> found: one checkpoint on this machine -> load: Weights, in float32

Half precision pays in training; here everything is float32, so that an exported program, a search of today and a search
of next year compare the same vectors.
"""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from reid import config as configuration
from reid.config import Config
from reid.data.clips import normalise
from reid.evaluation.retrieval import Protocol
from reid.model.network import Network
from reid.tracking.tracker import TRACKING_URI
from reid.training import build, checkpoint
from reid.training.run import read_checkpoint
from reid.types import Embedding, Modality

MODELS = "models:/"


@dataclass(frozen=True)
class Weights:
    """A network in evaluation, float32 on the CPU, and what it was made of.

    `synthetic` says whether it was trained on synthetic data; None if the checkpoint is too old to know.
    """

    path: Path
    config: Config
    protocol: Protocol
    network: Network
    step: int
    digest: str
    data_set: dict[str, Any]

    @property
    def synthetic(self) -> bool | None:
        return self.data_set.get("synthetic")

    @property
    def width(self) -> int:
        """Components of an embedding."""
        return self.network.embedding_width(self.protocol.embedding)

    def embed(self, clips: Tensor, modality: Modality) -> Tensor:
        """Pixels (B, T, 3, H, W), uint8, of one modality -> unit vectors (B, D), where the network is."""
        return self.network.embed(normalise(clips), modality, self.protocol.embedding)

    def facts(self) -> dict[str, Any]:
        """What whoever uses these weights must know, as JSON has it."""
        shape = self.protocol.shape
        return {
            "checkpoint": self.path.name,
            "checkpoint_sha256": self.digest,
            "configuration_sha256": hashlib.sha256(configuration.to_yaml(self.config).encode()).hexdigest(),
            "step": self.step,
            "variant": self.config.model.variant.value,
            "backbone": self.config.model.backbone,
            "data_set": self.data_set,
            "synthetic": self.synthetic,
            "embedding": self.protocol.embedding.value,
            "embedding_size": self.width,
            "clip": {"frames": shape.frames, "height": shape.height, "width": shape.width},
        }


def found(named: str, tracking_uri: str | None = None) -> Path:
    """The checkpoint that a path, the folder of a run, or `models:/ID` stands for.

    `tracking_uri` is the MLflow server or store to ask, by default MLFLOW_TRACKING_URI. Raises ValueError if there is none.
    """
    if not named.startswith(MODELS):
        path = checkpoint.at(Path(named))
        if path is None:
            raise ValueError(
                f"{named}: neither a checkpoint, nor the folder of a run with a valid one, nor {MODELS}ID of MLflow"
            )
        return path
    uri = tracking_uri or os.environ.get(TRACKING_URI)
    if not uri:
        raise ValueError(f"{named}: say with --uri, or {TRACKING_URI}, which MLflow server or store knows it")
    from reid.tracking.mlflow import checkpoint_of  # noqa: PLC0415  # takes seconds, and few need it

    path, digest = checkpoint_of(uri, named.removeprefix(MODELS))
    if not (path / checkpoint.CONTENTS).is_file():
        raise ValueError(
            f"{named} is the checkpoint {path}, which cannot be reached from this machine, or was pruned there; copy its "
            "folder here, and name that"
        )
    if checkpoint.digest(path) != digest:
        raise ValueError(f"{named}: {path} is another checkpoint by now; its sha256 is not {digest[:12]}")
    return path


def load(path: Path, embedding: Embedding | None = None) -> Weights:
    """The weights of a checkpoint that are worth using, and the embedding to make, if not the run's own.

    Raises ValueError for a damaged checkpoint, or an embedding that its variant cannot give.
    """
    path, config, snapshot = read_checkpoint(path)
    config_used = configuration.changed(config, {"evaluation": {"embedding": embedding}})
    network = build.network(config, snapshot.state["num_identities"])
    network.load_state_dict(snapshot.evaluated)
    return Weights(
        path.resolve(),
        config,
        build.protocol(config_used),
        network.float().eval(),
        snapshot.step,
        checkpoint.digest(path),
        snapshot.state["dataset"],
    )
