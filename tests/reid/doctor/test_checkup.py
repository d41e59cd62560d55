"""reid/doctor/checkup.py: every check answers in time, with a number, and a remedy where one is needed."""

import threading
import time

import pytest

from reid.doctor.checkup import CHECKS, examine, is_healthy
from reid.doctor.finding import Finding, Status, failure, ok, warning


def test_all_checks_answer_with_a_remedy_where_something_is_wrong(subject):
    found = examine(subject())
    assert [one.number for one in found] == list(range(1, len(CHECKS) + 1))
    assert len({one.name for one in found}) == len(CHECKS) >= 20
    for one in found:
        assert one.finding.found
        assert bool(one.finding.remedy) is (one.finding.status is not Status.OK), one


def test_a_check_that_hangs_is_a_finding_and_delays_nobody(subject):
    ended = threading.Event()

    def hanging(_: object) -> Finding:
        ended.wait()
        return ok("too late")

    began = time.monotonic()
    found = examine(subject(), [("fast", lambda _: ok("here")), ("slow", hanging)], patience_seconds=0.2)
    assert time.monotonic() - began < 5
    assert [one.finding.status for one in found] == [Status.OK, Status.FAILURE]
    assert found[1].finding.found == "no answer in time"
    ended.set()


def test_a_value_that_a_check_cannot_use_is_its_finding_and_hides_no_other(subject):
    def mistaken(_: object) -> Finding:
        raise ValueError("X=y: expected a number")

    found = examine(subject(), [("mistaken", mistaken), ("fine", lambda _: ok("here"))])
    assert [one.finding.status for one in found] == [Status.FAILURE, Status.OK]
    assert found[0].finding.found == "X=y: expected a number"


def test_a_place_that_cannot_be_looked_at_is_a_finding_and_a_bug_is_an_error(subject):
    def unreadable(_: object) -> Finding:
        raise PermissionError(13, "Permission denied", "/root/secret")

    (found,) = examine(subject(), [("disk", unreadable)])
    assert found.finding.status is Status.FAILURE
    assert "/root/secret" in found.finding.found

    def broken(_: object) -> Finding:
        raise KeyError("a bug")

    with pytest.raises(KeyError, match="a bug"):
        examine(subject(), [("broken", broken)])


def test_only_a_failure_is_unhealthy(subject):
    assert is_healthy(examine(subject(), [("a", lambda _: ok("")), ("b", lambda _: warning("", "do"))]))
    assert not is_healthy(examine(subject(), [("c", lambda _: failure("", "do"))]))
