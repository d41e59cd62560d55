"""The crew: order, notes, errors, deaths, signals, and memory that is handed out."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import numpy as np
import psutil
import pytest

from reid.data.workers import Crew, Fill, Pixels

pytestmark = pytest.mark.usefixtures("workers")
Workers = Callable[[], list[psutil.Process]]


@pytest.fixture
def crew() -> Iterator[Callable[..., Crew[object]]]:
    started: list[Crew[object]] = []

    def start(
        fill: Fill[object], count: int = 100, num_workers: int = 2, shape: tuple[int, ...] = (4, 5)
    ) -> Crew[object]:
        started.append(Crew(fill, shape, range(count), num_workers))
        return started[-1]

    yield start
    for each in started:
        each.close()


def number(index: int, pixels: Pixels) -> None:
    pixels[...] = index % 251


@pytest.mark.parametrize("num_workers", [1, 2, 5])
def test_items_come_in_order_whoever_is_slow(crew: Callable[..., Crew[object]], num_workers: int) -> None:
    def slow(index: int, pixels: Pixels) -> None:
        time.sleep(0.03 if index % 7 == 0 else 0.0)
        number(index, pixels)

    found = [int(pixels[0, 0]) for pixels, _ in crew(slow, 40, num_workers)]
    assert found == list(range(40))


def test_what_is_kept_stays_as_it_was(crew: Callable[..., Crew[object]]) -> None:
    kept = list(crew(number, 60))
    assert [np.unique(pixels).tolist() for pixels, _ in kept] == [[index] for index in range(60)]


def test_what_fill_returns_comes_with_the_pixels(crew: Callable[..., Crew[object]]) -> None:
    def noting(index: int, pixels: Pixels) -> list[int]:
        number(index, pixels)
        return [index] * (index % 3)

    for index, (pixels, note) in enumerate(crew(noting, 20, 3)):
        assert int(pixels[0, 0]) == index
        assert note == [index] * (index % 3)


def test_what_is_dropped_makes_room_without_copies(crew: Callable[..., Crew[object]]) -> None:
    places = {pixels.ctypes.data for pixels, _ in crew(number, 200)}
    assert len(places) <= 2 * 2 + 3


def test_an_exception_of_a_worker_arrives_as_it_was_raised_and_names_the_item(
    crew: Callable[..., Crew[object]],
) -> None:
    def wrong(index: int, pixels: Pixels) -> None:
        if index == 3:
            raise KeyError("colour", index)
        number(index, pixels)

    items = crew(wrong)
    assert [int(next(items)[0][0, 0]) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(KeyError) as caught:
        next(items)
    assert caught.value.args == ("colour", 3)
    assert "making item 3" in caught.value.__notes__[0]
    assert "in wrong" in caught.value.__notes__[0]


@pytest.mark.parametrize("death", [signal.SIGKILL, signal.SIGUSR2])
def test_a_worker_that_is_killed_is_an_error_and_not_a_hang(
    crew: Callable[..., Crew[object]], death: signal.Signals
) -> None:
    def deadly(index: int, pixels: Pixels) -> None:
        if index == 5:
            os.kill(os.getpid(), death)

    items = crew(deadly)
    with pytest.raises(RuntimeError, match=f"was killed by {death.name}.* while it made item 5"):
        list(items)


def test_a_worker_that_leaves_is_an_error_with_its_exit_code(crew: Callable[..., Crew[object]]) -> None:
    with pytest.raises(RuntimeError, match="ended with exit code 7 while it made item 0"):
        next(crew(lambda index, pixels: os._exit(7)))


def test_a_signal_to_the_whole_job_leaves_the_workers_at_work(
    crew: Callable[..., Crew[object]], workers: Workers
) -> None:
    items = crew(number, 50)
    next(items)
    for worker in workers():
        for each in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            worker.send_signal(each)
    assert len(list(items)) == 49


def test_a_worker_that_cannot_finish_is_killed_by_close(
    crew: Callable[..., Crew[object]], workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reid.data.workers.FAREWELL_SECONDS", 0.2)
    items = crew(lambda index, pixels: time.sleep(3600))
    items.close()
    assert workers() == []


def test_two_crews_at_once_end_in_any_order(crew: Callable[..., Crew[object]]) -> None:
    first, second = crew(number), crew(number)
    next(first)
    next(second)
    first.close()
    assert int(next(second)[0][0, 0]) == 1
    second.close()
    assert list(first) == list(second) == []


def test_a_crew_that_is_forgotten_takes_its_workers_with_it(workers: Workers) -> None:
    items = Crew(number, (4, 5), range(100), 2)
    next(items)
    del items
    assert workers() == []


def test_there_are_no_more_workers_than_items(crew: Callable[..., Crew[object]], workers: Workers) -> None:
    items = crew(number, 1, 4)
    assert len(workers()) == 1
    assert len(list(items)) == 1
    assert list(crew(number, 0, 4)) == []


PROGRAM = """
import os, sys, time
from multiprocessing import active_children
from reid.data.workers import Crew
items = Crew(lambda index, pixels: None, (8,), range(100000), 2)
error = None
try:
    next(items)
    raise ValueError("held by its traceback")
except ValueError as caught:
    error = caught
print(*(child.pid for child in active_children()), flush=True)
{end}
"""


def _run(end: str) -> tuple[subprocess.Popen[str], list[int]]:
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.replace("{end}", end)], stdout=subprocess.PIPE, text=True
    )
    assert program.stdout is not None
    return program, [int(pid) for pid in program.stdout.readline().split()]


def _gone(pids: list[int]) -> bool:
    deadline = time.monotonic() + 120
    while any(psutil.pid_exists(pid) for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def test_workers_end_with_a_main_process_that_is_killed() -> None:
    program, pids = _run("time.sleep(3600)")
    assert len(pids) == 2
    program.kill()
    program.wait()
    assert _gone(pids)


@pytest.mark.parametrize("end", ["raise RuntimeError", "os._exit(3)"])
def test_a_main_process_that_forgets_to_close_ends_all_the_same(end: str) -> None:
    program, pids = _run(end)
    assert len(pids) == 2
    program.wait(timeout=120)
    assert _gone(pids)
