"""reid/doctor/capacity.py: limits that are really lowered are noticed, with the number that is needed."""

import os
import resource
from collections.abc import Iterator

import psutil
import pytest

from reid.doctor import capacity
from reid.doctor.finding import Status


@pytest.fixture
def lowered(request: pytest.FixtureRequest) -> Iterator[int]:
    """A soft limit of this process, set to a value."""
    limit, value = request.param
    soft, hard = resource.getrlimit(limit)
    resource.setrlimit(limit, (value, hard))
    yield value
    resource.setrlimit(limit, (soft, hard))


@pytest.mark.parametrize("lowered", [(resource.RLIMIT_NOFILE, 300)], indirect=True)
def test_too_few_open_files_are_a_failure(subject, lowered):
    found = capacity.open_files(subject())
    assert found == (Status.FAILURE, "300, 528 needed", "Raise the limit: `ulimit -n 528`")


@pytest.mark.parametrize("lowered", [(resource.RLIMIT_NOFILE, 600)], indirect=True)
def test_every_worker_takes_some_files(subject, lowered):
    assert capacity.open_files(subject()).status is Status.OK
    assert capacity.open_files(subject(data={"num_workers": 64})).status is Status.FAILURE


@pytest.mark.parametrize("lowered", [(resource.RLIMIT_NPROC, 500)], indirect=True)
def test_too_few_processes_are_a_failure(subject, lowered):
    assert capacity.process_limit(subject(processes=1)).status is Status.OK
    found = capacity.process_limit(subject(processes=8))
    assert found.status is Status.FAILURE
    assert "`ulimit -u 576`" in found.remedy


@pytest.fixture
def one_core() -> Iterator[None]:
    """One core is all that we may use."""
    mask = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(mask)})
    yield
    os.sched_setaffinity(0, mask)


def test_more_workers_than_cores_are_a_warning_with_the_number_that_fits(subject, one_core, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    found = capacity.cores(subject(data={"num_workers": 4}))
    assert found.status is Status.WARNING
    assert (
        "cores: 1, processes: 1, workers of each: 4, threads of each: 1 (OMP_NUM_THREADS set)" in found.found
    )
    assert "--data.num-workers 0" in found.remedy
    assert capacity.cores(subject(data={"num_workers": 0})).status is Status.OK


def test_more_threads_than_cores_are_a_warning(subject, one_core, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "16")
    found = capacity.cores(subject(processes=2, data={"num_workers": 0}))
    assert (found.status, found.remedy) == (Status.WARNING, "Set OMP_NUM_THREADS=1")


def test_threads_of_threads_are_legal_and_the_outermost_count(subject, one_core, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1,2")
    found = capacity.cores(subject(data={"num_workers": 0}))
    assert found.status is Status.OK
    assert "threads of each: 1 (OMP_NUM_THREADS set)" in found.found
    for nonsense in ("many", "0", "-1", ","):
        monkeypatch.setenv("OMP_NUM_THREADS", nonsense)
        found = capacity.cores(subject())
        assert (found.status, found.found) == (
            Status.FAILURE,
            f"OMP_NUM_THREADS={nonsense!r}: no number of threads",
        )


def test_a_core_that_is_held_back_is_told(subject, one_core):
    if os.cpu_count() == 1:
        pytest.skip("one core is all there is")
    assert f"1 of {os.cpu_count()} cores" in capacity.limits(subject()).found


def test_more_processes_than_memory_are_a_warning(subject):
    too_many = psutil.virtual_memory().total // capacity.PROCESS_BYTES + 1
    found = capacity.memory(subject(processes=too_many))
    assert found.status is Status.WARNING
    assert "fewer processes" in found.remedy


def test_shared_memory_is_needed_by_several_processes_only(subject):
    assert capacity.shared_memory(subject()).status is Status.OK
    found = capacity.shared_memory(subject(processes=10**6))
    assert (found.status, "--shm-size" in found.remedy) == (Status.FAILURE, True)
