"""docker/healthy.py against real servers: well is who answers with 200."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[2] / "docker" / "healthy.py"


class Page(BaseHTTPRequestHandler):
    """Answers 200 at /health, and 503 elsewhere."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/health" else 503)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def ask(**variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "HEALTH_URL"} | variables
    return subprocess.run(
        [sys.executable, PROGRAM], env=environment, capture_output=True, text=True, check=False
    )


def test_a_server_that_answers_is_well(address: str) -> None:
    assert ask(HEALTH_URL=f"{address}/health").returncode == 0


def test_a_server_that_answers_otherwise_is_not(address: str) -> None:
    answer = ask(HEALTH_URL=f"{address}/elsewhere")
    assert answer.returncode == 1
    assert "status 503" in answer.stderr


def test_nor_is_one_that_does_not_answer() -> None:
    answer = ask(HEALTH_URL="http://127.0.0.1:1/health")
    assert answer.returncode == 1
    assert "http://127.0.0.1:1/health does not answer" in answer.stderr


def test_without_a_page_to_ask_for_nothing_is_wrong() -> None:
    assert ask().returncode == 0
