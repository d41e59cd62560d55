"""The embedding model of retrieval as one program that needs nothing of ours to run.

    clips (B, T, 3, H, W) uint8, red first, as decoded and resized     infrared (B,) bool, which light each clip was filmed in
      -> normalised -> both stems, of which each clip keeps its own -> trunk -> embedding (B, D) float32, unit length

A clip through both stems costs a few percent more than through one; for that there is one file for both lights, and a
batch may mix them. The batch is free, frames and size are those of training.
"""

import math
import warnings
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from reid.data.clips import ClipShape, normalise
from reid.deployment.weights import Weights
from reid.model.network import Network, Part
from reid.types import Embedding, Modality

INPUTS, OUTPUT = ("clips", "infrared"), "embedding"
BATCHES = (1, 2, 5)  # clips, at which a program is held against its checkpoint
TOLERANCE = 1e-4  # between unit vectors: a cosine then changes by at most as much
BLOCK = 8  # pixels

Cases = list[tuple[Tensor, Tensor, Tensor]]  # clips, infrared, embeddings


class EmbeddingModel(nn.Module):
    """`network.embed` for clips of both modalities at once: a copy without the parts that they do not pass through."""

    def __init__(self, network: Network, kind: Embedding) -> None:
        super().__init__()
        network = deepcopy(network)
        network.requires_grad_(requires_grad=False)  # whoever runs the program wants vectors, not a graph
        needed = {Part.STEM, Part.DEFENCE}
        if kind in {Embedding.GUIDED, Embedding.BOTH}:
            needed.add(Part.GUIDANCE)
        for part in network.parts.keys() - needed:
            delattr(network, part)
        if kind is not Embedding.SELF_ATTENDED and network.defence.cross is not None:
            del network.defence.cmca3, network.defence.cmca4
        self.network = network
        self.kind = kind

    def forward(self, clips: Tensor, infrared: Tensor) -> Tensor:
        num_frames = clips.shape[1]
        pixels = normalise(clips)
        visible, dark = (self.network.stem_features(pixels, m) for m in (Modality.VISIBLE, Modality.INFRARED))
        is_dark = infrared[:, None].expand(-1, num_frames).flatten()[:, None, None, None]  # (B*T, 1, 1, 1)
        return self.network.embed_features(torch.where(is_dark, dark, visible), num_frames, self.kind)


def cases(weights: Weights) -> Cases:
    """Clips of every size of batch, always the same ones, and what the checkpoint makes of them, modality by modality."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for size in BATCHES:
        clips = _clips(size, weights.protocol.shape, generator)
        infrared = torch.arange(size) % 2 == size % 2
        with torch.inference_mode():
            by_light = [weights.embed(clips, modality) for modality in (Modality.VISIBLE, Modality.INFRARED)]
        found.append((clips, infrared, torch.where(infrared[:, None], by_light[1], by_light[0])))
    return found


def exported(weights: Weights) -> ExportedProgram:
    """The program, with a batch of any size."""
    model = EmbeddingModel(weights.network, weights.protocol.embedding).eval()
    clips = _clips(2, weights.protocol.shape, torch.Generator().manual_seed(0))
    batch = Dim("batch", min=1)
    with warnings.catch_warnings():
        # nn.LSTM keeps a second list of its weights, which tracing replaces for a moment
        warnings.filterwarnings("ignore", r".*_flat_weights.* assigned during export", UserWarning)
        return torch.export.export(
            model,
            (clips, torch.tensor([True, False])),
            dynamic_shapes={name: {0: batch} for name in INPUTS},
        )


def difference(one: Tensor, other: Tensor) -> float:
    """The largest distance between vectors (B, D) that should be equal; infinite if one is no number."""
    distance = float((one - other).norm(dim=1).max())
    return math.inf if math.isnan(distance) else distance


def _clips(size: int, shape: ClipShape, generator: torch.Generator) -> Tensor:
    """Pictures of coarse blocks, unlike each other in every frame."""
    frames, height, width = shape
    coarse = torch.randint(
        256,
        (size, frames, 3, -(-height // BLOCK), -(-width // BLOCK)),
        dtype=torch.uint8,
        generator=generator,
    )
    fine = coarse.repeat_interleave(BLOCK, -2).repeat_interleave(BLOCK, -1)
    return fine[..., :height, :width].contiguous()
