"""`reid train` stopped, killed or held up anywhere: it ends within seconds, says why, and continues as if nothing had been."""

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from benchmarks.kill_storm import Life, differences
from reid import signals
from reid.signals import Stopped
from reid.tracking.journal import FILE_NAME, Kind, read
from reid.training import checkpoint
from reid.training.run import train

ROOT = Path(__file__).parents[3]
SECONDS = 20  # within which whoever is asked to leave has left, on a machine with much else to do


def until(condition: Callable[[], object], seconds: float = 120) -> None:
    """Wait for something."""
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up, "it never came"
        time.sleep(0.005)


def finishes(folder: Path) -> list[str]:
    return [record.data["status"] for record in read(folder) if record.kind is Kind.FINISH]


def steps_of(folder: Path) -> list[int]:
    return [int(path.name.removeprefix("step-")) for path in checkpoint.published(folder / "checkpoints")]


@contextmanager
def signalled_when_said(text: str, number: int) -> Iterator[None]:
    """Within, this process is sent a signal as soon as it logs `text` for the first time."""

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if text in record.getMessage():
                logger.removeHandler(self)
                os.kill(os.getpid(), number)

    logger, listener = logging.getLogger("reid"), Listener()
    former = logger.level
    logger.addHandler(listener)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(listener)
        logger.setLevel(former)


@pytest.fixture
def begin() -> Iterator[Callable[..., Life]]:
    """Forks the processes of a run, and leaves none of them behind."""
    lives: list[Life] = []

    def begin(*arguments, **options) -> Life:
        lives.append(Life(*arguments, **options))
        return lives[-1]

    yield begin
    for life in lives:
        for process in life.processes:
            process.kill()
            process.join()


@pytest.fixture(scope="module")
def pair(tiny, tmp_path_factory) -> Path:
    """The folder of an undisturbed run of two processes."""
    life = Life(tiny(), tmp_path_factory.mktemp("pair") / "undisturbed")
    assert life.end(300) == [0, 0], life.spoken.read_text()
    return life.folder


def test_a_signal_in_an_evaluation_breaks_it_off_and_the_continued_run_does_it_first(
    tiny, alone, runs, tmp_path
):
    folder = tmp_path / "run"
    with signalled_when_said("evaluation: ", signal.SIGTERM):
        assert runs.train(tiny(), folder) is None
    assert (folder / "requeue").read_text() == "SIGTERM\n"
    assert finishes(folder) == ["SCHEDULED"]
    assert steps_of(folder)[-1] == 4
    assert runs.snapshot(folder, 4).state["evaluation_is_due"]
    assert (4, "mean/map") not in runs.points(folder)
    runs.train(tiny(), folder, resume=True)
    assert differences(folder, alone()) == []
    assert runs.points(folder)[4, "mean/map"] == runs.points(alone())[4, "mean/map"]
    told = [record for record in read(folder) if record.kind is Kind.CHECKPOINT and record.step == 4]
    assert "mean/map" in told[-1].data["values"]


def test_a_signal_in_the_evaluation_of_a_continued_run_is_heard_too(tiny, alone, runs, tmp_path):
    folder = tmp_path / "run"
    for resume in (False, True):
        with signalled_when_said("evaluation: ", signal.SIGUSR1):
            assert runs.train(tiny(), folder, resume=resume) is None
        assert (folder / "requeue").read_text() == "SIGUSR1\n"
    assert steps_of(folder)[-1] == 4
    runs.train(tiny(), folder, resume=True)
    assert differences(folder, alone()) == []


