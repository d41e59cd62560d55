"""reid/deployment/export.py: what is published computes what the checkpoint computes, without anything of ours."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from reid.deployment import export, onnx
from reid.deployment.program import EmbeddingModel

IS_CI = os.environ.get("CI") == "true"
HAS_ONNX = IS_CI or all(importlib.util.find_spec(name) for name in onnx.PACKAGES)

STRANGER = """
import json, sys, torch
facts = {"facts.json": ""}
program = torch.export.load(sys.argv[1], extra_files=facts).module()
clips, infrared = torch.load(sys.argv[2])
answer = program(clips, infrared)
assert not answer.requires_grad
torch.save(answer, sys.argv[3])
print(json.loads(facts["facts.json"])["embedding_size"])
ours = [name for name in sys.modules if name.split(".")[0] in ("reid", "preprocess")]
assert not ours, ours
"""


@pytest.fixture(scope="module")
def written(loaded, tmp_path_factory) -> list[export.Exported]:
    """The program of the full model, and if it can be, the same as ONNX."""
    return export.export(loaded, tmp_path_factory.mktemp("export") / "new" / "model.pt2", with_onnx=HAS_ONNX)


def question() -> tuple[torch.Tensor, torch.Tensor]:
    """Three clips, a number of them that the exporter did not try."""
    clips = torch.randint(256, (3, 3, 3, 32, 16), dtype=torch.uint8, generator=torch.manual_seed(5))
    return clips, torch.tensor([False, True, True])


def answer(weights) -> torch.Tensor:
    with torch.inference_mode():
        return EmbeddingModel(weights.network, weights.protocol.embedding)(*question())


@pytest.mark.slow
def test_a_fresh_process_without_anything_of_ours_gets_the_embeddings_of_the_checkpoint(
    loaded, written, tmp_path
):
    program = written[0]
    assert program.path.name == "model.pt2"
    assert program.difference <= 1e-5
    assert {path.name for path in program.path.parent.iterdir()} == {file.path.name for file in written}
    torch.save(question(), tmp_path / "question.pt")
    files = [str(program.path), str(tmp_path / "question.pt"), str(tmp_path / "answer.pt")]
    told = subprocess.run(
        [sys.executable, "-I", "-c", STRANGER, *files],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 0, told.stderr
    assert int(told.stdout) == loaded.width
    torch.testing.assert_close(torch.load(tmp_path / "answer.pt"), answer(loaded), rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(not HAS_ONNX, reason="the extra onnx is not installed")
def test_onnxruntime_gets_the_embeddings_of_the_checkpoint(loaded, written):
    converted = written[1]
    assert converted.path.name == "model.onnx"
    assert converted.difference <= 1e-4
    import onnx as library

    (told,) = library.load(converted.path).metadata_props
    assert json.loads(told.value)["checkpoint_sha256"] == loaded.digest
    torch.testing.assert_close(onnx.read(converted.path)(*question()), answer(loaded), rtol=0, atol=1e-4)


def test_a_program_that_disagrees_is_not_published_and_the_former_one_stays(tmp_path):
    path = tmp_path / "model.pt2"
    path.write_text("the former one")
    clips, infrared = question()
    expected = [(clips, infrared, torch.zeros(3, 4))]
    with pytest.raises(RuntimeError, match=r"not published, because its embeddings are 0\.2 away"):
        export.publish(path, _write, lambda _: lambda *_: torch.full((3, 4), 0.1), expected)
    assert path.read_text() == "the former one"
    assert list(tmp_path.iterdir()) == [path]
    assert export.publish(path, _write, lambda _: lambda *_: torch.full((3, 4), 1e-5), expected).path == path
    assert path.read_text() == "new"


def _write(path: Path) -> None:
    path.write_text("new")


def test_a_name_that_cannot_be_a_program_is_refused(loaded, tmp_path):
    (tmp_path / "folder.pt2").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"model\.pt2 cannot be written: "):
        export.export(loaded, tmp_path / "file" / "model.pt2")
    for out in (tmp_path / "model.pth", tmp_path / "folder.pt2"):
        with pytest.raises(ValueError, match=r"expected the name of a file that ends in \.pt2"):
            export.export(loaded, out)


def test_a_missing_package_of_the_extra_is_named_before_anything_is_written(loaded, tmp_path, monkeypatch):
    for name in onnx.PACKAGES:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ValueError, match=r"pip install 'reid-video\[onnx\]'"):
        export.export(loaded, tmp_path / "model.pt2", with_onnx=True)
    assert not list(tmp_path.iterdir())
