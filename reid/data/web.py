"""A packed data set behind a plain web server, read by ranges over HTTP or HTTPS.

    ranges of a shard -> spans, where neighbours travel together -> GET with Range -> checked answer -> bytes

The server is not trusted with anything but the bytes: an answer must be of the range asked for, and as long; what is in
it is checked by the readers. What may pass (a refused or broken connection, a slow answer, a 5xx) is tried again a few
times; what will not (no such file, no ranges, a redirection, a certificate that is not valid) ends at once.
"""

import os
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection, IncompleteRead
from typing import Any
from urllib.parse import urlsplit

from reid.data.sources import PIECE, Range, SourceError

PAUSES = (0.0, 0.0, 1.0, 4.0)  # seconds before each attempt
PATIENCE_SECONDS = 30.0  # for an answer, plus what its bytes take at the slowest speed
SLOWEST = 256 << 10  # bytes per second
WIDEST_GAP = 256 << 10  # bytes that are fetched in vain rather than asking twice
PASSING = {408, 429, 500, 502, 503, 504}

_ADDRESS = re.compile(r"https?://[!-~]+", re.ASCII)
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})", re.ASCII)
_REMEDY = "Check the server, or copy the data set to a disk."


def is_address(root: str) -> bool:
    """Whether a root is meant as an address, and not as a path."""
    return "://" in root


class WebFolder:
    """The source of a data set on a web server. Each process has a connection of its own, which stays open.

    Raises ValueError for an address that is not `http(s)://HOST[:PORT]/PATH`.
    """

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        if "@" in parts.netloc:
            raise ValueError(
                f"The address of a data set on {parts.hostname} must not hold a password: it would be logged."
            )
        if not _ADDRESS.fullmatch(address) or not parts.hostname or parts.query or parts.fragment:
            raise ValueError(
                f"{address!r}: expected http://HOST/FOLDER or https://HOST/FOLDER, without a query"
            )
        self.place = address.rstrip("/")
        self._host, self._port = parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)
        self._path = parts.path.rstrip("/")
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._connection: HTTPConnection | None = None
        self._owner = os.getpid()

    def __reduce__(self) -> tuple[Any, ...]:
        return WebFolder, (self.place,)

    def open(self, name: str, nbytes: int, sha256: str) -> "WebFile":  # noqa: ARG002 - frames are checked, not files
        return WebFile(self, name)

    def pieces(self, name: str, most: int) -> Iterator[bytes]:
        offset, total = 0, 1
        while offset < total:
            data, total = self.fetch(name, offset, PIECE)
            if total > most:
                raise SourceError(
                    f"{self.place}/{name}", most, f"expected at most {most:,} bytes, found {total:,}", _REMEDY
                )
            offset += len(data)
            yield data

    def fetch(self, name: str, offset: int, size: int) -> tuple[bytes, int]:
        """Bytes [offset, offset + size) of a file, fewer where it ends, and the size of the file. Raises SourceError."""
        place = f"{self.place}/{name}"
        reason = ""
        for pause in PAUSES:
            time.sleep(pause)
            try:
                return self._ask(name, offset, size)
            except _BadAnswerError as answer:
                self.close()
                raise SourceError(place, offset, str(answer), _REMEDY) from answer
            except ssl.SSLCertVerificationError as error:
                self.close()
                reason = f"the certificate of the server is not valid: {error.verify_message}"
                raise SourceError(place, offset, reason, _REMEDY) from error
            except (OSError, HTTPException) as error:
                self.close()
                reason = str(error) or type(error).__name__
        raise SourceError(
            place, offset, f"the server failed {len(PAUSES)} times, at last with: {reason}", _REMEDY
        )

    def close(self) -> None:
        if self._connection is not None and self._owner == os.getpid():
            self._connection.close()
        self._connection = None

    def _ask(self, name: str, offset: int, size: int) -> tuple[bytes, int]:
        connection = self._connected()
        with _hanging_up(connection.sock, PATIENCE_SECONDS + size / SLOWEST):
            headers = {"Range": f"bytes={offset}-{offset + size - 1}", "Accept-Encoding": "identity"}
            connection.request("GET", f"{self._path}/{name}", headers=headers)
            response = connection.getresponse()
            expected, total = _checked(response, offset, size)
            body = response.read(expected + 1)
            if len(body) < expected:
                raise IncompleteRead(body, expected - len(body))
        if len(body) > expected:
            raise _BadAnswerError(f"the server sent more than the {expected} bytes that it announced")
        return body, total

    def _connected(self) -> HTTPConnection:
        if self._owner != os.getpid():  # a connection cannot be shared with the process that forked this one
            self._connection, self._owner = None, os.getpid()
        if self._connection is None:
            self._connection = (
                HTTPSConnection(self._host, self._port, timeout=PATIENCE_SECONDS, context=self._tls)
                if self._tls
                else HTTPConnection(self._host, self._port, timeout=PATIENCE_SECONDS)
            )
        if self._connection.sock is None:
            self._connection.connect()
        return self._connection


