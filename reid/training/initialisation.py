"""Weights of another run to start from (`--init`), which may have been trained on another number of identities.

    path -> pinned: one checkpoint -> fitting: what the network takes of it -> start: loaded, and what stays fresh told

Of a run that keeps an average of its weights, the average. Momentum, step and meters begin anew. A run that continues
has its own weights, and needs those it began with no more.
"""

import logging
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from reid.model.network import Network, Part
from reid.training import checkpoint

CLASSIFIERS = tuple(
    f"{part}.weight" for part in (Part.ATTACK_CLASSIFIER, Part.DEFENCE_CLASSIFIER, Part.GUIDED_CLASSIFIER)
)

log = logging.getLogger(__name__)


def pinned(path: Path) -> Path:
    """The checkpoint that `path` is, or the newest valid one of the run whose folder it is; as it is if it is neither."""
    return (checkpoint.at(path) or path).resolve()


def require_fitting(path: Path, network: Network) -> None:
    """Raises ValueError if there is no checkpoint at `path`, or one of another structure than `network` has."""
    if checkpoint.at(path) != path:
        raise ValueError(f"init: {path} is neither a checkpoint nor the folder of a run with a valid one")
    fitting(checkpoint.load(path).evaluated, network, path)


def start(path: Path, network: Network) -> str:
    """Give `network` the weights of the checkpoint at `path`. Returns its digest."""
    weights = fitting(checkpoint.load(path).evaluated, network, path)
    network.load_state_dict(weights, strict=False)
    digest = checkpoint.digest(path)
    log.info("starting from the weights of %s (sha256 %s)", path, digest[:12])
    fresh = [name for name in network.state_dict() if name not in weights]
    if fresh:
        log.info("fresh, because the number of identities differs: %s", ", ".join(fresh))
    return digest


def fitting(weights: Mapping[str, Tensor], network: Network, path: Path) -> dict[str, Tensor]:
    """Those of `weights`, read from `path`, that `network` takes: all but classifiers of another number of identities.

    Raises ValueError naming every tensor that is missing, left over or of another shape.
    """
    own = network.state_dict()
    fresh = {
        name
        for name in CLASSIFIERS
        if name in own and name in weights and own[name].shape[1:] == weights[name].shape[1:]
        if own[name].shape != weights[name].shape
    }
    mistakes = [
        *(f"{name}: missing there" for name in own if name not in weights),
        *(f"{name}: there is no such part here" for name in weights if name not in own),
        *(
            f"{name}: {tuple(tensor.shape)} there, {tuple(own[name].shape)} here"
            for name, tensor in weights.items()
            if name in own and name not in fresh and tensor.shape != own[name].shape
        ),
    ]
    if mistakes:
        raise ValueError(
            "\n  ".join(
                [f"init: {path} is of another structure; configure `model` as that run did", *mistakes]
            )
        )
    return {name: tensor for name, tensor in weights.items() if name not in fresh}
