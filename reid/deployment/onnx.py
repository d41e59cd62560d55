"""The program as ONNX, for runtimes without torch. The packages are an extra; the only file that imports them.

ExportedProgram -> .onnx, one file, with the facts as metadata -> onnxruntime on the CPU
"""

import importlib
import json
import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from reid.deployment.program import INPUTS, OUTPUT

PACKAGES = ("onnx", "onnxscript", "onnxruntime")

for _talkative in ("onnxscript", "onnx_ir"):
    logging.getLogger(_talkative).setLevel(logging.WARNING)  # they tell of every constant


def require() -> None:
    """Raises ValueError if a package is missing."""
    for name in PACKAGES:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ValueError(
                f"--onnx needs the packages {', '.join(PACKAGES)}, and {error.name or name} is not installed here; install "
                "them with `pip install 'reid-video[onnx]'`"
            ) from error


def write(program: ExportedProgram, facts: dict[str, Any], path: Path) -> None:
    """Convert a program into one file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the converter's own, about its own calls
        converted = torch.onnx.export(
            program,
            input_names=list(INPUTS),
            output_names=[OUTPUT],
            dynamo=True,
            verbose=False,
        )
    assert converted is not None
    converted.model.metadata_props["facts"] = json.dumps(facts)
    converted.save(path, external_data=False)


def read(path: Path) -> Callable[[Tensor, Tensor], Tensor]:
    """What an .onnx file computes on the CPU."""
    session = importlib.import_module("onnxruntime").InferenceSession(
        path, providers=["CPUExecutionProvider"]
    )

    def run(clips: Tensor, infrared: Tensor) -> Tensor:
        values = (tensor.numpy() for tensor in (clips, infrared))
        (found,) = session.run([OUTPUT], dict(zip(INPUTS, values, strict=True)))
        return torch.from_numpy(found)

    return run
