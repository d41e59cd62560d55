"""Where a run begins: at its newest valid checkpoint, if it may be continued as it is configured now, or at the start."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from reid import config as configuration
from reid.config import Config, ConfigError
from reid.tracking import names
from reid.tracking.journal import FILE_NAME, Kind, read
from reid.training import checkpoint, initialisation

RESOLVED = names.CONFIGURATION
FREE_TO_CHANGE = (  # where and how often, never what
    "data.cache",
    "data.num_workers",
    "data.quarantine_frames",
    "data.root",
    "engine.activation_checkpointing",
    "engine.checkpoint_every_steps",
    "engine.compile",
    "engine.device",
    "engine.hang_timeout_seconds",
    "engine.keep_checkpoints",
    "engine.log_every_steps",
    "evaluation.batch_clips",
    "evaluation.every_epochs",
    "tracking.",
)


class Start(NamedTuple):
    """The configuration of the run, with the one checkpoint that its `init` stands for; the checkpoint to continue from,
    None at the beginning; what differs from the run so far, a line each; and the `uid` of the run, if it is known.
    """

    config: Config
    checkpoint: Path | None
    changes: tuple[str, ...] = ()
    uid: str | None = None


def start_of(config: Config, folder: Path, digest: str, *, resume: bool, accept_changes: bool) -> Start:
    """Where the run in `folder` begins on the data set `digest`.

    Raises ConfigError where continuing would not continue the same run, unless the changes are accepted.
    """
    found, begun = checkpoint.newest(folder / "checkpoints"), folder / RESOLVED
    if found is None and not begun.exists():
        return Start(_pinned(config, None), None)
    if not resume:
        raise ConfigError(
            f"{folder}: holds a run{f' with the checkpoint {found.name}' if found else ''}; continue it with --resume, "
            "or name another folder with --run"
        )
    if found is None:
        state: dict[str, Any] = {}
        step, former, data_set = 0, configuration.from_yaml(begun), _data_set_of(folder) or digest
    else:
        state = json.loads((found / checkpoint.STATE).read_text())
        step, data_set = state["step"], state["dataset"]["digest"]
        former = configuration.from_dict(state["config"], str(found))
    config = _pinned(config, former.init)
    changes = _changes(config, former)
    if data_set != digest:
        changes.append(f"the data set: {data_set[:12]} when the run began, {digest[:12]} now")
    if changes and not accept_changes:
        raise ConfigError(
            "\n  ".join(
                [
                    f"{folder}: --resume continues a run as it began; start another with --run, or continue this one "
                    "differently with --resume --accept-changes",
                    *changes,
                ]
            )
        )
    if step > config.num_steps:
        raise ConfigError(f"{found}: is past the {config.num_steps} steps that the schedule has now")
    return Start(config, found, tuple(changes), state.get("run"))  # an older checkpoint does not say


def _pinned(config: Config, former: Path | None) -> Config:
    """`config` with the checkpoint that its `init` stands for: the `former` one, if the run began with one of that place.

    A folder of a run may hold a newer checkpoint by now, or be gone: a run that has begun needs it no more.
    """
    given = config.init
    if given is None:
        return config
    kept = former is not None and former.is_relative_to(given.resolve())
    return config.model_copy(update={"init": former if kept else initialisation.pinned(given)})


def _data_set_of(folder: Path) -> str | None:
    """The digest of the data set that the run in `folder` began with; None if it died before it told."""
    if not (folder / FILE_NAME).exists():
        return None
    told = (record.data["digest"] for record in read(folder) if record.kind is Kind.DATASET)
    return next(told, None)


def _changes(config: Config, former: Config) -> list[str]:
    return [
        f"{key}: {old!r} when the run began, {new!r} now"
        for key, (old, new) in configuration.difference(config, former).items()
        if not key.startswith(FREE_TO_CHANGE)
    ]
