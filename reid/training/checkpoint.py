"""Checkpoints: published whole or not at all, verified when read, free of pickles.

    Snapshot -> FOLDER/.partial-<step>-<pid>/  weights.safetensors  momentum.safetensors  [average.safetensors]  state.json
             -> contents.json: size and SHA-256 of each file, written last
             -> rename to FOLDER/step-<step>/, after everything is on the disk

A folder named `step-...` whose contents agree with its `contents.json` is valid; nothing else is ever read.
"""

import errno
import hashlib
import json
import logging
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

FORMAT = 1
PREFIX, PARTIAL, DAMAGED = "step-", ".partial-", "damaged-"
WEIGHTS, MOMENTUM, STATE = "weights.safetensors", "momentum.safetensors", "state.json"
CONTENTS = "contents.json"
AVERAGE = "average.safetensors"  # of runs that keep one
FILES = (WEIGHTS, MOMENTUM, STATE)

log = logging.getLogger(__name__)


class DamagedCheckpointError(ValueError):
    """A checkpoint that is not what was written: which, and how it differs."""


@dataclass(frozen=True)
class Snapshot:
    """All that a run is after `step` iterations.

    `weights` are parameters and buffers, `momentum` the optimizer's memory, both by the names of the network's state
    dict. `state` holds JSON types: the configuration, the data set, generators, meters, scores. `average` is the moving
    average of `weights`, empty in a run that keeps none.
    """

    step: int
    weights: dict[str, Tensor]
    momentum: dict[str, Tensor]
    state: dict[str, Any] = field(default_factory=dict)
    average: dict[str, Tensor] = field(default_factory=dict)

    @property
    def evaluated(self) -> dict[str, Tensor]:
        """The weights that are scored, and worth starting from: the average, where there is one."""
        return self.average or self.weights

    def copied(self) -> "Snapshot":
        """The same in memory of its own, on the CPU: training goes on without changing it."""
        weights, momentum, average = (
            {
                name: torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor)
                for name, tensor in part.items()
            }
            for part in (self.weights, self.momentum, self.average)
        )
        return Snapshot(self.step, weights, momentum, self.state, average)


def publish(folder: Path, snapshot: Snapshot) -> Path:
    """Write `snapshot` below `folder` and return where it lies.

    Until the last rename the former checkpoints are the only ones. What interrupted writers left is removed first: a
    folder has one writer. Raises OSError saying what is needed if the disk is full.
    """
    target = place(folder, snapshot.step)
    partial = folder / f"{PARTIAL}{snapshot.step:08d}-{os.getpid()}"
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(f"{PARTIAL}*"):
        shutil.rmtree(left)
    _require_space(folder, snapshot)
    try:
        partial.mkdir()
        _write(partial / WEIGHTS, snapshot.weights)
        _write(partial / MOMENTUM, snapshot.momentum)
        if snapshot.average:
            _write(partial / AVERAGE, snapshot.average)
        state = {"format": FORMAT, "step": snapshot.step, **snapshot.state}
        (partial / STATE).write_text(json.dumps(state, indent=1))
        written = (name for name in (*FILES, AVERAGE) if (partial / name).exists())
        contents = {name: _measure(partial / name) for name in written}
        (partial / CONTENTS).write_text(json.dumps(contents, indent=1))
        for path in (*partial.iterdir(), partial):
            _sync(path)
        if target.exists():
            shutil.rmtree(target)  # damaged, or of a run that was started over
        partial.rename(target)
    except (OSError, SafetensorError) as error:  # the latter is what the library makes of a full disk
        shutil.rmtree(partial, ignore_errors=True)
        raise OSError(
            f"{target}: this checkpoint could not be written ({error}); the former ones are untouched. Make room and start "
            "again with --resume"
        ) from error
    _sync(folder)
    return target


