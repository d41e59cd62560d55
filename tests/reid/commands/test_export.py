"""reid/commands/export.py: where the program goes, what is told of it, and mistakes in one message."""

import pytest
import torch

from reid.cli import main
from tests.reid.deployment.drawing import draw_run


@pytest.fixture(scope="module")
def run(tiny, tmp_path_factory):
    return draw_run(tiny(model={"variant": "baseline"}), tmp_path_factory.mktemp("exported") / "run")


def test_a_program_lies_beside_what_was_exported_and_says_that_its_data_was_synthetic(run, capsys):
    assert main(["export", "--checkpoint", str(run)]) == 0
    path = run.with_name("run.pt2")
    printed = capsys.readouterr().out
    assert printed.startswith(f"{path}  ")
    assert (
        "step 8 of baseline, trained on SYNTHETIC data: clips of 3 frames of 32x16 -> 128 numbers" in printed
    )
    clips = torch.zeros(1, 3, 3, 32, 16, dtype=torch.uint8)
    embedding = torch.export.load(path).module()(clips, torch.tensor([False]))
    assert embedding.shape == (1, 128)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--checkpoint", "nowhere"], "nowhere: neither a checkpoint"),
        (["--checkpoint", "RUN", "--out", "model.onnx"], "expected the name of a file that ends in .pt2"),
        (
            ["--checkpoint", "RUN", "--embedding", "guided"],
            "needs FRM-STIG, which this variant does not have",
        ),
    ],
)
def test_a_mistake_is_told_in_one_message(run, capsys, options, told):
    assert main(["export", *(str(run) if word == "RUN" else word for word in options)]) == 2
    error = capsys.readouterr().err.splitlines()
    assert len([line for line in error if line.startswith("reid export: ")]) == 1
    assert told in error[-1]