def test_a_signal_while_drawing_ends_the_run_and_the_continued_one_draws(tiny, alone, runs, tmp_path):
    folder = tmp_path / "run"

    def draw_slowly(_: object) -> tuple[list[Path], str]:
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("it went on drawing")

    with pytest.raises(Stopped), signals.leaving_at_once(folder / "requeue"):
        train(tiny(), folder, draw_slowly, resume=False)
    assert (folder / "requeue").read_text() == "SIGTERM\n"
    assert finishes(folder) == ["SCHEDULED"]
    assert runs.train(tiny(), folder, resume=True).step == 8
    assert not (folder / "requeue").exists()
    assert finishes(folder) == ["SCHEDULED", "FINISHED"]
    assert differences(folder, alone()) == []


def test_a_run_whose_pictures_fail_is_complete_and_says_so(tiny, alone, runs, tmp_path):
    def draw_badly(_: object) -> tuple[list[Path], str]:
        raise OSError("the printer is on fire")

    with pytest.raises(
        RuntimeError, match=r"the run is complete, with its scores and .*step-00000008"
    ) as caught:
        train(tiny(), tmp_path, draw_badly, resume=False)
    assert "could not be drawn (OSError: the printer is on fire)" in str(caught.value)
    assert finishes(tmp_path) == ["FINISHED"]
    assert differences(tmp_path, alone()) == []
    assert runs.train(tiny(), tmp_path, resume=True).step == 8


@pytest.mark.slow
@pytest.mark.parametrize(("rank", "number"), [(0, signal.SIGUSR1), (1, signal.SIGTERM)])
def test_of_two_processes_one_that_is_signalled_in_an_evaluation_takes_the_other_along(
    tiny, pair, begin, tmp_path, rank, number
):
    life = begin(tiny(evaluation={"batch_clips": 2}), tmp_path / "run")
    until(lambda: life.spoken.exists() and "evaluation: " in life.spoken.read_text())
    os.kill(life.processes[rank].pid, number)
    assert life.end(SECONDS) == [1, 1], life.spoken.read_text()
    assert (life.folder / "requeue").read_text() == f"{number.name}\n"
    assert checkpoint.load(checkpoint.newest(life.folder / "checkpoints")).state["evaluation_is_due"]
    assert begin(tiny(), life.folder, resume=True).end(300) == [0, 0]
    found = [
        what for what in differences(life.folder, pair) if what != "the state"
    ]  # batch_clips stands there
    assert found == []


@pytest.mark.slow
def test_of_two_processes_one_that_is_signalled_while_saving_takes_the_other_along(
    tiny, pair, begin, tmp_path
):
    life = begin(tiny(), tmp_path / "run")
    checkpoints = life.folder / "checkpoints"
    until(lambda: checkpoints.exists() and any(checkpoints.glob(".partial-*")))
    os.kill(life.processes[0].pid, signal.SIGTERM)
    assert life.end(SECONDS) == [1, 1], life.spoken.read_text()
    assert (life.folder / "requeue").read_text() == "SIGTERM\n"
    assert begin(tiny(), life.folder, resume=True).end(300) == [0, 0]
    assert differences(life.folder, pair) == []


@pytest.mark.slow
def test_a_worker_that_hangs_is_found_by_the_watchdog_and_not_left_behind(tiny, begin, tmp_path):
    config = tiny(
        data={"num_workers": 1},
        schedule={"epoch_iterations": 200},
        engine={"hang_timeout_seconds": 8, "checkpoint_every_steps": 1000},
    )
    life = begin(config, tmp_path / "run", world=1)
    until(lambda: (life.folder / FILE_NAME).exists() and '"step":2,' in (life.folder / FILE_NAME).read_text())
    (worker,) = psutil.Process(life.processes[0].pid).children()
    worker.suspend()
    assert life.end(30) == [1]
    assert "waiting for data, does not go on" in life.spoken.read_text()
    assert life.left_behind() == []


