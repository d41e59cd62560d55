"""Where a run lies on each server that it was sent to, and how far: `RUN/mlflow.json`, without secrets."""

import json
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

FILE_NAME = "mlflow.json"


@dataclass
class Target:
    """A run on one server. `offset` counts the bytes of the journal that are there; `has_parent` tells whether it was
    linked to the run above it.
    """

    experiment_id: str
    run_id: str
    offset: int = 0
    has_parent: bool = False


def load(run_folder: Path, tracking_uri: str) -> Target | None:
    """The run on a server, or None if it was never sent there."""
    state = _read(run_folder).get(redacted(tracking_uri))
    return Target(**state) if state else None


def save(run_folder: Path, tracking_uri: str, target: Target | None) -> None:
    """Remember the run on a server, or forget it. The file is replaced as a whole."""
    state = _read(run_folder)
    state.pop(redacted(tracking_uri), None)
    if target is not None:
        state[redacted(tracking_uri)] = asdict(target)
    path = run_folder / FILE_NAME
    draft = path.with_suffix(".tmp")
    draft.write_text(json.dumps(state, indent=1) + "\n")
    draft.replace(path)


def redacted(text: str) -> str:
    """Text as it may be written down: URIs without user and password, and none of the secrets of the environment."""
    for name in ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"):
        if secret := os.environ.get(name):
            text = text.replace(secret, "***")
    return re.sub(r"//[^/@\s]*@", "//", text)


def _read(run_folder: Path) -> dict[str, Any]:
    path = run_folder / FILE_NAME
    return json.loads(path.read_text()) if path.exists() else {}
