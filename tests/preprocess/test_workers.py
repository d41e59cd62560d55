"""Processes that pack: errors arrive, the dead are noticed, none outlives its parent."""

import inspect
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from preprocess.workers import Report, run


def square(item: int, advance: Report) -> int:
    advance(item)
    return item * item


@pytest.mark.parametrize("num_workers", [1, 2, 5])
def test_every_item_is_worked_on_once_and_progress_is_shared(num_workers):
    told: list[int] = []
    assert sorted(run(square, range(10), num_workers, told.append)) == [item * item for item in range(10)]
    assert told[-1] == sum(range(10))
    assert told == sorted(told)


def test_nothing_to_do_is_done_at_once():
    assert list(run(square, [], 4, lambda done: None)) == []


def fail_at_three(item: int, advance: Report) -> int:
    if item == 3:
        raise ValueError("three")
    return item


@pytest.mark.parametrize("num_workers", [1, 2])
def test_an_error_of_a_worker_is_raised_as_it_is(num_workers):
    with pytest.raises(ValueError, match="three"):
        list(run(fail_at_three, range(200), num_workers, lambda done: None))


class Interrupted(list[int]):
    """Ctrl-C is pressed while the items are handed out."""

    def __iter__(self) -> Iterator[int]:
        yield from range(100)
        raise KeyboardInterrupt


def test_an_interrupt_at_any_moment_begins_nothing_more(tmp_path):
    def leave_a_trace(item: int, advance: Report) -> None:
        time.sleep(0.2)
        (tmp_path / str(item)).touch()

    with pytest.raises(KeyboardInterrupt):
        list(run(leave_a_trace, Interrupted(range(200)), 2, lambda done: None))
    assert len(list(tmp_path.iterdir())) < 10


def die_at_three(item: int, advance: Report) -> int:
    if item == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return item


@pytest.mark.timeout(60)
def test_a_worker_that_dies_is_an_error_and_not_a_wait():
    with pytest.raises(RuntimeError, match="a worker process died without a word"):
        list(run(die_at_three, range(6), 2, lambda done: None))


@pytest.mark.timeout(60)
def test_an_idle_worker_that_dies_ends_those_at_work(tmp_path):
    def work(item: int, advance: Report) -> None:
        (tmp_path / str(item)).write_text(str(os.getpid()))
        if item == 0:
            return
        while not (tmp_path / "0").exists():
            time.sleep(0.01)
        time.sleep(1)
        os.kill(int((tmp_path / "0").read_text()), signal.SIGKILL)
        time.sleep(600)

    with pytest.raises(RuntimeError, match="a worker process died without a word"):
        list(run(work, range(2), 2, lambda done: None))


@pytest.mark.timeout(60)
def test_a_worker_that_dies_while_it_reports_holds_nobody_up():
    def die_reporting(item: int, advance: Report) -> None:
        counter = inspect.getclosurevars(advance).nonlocals["counter"]
        counter.get_lock().acquire()
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(RuntimeError, match="a worker process died without a word"):
        list(run(die_reporting, range(6), 2, lambda done: None))


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_workers_do_not_outlive_a_parent_that_is_killed(tmp_path):
    def sleep(item: int, advance: Report) -> None:
        (tmp_path / str(os.getpid())).touch()
        time.sleep(600)

    parent = os.fork()
    if parent == 0:
        list(run(sleep, range(3), 3, lambda done: None))
        os._exit(0)
    give_up = time.monotonic() + 30
    while len(list(tmp_path.iterdir())) < 3:
        assert time.monotonic() < give_up
        time.sleep(0.02)
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    workers = [int(path.name) for path in tmp_path.iterdir()]
    while any(map(is_alive, workers)):
        assert time.monotonic() < give_up
        time.sleep(0.02)
