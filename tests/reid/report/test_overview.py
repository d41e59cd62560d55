"""reid/report/overview.py: what the journals say of a run, in words that are true of it."""

from pathlib import Path

import pytest

from reid.report.overview import facts
from reid.report.subject import Subject
from reid.tracking.runs import Summary
from reid.tracking.target import Target, save


@pytest.fixture
def said(parse):
    """The facts of a run, by what they are called."""

    def of(run: Summary) -> dict[str, str]:
        from xml.etree.ElementTree import tostring

        rows = facts([Subject("a run", run)]).iter("tr")
        cells = ([parse(tostring(cell, encoding="unicode")).text for cell in row] for row in rows)
        return dict(cells)

    return of


def test_a_run_is_called_by_the_id_that_mlflow_gave_it_where_that_is_known(said, tmp_path):
    run = Summary(tmp_path, uid="from-the-journal")
    assert said(run)["run uid"] == "from-the-journal"
    save(tmp_path, "http://one", Target("1", "from-mlflow"))
    shown = said(run)
    assert shown["MLflow run"] == "from-mlflow"
    assert "run uid" not in shown
    save(tmp_path, "http://two", Target("1", "another"))
    assert said(run)["MLflow run"] == "from-mlflow, another"


def test_a_run_lasted_as_long_as_its_lives(said):
    run = Summary(Path("nowhere"), started=1000.0, updated=90_000.0, seconds=7500.0, num_starts=2)
    assert said(run)["lasted"] == "2 h 05 min in 2 start(s)"
