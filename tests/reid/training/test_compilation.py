"""reid/training/compilation.py: compiled blocks compute what they did, under the names they had, or not at all."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from reid import config as configuration
from reid.config import Config, ConfigError
from reid.runtime import Runtime
from reid.training import build
from reid.training.compilation import compile_blocks, require_compiler
from reid.types import Modality

ROOT = Path(__file__).parents[3]
CONFIG: dict[str, dict[str, Any]] = {
    "data": {"height": 32, "width": 16, "clip_frames": 2},
    "model": {"backbone": "thin", "weights": "none", "num_parts": 2, "variant": "baseline"},
}


def started() -> Runtime:
    return Runtime.start(precision="fp64", device="cpu", seed=0, deterministic=False)


def course(change: Callable[[Any], None]) -> tuple[dict[str, Tensor], Tensor]:
    """Weights and statistics after three steps on a network that was `change`d, and what it embeds then."""
    config = configuration.from_dict(CONFIG, "the tests")
    runtime = started()
    network = build.network(config, 3)
    model = runtime.prepare(network)
    change(network)
    optimizer = build.optimizer(config, network)
    groups = build.training_stages(config, network)[0].groups
    criterion = build.criterion(config, runtime)
    clips = torch.randn(
        3, 2, 3, 2, 3, 32, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    identity = torch.arange(3).repeat(2)
    for visible, infrared in clips:
        optimizer.zero_grad()
        sum(criterion(model(groups[0].branches, visible, infrared), identity).values()).backward()
        optimizer.step()
    with torch.inference_mode():
        embedded = network.eval().embed(clips[0, 0], Modality.VISIBLE)
    return network.state_dict(), embedded


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="compiles, for which it needs g++")
def test_a_compiled_network_learns_what_it_learned_and_keeps_its_names() -> None:
    require_compiler(started())
    (expected, vectors), (found, compiled) = course(lambda _: None), course(compile_blocks)
    assert list(found) == list(expected)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(compiled, vectors, rtol=0, atol=1e-9)
    assert torch._dynamo.utils.counters["frames"]["ok"] > 0  # it was compiled indeed


@pytest.mark.slow
def test_without_a_compiler_a_run_ends_before_it_begins_with_what_to_install(
    tiny: Callable[..., Config], tmp_path: Path
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(configuration.to_yaml(tiny(engine={"compile": True})))
    command = [sys.executable, "-m", "reid", "train", "--config", str(path), "--run", str(tmp_path / "run")]
    ended = subprocess.run(
        command,
        check=False,
        cwd=ROOT,
        env={**os.environ, "CXX": "/no/compiler"},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 2, ended.stderr
    assert "engine.compile: torch.compile does not work for cpu on this machine" in ended.stderr
    assert "apt-get install g++" in ended.stderr
    assert not (tmp_path / "run").exists()


def test_several_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = started()
    runtime.world, runtime.device = 2, torch.device("cuda")
    with pytest.raises(ConfigError, match="2 GPUs synchronise batch statistics"):
        require_compiler(runtime)
