"""Weights of tiny networks that were drawn, not trained, and people in plain folders."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reid.config import Config
from reid.deployment import weights
from reid.deployment.weights import Weights

from .drawing import draw_people, draw_run


@pytest.fixture(scope="session")
def run(tiny: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of the full model."""
    return draw_run(tiny(), tmp_path_factory.mktemp("deployed") / "run")


@pytest.fixture(scope="session")
def loaded(run: Path) -> Weights:
    return weights.load(weights.found(str(run)))


@pytest.fixture
def drawn(tiny: Callable[..., Config], tmp_path: Path) -> Callable[..., Weights]:
    """Weights of a configuration that differs from the tiny one by these sections."""

    def load(**sections: dict[str, Any]) -> Weights:
        return weights.load(draw_run(tiny(**sections), tmp_path / "run"))

    return load


@pytest.fixture
def people(tmp_path: Path) -> Path:
    """Three visible and two infrared tracklets of 12 frames in folders."""
    return draw_people(tmp_path / "people")
