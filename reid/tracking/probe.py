"""Asks an MLflow server whether it would take a run, in seconds, without importing mlflow.

address, credentials of the environment -> GET /version, a search for experiments -> Reply
"""

import base64
import json
import os
import ssl
import urllib.error
import urllib.request
from email.utils import parsedate_to_datetime
from enum import StrEnum
from http.client import HTTPException, HTTPResponse
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from reid.tracking.target import AddressError, redacted, require_possible

TIMEOUT_SECONDS = 3.0


class Welcome(StrEnum):
    """How a server receives us."""

    READY = "ready"
    UNREACHABLE = "unreachable"
    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"
    MISTAKEN = "mistaken"
    STRANGE = "strange"


class Reply(NamedTuple):
    """`detail` says what happened; `seconds_since_1970` is the server's clock, where it told the time."""

    welcome: Welcome
    detail: str
    version: str | None = None
    seconds_since_1970: float | None = None


def ask(address: str, timeout_seconds: float = TIMEOUT_SECONDS) -> Reply:
    """What the server at `http(s)://HOST` says to us. Raises ValueError for another kind of address."""
    try:
        require_possible(address)
    except AddressError as error:
        return Reply(Welcome.MISTAKEN, str(error))
    if urlsplit(address).scheme not in {"http", "https"}:
        raise ValueError(f"{redacted(address)}: expected http://HOST or https://HOST")
    version = None
    try:
        with _opened(address, "version", None, timeout_seconds) as answer:
            version = answer.read(100).decode(errors="replace").strip()
        question = json.dumps({"max_results": 1}).encode()
        with _opened(address, "api/2.0/mlflow/experiments/search", question, timeout_seconds) as answer:
            told, time = answer.read(1 << 20), _time(answer.headers.get("Date"))
        json.loads(told)
    except urllib.error.HTTPError as error:
        detail = f"{redacted(error.url)} answered {error.code} {error.reason}"
        welcome = {401: Welcome.UNAUTHORIZED, 403: Welcome.FORBIDDEN}.get(error.code, Welcome.STRANGE)
        return Reply(welcome, detail, version, _time(error.headers.get("Date")))
    except OSError as error:
        return Reply(Welcome.UNREACHABLE, f"{redacted(address)}: {redacted(str(error))}")
    except (HTTPException, ValueError):
        return Reply(Welcome.STRANGE, f"{redacted(address)} answers, but not as an MLflow server", version)
    return Reply(Welcome.READY, f"{redacted(address)}, MLflow {version}", version, time)


class _Here(urllib.request.HTTPRedirectHandler):
    """Follows no redirection: it would carry our credentials to wherever it leads."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _opened(address: str, path: str, question: bytes | None, timeout_seconds: float) -> HTTPResponse:
    parts = urlsplit(address)
    host = parts.netloc.rpartition("@")[2]
    url = f"{parts.scheme}://{host}{parts.path.rstrip('/')}/{path}"
    headers = {"Content-Type": "application/json", **_credentials(parts.username, parts.password)}
    handlers = [_Here(), *([urllib.request.HTTPSHandler(context=_tls())] if parts.scheme == "https" else [])]
    request = urllib.request.Request(url, question, headers)  # noqa: S310 - http and https only
    answer: HTTPResponse = urllib.request.build_opener(*handlers).open(request, timeout=timeout_seconds)
    return answer


def _credentials(username: str | None, password: str | None) -> dict[str, str]:
    """As MLflow finds them: in the address, else in the environment."""
    if token := os.environ.get("MLFLOW_TRACKING_TOKEN"):
        return {"Authorization": f"Bearer {token}"}
    username = username or os.environ.get("MLFLOW_TRACKING_USERNAME")
    password = password or os.environ.get("MLFLOW_TRACKING_PASSWORD", "")
    if username is None:
        return {}
    return {"Authorization": "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()}


def _tls() -> ssl.SSLContext:
    if os.environ.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() in {"1", "true"}:
        return ssl._create_unverified_context()  # noqa: S323 - as MLflow was told to do
    return ssl.create_default_context(cafile=os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH"))


def _time(date: str | None) -> float | None:
    return parsedate_to_datetime(date).timestamp() if date else None
