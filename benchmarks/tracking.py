"""What tracking costs the training loop:  python benchmarks/tracking.py

A loop of fixed work (no GPU, 20 ms of processor time a step) writes a dozen metrics at every step, fifty times as often as
training does. It runs without tracking; into a journal alone; and with a sender whose MLflow is an SQLite file, a real
server, that server two seconds away, and nobody. Slices take turns, so that a busy machine slows all alike. Steps are
medians of the processor time of the training thread; calls are clocked on the wall; of the sender, which is a process of
its own and yields to all others, the processor time is told.

Goal: a step at most 1 % longer, and the end delayed by 30 s at most.
"""

import asyncio
import logging
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import psutil

from reid.tracking import names
from reid.tracking.tracker import OFFLINE, SilentTracker, Status, Tracker
from reid.types import Direction

NUM_SLICES, STEPS_A_SLICE = 12, 50
DELAY_SECONDS = 2.0
DEAD_SERVER = "http://127.0.0.1:9"
METRICS = {
    **{names.objective(term): 1.25 for term in names.TERMS},
    **{names.rank(direction, k): 0.5 for direction in Direction for k in (1, 5)},
    names.Metric.LOSS: 2.5,
    names.Metric.LEARNING_RATE: 0.1,
    names.Metric.CLIPS_PER_SECOND: 80.0,
}


def work(matrix: np.ndarray, milliseconds: float) -> None:
    """Multiply until the processor has spent its time, whoever else uses it."""
    end = time.thread_time() + milliseconds / 1000
    while time.thread_time() < end:
        matrix @ matrix


def main() -> None:
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    logging.basicConfig(level=logging.ERROR)
    matrix = np.random.default_rng(0).standard_normal((64, 64))
    with tempfile.TemporaryDirectory() as scratch, _server(Path(scratch)) as port, _slowly(port) as slow:
        folder = Path(scratch)
        trackers: dict[str, Tracker] = {
            "no tracking": SilentTracker(),
            "journal alone": _opened(folder / "offline", OFFLINE),
            "SQLite file": _opened(folder / "sqlite", f"sqlite:///{folder}/file.db"),
            "server": _opened(folder / "up", f"http://127.0.0.1:{port}"),
            "server, 2 s slow": _opened(folder / "slow", f"http://127.0.0.1:{slow}"),
            "server dead": _opened(folder / "dead", DEAD_SERVER),
        }
        steps: dict[str, list[float]] = {name: [] for name in trackers}
        calls: dict[str, list[float]] = {name: [] for name in trackers}
        for first in range(0, NUM_SLICES * STEPS_A_SLICE, STEPS_A_SLICE):
            for name, tracker in trackers.items():
                for step in range(first, first + STEPS_A_SLICE):
                    started = time.thread_time()
                    work(matrix, 20)
                    before = time.perf_counter()
                    tracker.metrics(step, METRICS)
                    calls[name].append(time.perf_counter() - before)
                    steps[name].append(time.thread_time() - started)
        senders = {name: _sender_seconds(tracker) for name, tracker in trackers.items()}
        ends = {name: _finish(tracker) for name, tracker in trackers.items()}
    _report(steps, calls, ends, senders)


def _opened(run_folder: Path, uri: str) -> Tracker:
    return Tracker.open(run_folder, experiment="benchmark", run_name=run_folder.name, tracking_uri=uri)


def _sender_seconds(tracker: Tracker) -> float | None:
    """Processor time that the sender of a tracker has used so far."""
    sender = getattr(tracker, "_sender", None)
    if sender is None:
        return None
    times = psutil.Process(sender.ensure_running().pid).cpu_times()
    return float(times.user + times.system)


def _finish(tracker: Tracker) -> float:
    started = time.monotonic()
    tracker.finish(Status.FINISHED)
    return time.monotonic() - started


@contextmanager
def _server(folder: Path) -> Iterator[int]:
    """The port of an MLflow server of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--workers",
        "1",
    ]
    command += ["--backend-store-uri", f"sqlite:///{folder}/server.db"]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        while not _answers(port):
            time.sleep(0.2)
        yield port
    finally:
        os.killpg(server.pid, 9)
        server.wait()


def _answers(port: int) -> bool:
    with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1) as answer:
        return bool(answer.status == 200)
    return False


@contextmanager
def _slowly(port: int) -> Iterator[int]:
    """The port of a wire to `port` on which everything sent waits."""

    async def carry(source: asyncio.StreamReader, sink: asyncio.StreamWriter, delay: float) -> None:
        with suppress(OSError):
            while part := await source.read(65536):
                await asyncio.sleep(delay)
                sink.write(part)
                await sink.drain()
        sink.close()

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(carry(reader, far_writer, DELAY_SECONDS), carry(far_reader, writer, 0))

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    wire = asyncio.run_coroutine_threadsafe(asyncio.start_server(connect, "127.0.0.1", 0), loop).result()
    try:
        yield int(wire.sockets[0].getsockname()[1])
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


def _report(
    steps: dict[str, list[float]],
    calls: dict[str, list[float]],
    ends: dict[str, float],
    senders: dict[str, float | None],
) -> None:
    floor = statistics.median(steps["no tracking"])
    print("| MLflow | step, ms | longer | a call, us | 99 % of calls, us | end, s | sender, CPU s |")
    print("| :-- | --: | --: | --: | --: | --: | --: |")
    for name, durations in steps.items():
        step, call = statistics.median(durations), statistics.median(calls[name])
        slow = float(np.quantile(calls[name], 0.99))
        sender = "-" if senders[name] is None else f"{senders[name]:.1f}"
        print(
            f"| {name} | {1e3 * step:.2f} | {100 * (step / floor - 1):.2f} % | {1e6 * call:.0f} | {1e6 * slow:.0f} "
            f"| {ends[name]:.1f} | {sender} |"
        )


if __name__ == "__main__":
    main()