class WebFile:
    """A shard on a web server."""

    remedy = "Compare the shard on the server with the original by `python -m preprocess verify`."

    def __init__(self, folder: WebFolder, name: str) -> None:
        self.place = f"{folder.place}/{name}"
        self._folder = folder
        self._name = name

    def read(self, ranges: Sequence[Range]) -> list[bytes]:
        spans = {offset: self._folder.fetch(self._name, offset, size)[0] for offset, size in _spans(ranges)}
        starts = sorted(spans)
        found = []
        for offset, size in ranges:
            start = max(place for place in starts if place <= offset)
            found.append(spans[start][offset - start : offset - start + size])
        return found

    def will_need(self, ranges: Sequence[Range]) -> None:
        """Nothing: a server takes no hints."""

    def close(self) -> None:
        """Nothing: the connection is the folder's."""


class _BadAnswerError(Exception):
    """An answer that will not become better when it is asked for again."""


def _spans(ranges: Sequence[Range]) -> Iterator[Range]:
    """Ranges that cover the given ones, near ones together, so that a tracklet takes one question."""
    start = stop = -1
    for offset, size in sorted(ranges):
        if start >= 0 and offset - stop <= WIDEST_GAP and offset + size - start <= PIECE:
            stop = max(stop, offset + size)
        else:
            if start >= 0:
                yield start, stop - start
            start, stop = offset, offset + size
    if start >= 0:
        yield start, stop - start


def _checked(response: HTTPResponse, offset: int, size: int) -> tuple[int, int]:
    """The bytes that an answer must have, and those of the whole file, from its head. Raises _BadAnswerError, or OSError."""
    status = f"the server answered {response.status} {response.reason[:80]}"
    if response.status in PASSING:
        raise OSError(status)
    if response.status == HTTPStatus.OK:
        raise _BadAnswerError("the server ignores the range that was asked for, and sends the whole file")
    if 300 <= response.status < 400:
        target = response.headers.get("Location", "")[:200]
        raise _BadAnswerError(
            f"the server sends us to {target!r}; redirections are not followed, name that address if you trust it"
        )
    if response.status != HTTPStatus.PARTIAL_CONTENT:
        raise _BadAnswerError(status)
    announced = response.headers.get("Content-Range", "")
    match = _CONTENT_RANGE.fullmatch(announced)
    first, last, total = (int(number) for number in match.groups()) if match else (-1, -1, -1)
    if (first, last) != (offset, min(offset + size, total) - 1):
        raise _BadAnswerError(
            f"asked for bytes {offset} to {offset + size - 1}, the server announces {announced[:80]!r}"
        )
    if response.length not in (None, last - first + 1):
        raise _BadAnswerError(f"the server announces {announced[:80]!r}, but a length of {response.length}")
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise _BadAnswerError(
            f"the server encodes what it sends: {response.headers['Content-Encoding'][:40]!r}"
        )
    return last - first + 1, total


@contextmanager
def _hanging_up(connection: socket.socket, seconds: float) -> Iterator[None]:
    """Break a connection that takes longer, however slowly it drips: a timeout of a socket is only about each drop."""
    late = threading.Event()

    def hang_up() -> None:
        late.set()
        with suppress(OSError):  # it was closed in this moment
            socket.socket.shutdown(
                connection, socket.SHUT_RDWR
            )  # below TLS, which would wait for the other side

    timer = threading.Timer(seconds, hang_up)
    timer.start()
    try:
        yield
    except (OSError, HTTPException) as error:
        if late.is_set() or isinstance(error, TimeoutError):
            raise TimeoutError(f"no whole answer within {seconds:.3g} seconds") from error
        raise
    finally:
        timer.cancel()
