"""From a checkpoint to files that others run: written, held against the checkpoint, and only then published.

Weights -> cases: clips and what the checkpoint makes of them
        -> program -> FILE.pt2, with facts.json inside -> read back, asked the cases -> renamed
                   -> FILE.onnx, with the facts as metadata -> onnxruntime, asked the same -> renamed
"""

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.export import ExportedProgram

from reid.deployment import onnx
from reid.deployment.draft import draft_of
from reid.deployment.program import BATCHES, INPUTS, OUTPUT, TOLERANCE, Cases, cases, difference, exported
from reid.deployment.weights import Weights

FACTS = "facts.json"

log = logging.getLogger(__name__)

Program = Callable[[Tensor, Tensor], Tensor]


class Exported(NamedTuple):
    """A published file, and how far its embeddings are from those of the checkpoint."""

    path: Path
    difference: float


def export(weights: Weights, out: Path, *, with_onnx: bool = False) -> list[Exported]:
    """Write `out`, a .pt2, and beside it, if asked for, the same as ONNX.

    Raises ValueError for a name that cannot be written or packages that are missing, before anything is computed, and
    RuntimeError if what was written computes something else than the checkpoint; then nothing is published.
    """
    if out.suffix != ".pt2" or out.is_dir():
        raise ValueError(f"--out: expected the name of a file that ends in .pt2, found {out}")
    if with_onnx:
        onnx.require()
    try:
        with draft_of(out) as draft:
            draft.touch()
    except OSError as error:
        raise ValueError(f"--out: {out} cannot be written: {error.strerror}") from error
    clips, infrared = INPUTS
    facts = {
        **weights.facts(),
        "inputs": {
            clips: "uint8 (B, T, 3, H, W), red first, resized without keeping the ratio; no other preparation",
            infrared: "bool (B,): whether the clip was filmed by an infrared camera",
        },
        "output": f"{OUTPUT}: float32 (B, {weights.width}), unit length; a dot product is a cosine",
        "checked": f"at batches of {', '.join(map(str, BATCHES))} clips, within {TOLERANCE:g} of the checkpoint",
        "torch": torch.__version__,
    }
    expected = cases(weights)
    log.info("tracing %s, step %d", weights.path, weights.step)
    program = exported(weights)
    written = [publish(out, lambda path: _write(program, facts, path), _read, expected)]
    if with_onnx:
        log.info("converting to ONNX")
        path = out.with_suffix(".onnx")
        written.append(publish(path, lambda draft: onnx.write(program, facts, draft), onnx.read, expected))
    return written


def _write(program: ExportedProgram, facts: dict[str, object], path: Path) -> None:
    torch.export.save(program, path, extra_files={FACTS: json.dumps(facts, indent=1)})


def _read(path: Path) -> Program:
    module: Program = torch.export.load(path).module()
    return module


def publish(
    path: Path, write: Callable[[Path], None], read: Callable[[Path], Program], expected: Cases
) -> Exported:
    """Write a file, ask it what the checkpoint was asked, and give it its name if it agrees."""
    with draft_of(path) as draft:
        write(draft)
        program = read(draft)
        with torch.inference_mode():
            worst = max(difference(program(clips, infrared), right) for clips, infrared, right in expected)
        if not worst <= TOLERANCE:
            raise RuntimeError(
                f"{path}: not published, because its embeddings are {worst:.2g} away from those of the checkpoint, more than "
                f"{TOLERANCE:g}. This is a fault of the exporter: torch {torch.__version__}; try another version"
            )
        descriptor = os.open(draft, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
        draft.replace(path)
    return Exported(path, worst)
