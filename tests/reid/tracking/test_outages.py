"""A server that misbehaves in every way costs a run neither a point nor its time: reid/tracking against real servers."""

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from reid.tracking import target
from reid.tracking.sender import sync

from .lab import (
    IN_TIME,
    Grumpy,
    Server,
    assert_complete,
    fill,
    postgresql,
    runs_of,
    small_disk,
    start_trainer,
    steps_in_journal,
    wait_for,
)


@pytest.fixture
def going_on(grumpy: Grumpy) -> Callable[[Path, int], None]:
    """Waits until a sender has tried again, whatever it met, and the training has gone on meanwhile."""

    def wait(run: Path, num_requests: int) -> None:
        requests, steps = grumpy.num_requests, len(steps_in_journal(run))
        wait_for(lambda: grumpy.num_requests >= requests + num_requests, 120)
        wait_for(lambda: len(steps_in_journal(run)) > steps + 10, 120)

    return wait


@pytest.mark.slow
def test_a_server_that_comes_late_refuses_crawls_freezes_and_dies_loses_no_point(
    server, grumpy, going_on, tmp_path, monkeypatch
):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "4")
    run = tmp_path / "runs" / "a"
    trainer = start_trainer(run, "normal", grumpy.uri)

    wait_for(lambda: grumpy.num_requests > 0, 120)  # the server is down at the start
    server.start()
    wait_for((run / target.FILE_NAME).exists, 120)
    for grumpy.refusal in (500, 403):
        going_on(run, 1)
    grumpy.refusal, grumpy.delay_seconds = None, 2.0
    going_on(run, 2)
    grumpy.delay_seconds = 0.0
    server.signal(signal.SIGSTOP)
    going_on(run, 1)
    server.signal(signal.SIGCONT)
    server.stop()
    going_on(run, 1)
    server.start()
    (run / "end").touch()
    assert trainer.wait(IN_TIME) == 0
    sync(run, grumpy.uri)
    assert_complete(grumpy.uri, run)
    assert runs_of(grumpy.uri, "endings")["normal"].info.status == "FINISHED"


@pytest.mark.slow
def test_a_server_whose_disk_is_full_holds_up_the_end_for_half_a_minute_and_loses_nothing(
    server, grumpy, going_on, empty_database, tmp_path
):
    with small_disk(tmp_path / "disk", megabytes=8) as disk:
        if disk is None:
            pytest.skip("no file system can be mounted here: only root may")
        server.folder, server.store = disk, f"sqlite:///{disk}/mlflow.db"
        (disk / "mlflow.db").write_bytes(empty_database.read_bytes())
        server.start()
        run = tmp_path / "runs" / "a"
        trainer = start_trainer(run, "normal", grumpy.uri)
        wait_for((run / target.FILE_NAME).exists, 120)
        fill(disk / "ballast")
        going_on(run, 2)
        wait_for(lambda: "attempt 1 failed" in (run / "sender.log").read_text(), 120)
        (run / "end").touch()
        assert trainer.wait(IN_TIME) == 0
        with pytest.raises(ConnectionError, match="Nothing is lost"):
            sync(run, grumpy.uri)
        (disk / "ballast").unlink()
        sync(run, grumpy.uri)
        assert_complete(grumpy.uri, run)
        assert runs_of(grumpy.uri, "endings")["normal"].info.status == "FINISHED"
        server.stop()


@pytest.mark.slow
@pytest.mark.postgresql
def test_a_database_that_is_killed_below_its_server_loses_nothing_and_doubles_nothing(tmp_path):
    with postgresql() as database:
        server = Server(tmp_path, database.store)
        try:
            server.start()
            run = tmp_path / "runs" / "a"
            trainer = start_trainer(run, "normal", server.uri)
            wait_for((run / target.FILE_NAME).exists, 120)
            database.kill()
            wait_for(lambda: "attempt 1 failed" in (run / "sender.log").read_text(), 120)
            database.start()
            (run / "end").touch()
            assert trainer.wait(IN_TIME) == 0
            sync(run, server.uri)
            assert_complete(server.uri, run)
            known = target.load(run, server.uri)
            known.offset = 0
            target.save(run, server.uri, known)
            assert sync(run, server.uri) > 0  # all of it again
            assert_complete(server.uri, run)
            assert runs_of(server.uri, "endings")["normal"].info.status == "FINISHED"
        finally:
            server.stop()