def verify(checkpoint: Path) -> None:
    """Hold every file of a checkpoint against its contents. Raises DamagedCheckpointError naming the first difference."""
    try:
        contents = json.loads((checkpoint / CONTENTS).read_text())
    except (OSError, ValueError) as error:
        raise DamagedCheckpointError(f"{checkpoint / CONTENTS}: cannot be read ({error})") from error
    if not isinstance(contents, dict) or set(contents) - {AVERAGE} != set(FILES):
        raise DamagedCheckpointError(
            f"{checkpoint / CONTENTS}: expected the files {FILES}, found {contents!r}"
        )
    for name, expected in contents.items():
        path = checkpoint / name
        if not path.is_file():
            raise DamagedCheckpointError(f"{path}: missing")
        try:
            found = _measure(path)
        except OSError as error:
            raise DamagedCheckpointError(f"{path}: cannot be read ({error})") from error
        if found != expected:
            raise DamagedCheckpointError(f"{path}: expected {expected}, found {found}")


def load(checkpoint: Path, *, verified: bool = False) -> Snapshot:
    """Verify and read a checkpoint onto the CPU. One that `newest` has found here is `verified`.

    Raises DamagedCheckpointError, or ValueError for another format.
    """
    if not verified:
        verify(checkpoint)
    state = json.loads((checkpoint / STATE).read_text())
    if state.pop("format") != FORMAT:
        raise ValueError(
            f"{checkpoint}: this version reads checkpoints of format {FORMAT}; use the version that wrote it"
        )
    step = state.pop("step")
    weights, momentum = (load_file(checkpoint / name) for name in (WEIGHTS, MOMENTUM))
    has_average = AVERAGE in json.loads((checkpoint / CONTENTS).read_text())
    average = load_file(checkpoint / AVERAGE) if has_average else {}
    return Snapshot(step, weights, momentum, state, average)


def newest(folder: Path) -> Path | None:
    """The newest valid checkpoint below `folder`, or None. Damaged ones are named in the log and passed over."""
    for checkpoint in reversed(published(folder)):
        try:
            verify(checkpoint)
        except DamagedCheckpointError as error:
            log.warning("passing over a damaged checkpoint: %s", error)
        else:
            return checkpoint
    return None


def at(path: Path) -> Path | None:
    """`path` if a checkpoint lies there, or the newest valid one of the run whose folder it is; None if it is neither."""
    return path if (path / CONTENTS).exists() else newest(path / "checkpoints")


def place(folder: Path, step: int) -> Path:
    """Where the checkpoint of `step` lies."""
    return folder / f"{PREFIX}{step:08d}"


def published(folder: Path) -> list[Path]:
    """Checkpoints below `folder`, oldest first, valid or not."""
    return sorted(path for path in folder.glob(f"{PREFIX}*") if path.is_dir())


def set_aside(folder: Path, newest: Path | None) -> None:
    """Rename the checkpoints past the `newest` valid one, all if there is none: they were passed over as damaged.

    None of them is counted among those that are kept, and whoever wants to look at one can.
    """
    for checkpoint in published(folder):
        if newest is None or checkpoint > newest:
            aside = folder / f"{DAMAGED}{checkpoint.name}"
            shutil.rmtree(aside, ignore_errors=True)
            checkpoint.rename(aside)


def prune(folder: Path, keep: int) -> None:
    """Remove all but the newest `keep` checkpoints."""
    for checkpoint in published(folder)[:-keep]:
        shutil.rmtree(checkpoint)


def digest(checkpoint: Path) -> str:
    """One SHA-256 for the whole checkpoint, in hex."""
    return hashlib.sha256((checkpoint / CONTENTS).read_bytes()).hexdigest()


def _write(path: Path, tensors: dict[str, Tensor]) -> None:
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(plain, path)


def _measure(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _require_space(folder: Path, snapshot: Snapshot) -> None:
    needed = sum(
        tensor.numel() * tensor.element_size()
        for part in (snapshot.weights, snapshot.momentum, snapshot.average)
        for tensor in part.values()
    )
    free = shutil.disk_usage(folder).free
    if free < needed + 2**20:
        raise OSError(
            errno.ENOSPC,
            f"no space for a checkpoint of {needed / 1e6:.0f} MB, {free / 1e6:.0f} MB are free; the former checkpoints "
            "are untouched. Make room and start again with --resume",
            str(folder),
        )
