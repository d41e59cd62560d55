"""reid/report/subject.py: names that tell runs apart, and where their report goes."""

from pathlib import Path

import pytest

from reid.report.subject import labels, place_of


@pytest.mark.parametrize(
    ("folders", "expected"),
    [
        (["runs/full"], ["full"]),
        (["runs/baseline", "runs/full"], ["baseline", "full"]),
        (["a/x/run", "b/x/run", "b/y/run"], ["a/x/run", "b/x/run", "b/y/run"]),
        (["a/run", "b/run"], ["a/run", "b/run"]),
        (["runs/a\nb\x07"], ["a?b?"]),
        (["runs/<b>"], ["<b>"]),
    ],
)
def test_runs_are_called_by_as_much_of_their_paths_as_tells_them_apart(folders, expected):
    assert labels([Path(folder) for folder in folders]) == expected


def test_a_run_named_twice_is_refused(tmp_path):
    with pytest.raises(ValueError, match="named twice"):
        labels([tmp_path / "a", tmp_path / "b" / ".." / "a"])


def test_a_report_goes_into_the_run_or_beside_the_runs_or_where_it_is_told(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    assert place_of([one], None) == one / "report"
    assert place_of([one, two], None) == tmp_path / "report"
    assert place_of([one, tmp_path / "deep" / "three"], tmp_path / "out") == tmp_path / "out"
    with pytest.raises(ValueError, match="--out"):
        place_of([one, tmp_path / "deep" / "three"], None)
    with pytest.raises(ValueError, match="no run here"):
        place_of([], tmp_path / "out")
