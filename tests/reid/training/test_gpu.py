"""What only a GPU shows: `launch/test.sh -m gpu` on a machine that has one, with two for the last test."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from reid import config as configuration
from reid.data.clips import PairedClips
from reid.model.attention import IntraModalitySelfAttention
from reid.training import checkpoint

from .conftest import ROOT

pytestmark = pytest.mark.gpu

ON_GPU = {"device": "auto", "checkpoint_every_steps": 4}
BANDS = {
    "fp32": 1e-3,
    "fp16": 0.02,
    "bf16": 0.05,
}  # of the losses of the first two steps, which precede any chaos


def on_gpu(**engine: object) -> dict[str, object]:
    return {"engine": ON_GPU | engine}


@pytest.mark.parametrize("precision", BANDS)
def test_a_run_on_a_gpu_begins_like_one_on_a_cpu(tiny, alone, runs, tmp_path, precision):
    scored = runs.train(tiny(**on_gpu(precision=precision)), tmp_path / "run")
    assert scored.step == 8
    found, expected = runs.points(tmp_path / "run"), runs.points(alone())
    for name in ("train/def_id", "train/def_tri", "train/p_id", "train/att_id"):
        assert found[2, name] == pytest.approx(expected[2, name], rel=BANDS[precision]), name


def test_a_run_goes_on_from_a_gpu_to_a_cpu_and_back(tiny, alone, runs, tmp_path):
    """In fp64 the devices agree but for rounding, which three updates a step make larger."""
    folder = tmp_path / "run"
    for device, epochs in (("auto", 0), ("cpu", 1)):
        config = tiny(engine=ON_GPU | {"device": device}, schedule={"stage2_epochs": epochs})
        runs.train(config, folder, resume=True, accept_changes=True)
    found, expected = runs.snapshot(folder, 8), runs.snapshot(alone(), 8)
    for name, tensor in expected.weights.items():
        torch.testing.assert_close(found.weights[name], tensor, rtol=1e-5, atol=1e-6)


def test_deterministic_runs_end_the_same_and_a_resumed_one_too(tiny, runs, tmp_path):
    config = tiny(**on_gpu(precision="bf16", deterministic=True))
    for name in ("first", "second"):
        runs.train(config, tmp_path / name)
    for path in checkpoint.published(tmp_path / "second" / "checkpoints")[1:]:
        for file in path.iterdir():
            file.unlink()
        path.rmdir()
    runs.train(config, tmp_path / "second", resume=True)
    first, second = (runs.snapshot(tmp_path / name, 8) for name in ("first", "second"))
    torch.testing.assert_close(second.weights, first.weights, rtol=0, atol=0)
    torch.testing.assert_close(second.momentum, first.momentum, rtol=0, atol=0)


def test_compiled_blocks_train_on_a_gpu(tiny, runs, tmp_path):
    scored = runs.train(tiny(**on_gpu(precision="bf16", compile=True)), tmp_path / "run")
    assert scored.step == 8


def test_the_map_of_imsa_is_never_in_memory():
    """Only the flash kernel is allowed; it refuses what it cannot do."""
    attention = IntraModalitySelfAttention(64, 2).cuda().to(memory_format=torch.channels_last)
    x = torch.randn(4, 64, 72, 36, device="cuda").to(memory_format=torch.channels_last).requires_grad_()
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION), torch.autocast("cuda", torch.bfloat16):
        attention(x).sum().backward()
    assert x.grad.isfinite().all()


def test_clips_arrive_as_they_were_though_nobody_waited():
    pixels = torch.randint(256, (4, 2, 6, 3, 64, 32), dtype=torch.uint8)
    clips = PairedClips(*pixels[:2], torch.arange(2))
    moved = clips.to("cuda")
    assert all(there.cpu().equal(here) for here, there in zip(clips, moved, strict=True))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="gpu: there are no two")
def test_two_gpus_begin_like_one(tiny, runs, tmp_path):
    config = tiny(**on_gpu(precision="fp32"))
    runs.train(config, tmp_path / "one")
    path = tmp_path / "config.yaml"
    path.write_text(configuration.to_yaml(config))
    launcher = ["-m", "accelerate.commands.launch", "--num_processes", "2"]
    launcher += ["--config_file", str(Path(ROOT) / "launch" / "accelerate" / "one_node.yaml")]
    words = ["-m", "reid", "train", "--config", str(path), "--run", str(tmp_path / "two")]
    subprocess.run(
        [sys.executable, *launcher, *words], env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True
    )
    one, two = (runs.points(tmp_path / name) for name in ("one", "two"))
    for name in ("train/def_id", "train/def_tri", "train/p_id", "train/att_id"):
        assert two[2, name] == pytest.approx(one[2, name], rel=1e-3), name
