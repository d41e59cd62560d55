"""Where a run lies on each server that it was sent to, and how far: `RUN/mlflow.json`, without secrets."""

import json
import logging
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

FILE_NAME = "mlflow.json"
log = logging.getLogger(__name__)

EXPECTED = "expected http(s)://HOST[:PORT] of a server, or a store such as sqlite:////FOLDER/mlflow.db"


class AddressError(ValueError):
    """Nothing can be sent to such an address, now or later."""


@dataclass
class Target:
    """A run on one server. `offset` counts the bytes of the journal that are there, and `seal` is the checksum of the record
    that ends them; `has_parent` tells whether it was linked to the run above it.
    """

    experiment_id: str
    run_id: str
    offset: int = 0
    has_parent: bool = False
    seal: str = ""


def load(run_folder: Path, tracking_uri: str) -> Target | None:
    """The run on a server, or None if it was never sent there."""
    return servers(run_folder).get(redacted(tracking_uri))


def servers(run_folder: Path) -> dict[str, Target]:
    """The run on every server that it was sent to, by address."""
    return {address: Target(**state) for address, state in _read(run_folder).items()}


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


def require_possible(tracking_uri: str) -> None:
    """Raises AddressError for what can be seen to be wrong without asking anybody."""
    try:
        address = urlsplit(tracking_uri)
        if address.scheme in {"http", "https"}:
            is_possible = bool(address.hostname and address.port != 0)
        else:
            is_possible = address.scheme not in {"", "file"}
    except ValueError:  # the port is no number, or too large
        is_possible = False
    if not is_possible:
        raise AddressError(f"{redacted(tracking_uri)}: wrong address; {EXPECTED}")


def redacted(text: str) -> str:
    """Text as it may be written down: URIs without user and password, and none of the secrets of the environment."""
    for name in ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"):
        if secret := os.environ.get(name):
            text = text.replace(secret, "***")
    return re.sub(r"//[^/@\s]*@", "//", text)


def _read(run_folder: Path) -> dict[str, Any]:
    """What the file says. One that a power loss spoilt says nothing: runs are found by their uid, and sent again."""
    path = run_folder / FILE_NAME
    try:
        return dict(json.loads(path.read_text())) if path.exists() else {}
    except ValueError as error:
        log.warning("%s: not readable (%s); the run is looked for on the server, and sent again", path, error)
        return {}
