"""Subjects that the checks are asked about."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reid import config as configuration
from reid.config import Config
from reid.doctor.finding import Subject


@pytest.fixture
def subject(tmp_path: Path) -> Callable[..., Subject]:
    """A run in a folder of its own; arguments are sections of its configuration."""

    def of(processes: int = 1, folder: Path = tmp_path / "run", **sections: dict[str, Any]) -> Subject:
        return Subject(configuration.changed(Config(), sections), folder, processes)

    return of