def a_handler_is_set(process: psutil.Process) -> bool:
    """Whether a process handles SIGTERM itself."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    caught = next(line for line in lines if line.startswith("SigCgt:"))
    return bool(int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


@pytest.mark.slow
def test_a_signal_while_the_program_is_starting_leaves_the_marker(tiny, tmp_path):
    command = [
        sys.executable,
        "-m",
        "reid",
        "train",
        "--run",
        str(tmp_path / "run"),
        "--data.root",
        "/nowhere",
    ]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    until(lambda: a_handler_is_set(psutil.Process(process.pid)))
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=SECONDS)[1]
    assert process.returncode == 1
    assert said == "reid train: stopped by SIGTERM and asks to be started again; --resume continues\n"
    assert (tmp_path / "run" / "requeue").read_text() == "SIGTERM\n"


def processes_of(launcher: "subprocess.Popen[str]") -> dict[str, psutil.Process]:
    """The processes that a launcher has started and that live, by rank."""
    found = {}
    for child in psutil.Process(launcher.pid).children():
        with suppress(psutil.NoSuchProcess):
            found[child.environ().get("RANK")] = child
    return {rank: child for rank, child in found.items() if rank is not None}


def family(launcher: "subprocess.Popen[str]") -> list[psutil.Process]:
    return psutil.Process(launcher.pid).children(recursive=True)


@pytest.mark.slow
def test_a_launch_that_is_signalled_while_it_starts_leaves_the_marker_and_nobody(tiny, runs, tmp_path):
    launcher = runs.launch(tiny(), tmp_path / "run")
    until(lambda: len(processes_of(launcher)) == 2)
    until(lambda: all(map(a_handler_is_set, processes_of(launcher).values())))
    left = family(launcher)
    launcher.send_signal(signal.SIGTERM)
    output, _ = launcher.communicate(timeout=SECONDS)
    assert launcher.returncode == 1, output
    assert (tmp_path / "run" / "requeue").read_text() == "SIGTERM\n"
    assert psutil.wait_procs(left, 5)[1] == []


@pytest.mark.slow
def test_a_launch_that_is_signalled_while_it_draws_is_continued_on_one_process(tiny, runs, tmp_path):
    folder = tmp_path / "run"
    launcher = runs.launch(tiny(), folder)
    until((folder / "checkpoints" / "step-00000008").exists, 300)
    launcher.send_signal(signal.SIGTERM)
    output, _ = launcher.communicate(timeout=SECONDS)
    assert launcher.returncode == 1, output
    assert (folder / "requeue").read_text() == "SIGTERM\n"
    assert finishes(folder) == ["SCHEDULED"]
    assert runs.train(tiny(), folder, resume=True).step == 8


@pytest.mark.slow
@pytest.mark.parametrize("rank", ["0", "1"])
def test_a_process_that_dies_takes_the_launch_along_and_nobody_asks_for_another(tiny, runs, tmp_path, rank):
    folder = tmp_path / "run"
    config = tiny(data={"num_workers": 1}, schedule={"epoch_iterations": 200})
    launcher = runs.launch(config, folder)
    until(lambda: steps_of(folder), 300)
    left = family(launcher)
    processes_of(launcher)[rank].kill()
    output, _ = launcher.communicate(timeout=30)
    assert launcher.returncode != 0, output
    assert psutil.wait_procs(left, 5)[1] == []
    assert not (folder / "requeue").exists()


@pytest.mark.slow
def test_a_process_that_hangs_is_named_and_takes_the_launch_along(tiny, runs, tmp_path):
    folder = tmp_path / "run"
    config = tiny(
        data={"num_workers": 1}, schedule={"epoch_iterations": 200}, engine={"hang_timeout_seconds": 10}
    )
    launcher = runs.launch(config, folder)
    until(lambda: steps_of(folder), 300)
    left = family(launcher)
    held = processes_of(launcher)["1"]
    held.suspend()
    began = time.monotonic()
    output, _ = launcher.communicate(timeout=60)
    assert launcher.returncode == 1, output
    assert f"process 1 (pid {held.pid} on " in output
    assert "gave no sign of life for" in output
    assert time.monotonic() - began < 10 + SECONDS
    assert psutil.wait_procs(left, 5)[1] == []
