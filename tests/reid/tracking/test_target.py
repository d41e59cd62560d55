"""reid/tracking/target.py: servers are told apart, and no secret is written."""

import pytest

from reid.tracking.target import FILE_NAME, Target, load, redacted, save, servers

FIRST, SECOND = "http://ann:pass@one:5000", "http://two:5000"


def test_a_run_is_remembered_by_server_and_forgotten_alone(tmp_path):
    assert load(tmp_path, FIRST) is None
    save(tmp_path, FIRST, Target("1", "abc", 10))
    save(tmp_path, SECOND, Target("7", "def", 20, has_parent=True))
    assert load(tmp_path, FIRST) == Target("1", "abc", 10)
    assert load(tmp_path, "http://bob:other@one:5000") == Target("1", "abc", 10)
    save(tmp_path, FIRST, None)
    assert load(tmp_path, FIRST) is None
    assert load(tmp_path, SECOND) == Target("7", "def", 20, has_parent=True)
    assert "pass" not in (tmp_path / FILE_NAME).read_text()


def test_what_a_power_loss_spoilt_is_forgotten(tmp_path, caplog):
    save(tmp_path, FIRST, Target("1", "abc", 10))
    (tmp_path / FILE_NAME).write_bytes(b"")
    assert load(tmp_path, FIRST) is None
    assert "not readable" in caplog.text
    save(tmp_path, FIRST, Target("1", "abc", 20))
    assert servers(tmp_path) == {"http://one:5000": Target("1", "abc", 20)}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://ann:pass@host:5000/x", "https://host:5000/x"),
        ("postgresql://u:p@db/mlflow", "postgresql://db/mlflow"),
        ("sqlite:////home/a@b/mlflow.db", "sqlite:////home/a@b/mlflow.db"),
        ("token is canary123 here", "token is *** here"),
    ],
)
def test_secrets_are_struck_out(monkeypatch, text, expected):
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "canary123")
    assert redacted(text) == expected
