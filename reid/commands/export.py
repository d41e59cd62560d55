"""reid export: the embedding model of a checkpoint as a program that needs nothing of ours."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from reid.arguments import parse
from reid.types import Embedding


@dataclass(frozen=True)
class ExportArguments:
    """Write the embedding model of a checkpoint as a program that torch.export.load reads, without anything of ours.

    It takes clips as they are decoded and says how to compare people. It is published only if it computes what the
    checkpoint computes.
    """

    checkpoint: str
    """A checkpoint; the folder of a run: then its newest valid checkpoint; or models:/ID of MLflow."""
    out: Path | None = None
    """File to write, ending in .pt2; by default FOLDER.pt2 beside the folder that --checkpoint names."""
    onnx: bool = False
    """Write the same as ONNX too, beside it."""
    embedding: Embedding | None = None
    """What is compared, if not what the run compared."""
    uri: str | None = None
    """MLflow server or store that knows models:/ID, if not MLFLOW_TRACKING_URI."""


def main(arguments: Sequence[str]) -> int:
    chosen = parse(ExportArguments, arguments, "export")
    from reid.deployment import weights
    from reid.deployment.export import export
    from reid.deployment.program import TOLERANCE

    path = weights.found(chosen.checkpoint, chosen.uri)
    folder = Path(chosen.checkpoint) if Path(chosen.checkpoint).is_dir() else path
    out = chosen.out or folder.resolve().with_name(f"{folder.resolve().name}.pt2")
    loaded = weights.load(path, chosen.embedding)
    facts = loaded.facts()
    for written in export(loaded, out, with_onnx=chosen.onnx):
        print(
            f"{written.path}  {written.path.stat().st_size / 1e6:.1f} MB, embeddings within {written.difference:.1g} of the "
            f"checkpoint's ({TOLERANCE:g} allowed)"
        )
    clip = facts["clip"]
    trained = {True: "SYNTHETIC data", False: "real data", None: "data of unknown kind"}[facts["synthetic"]]
    print(
        f"step {facts['step']} of {facts['variant']}, trained on {trained}: clips of {clip['frames']} frames of "
        f"{clip['height']}x{clip['width']} -> {facts['embedding_size']} numbers, unit length"
    )
    return 0
