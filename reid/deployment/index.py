"""The embeddings of a gallery, computed once and kept.

    Gallery, Weights -> facts: all that the vectors depend on -> FOLDER/NAME-KEY.safetensors: is it there, whole, of these facts?
                     -> the vectors in it, or clips -> vectors -> written beside, and renamed

A file is named by place, checkpoint and protocol. What the place holds may have changed since, so the file remembers
that too, and the checksum of its vectors; one that disagrees is named in the log, and replaced.
"""

import hashlib
import json
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import normalize

from reid.data.clips import as_tensor, chunk_frames
from reid.deployment.draft import draft_of
from reid.deployment.tracklets import Gallery, Tracklet
from reid.deployment.weights import Weights
from reid.terminal import counted
from reid.types import Modality

FORMAT = 1
VECTORS = "vectors"

log = logging.getLogger(__name__)


class Index(NamedTuple):
    """Unit vectors (N, D) of the tracklets of a gallery, in their order, and whether they were read from `path`."""

    path: Path
    vectors: Tensor
    was_there: bool


class _UnusableIndexError(Exception):
    """A file that holds no vectors of these facts: why."""


def index(gallery: Gallery, weights: Weights, folder: Path) -> Index:
    """The index of a gallery: read from `folder`, or made and written there. Raises ValueError for a broken picture."""
    facts = _facts(gallery, weights)
    path = folder / _name(facts)
    if path.exists():
        try:
            return Index(path, _read(path, facts), True)
        except _UnusableIndexError as error:
            log.warning("%s %s; it is made again", path, error)
    vectors = embed(gallery.tracklets, weights)
    _write(path, vectors, facts)
    return Index(path, vectors, False)


def embed(tracklets: Sequence[Tracklet], weights: Weights) -> Tensor:
    """Unit vectors (N, D) on the CPU: of one clip a tracklet, or with `all_clips` the mean over all of them."""
    shape, batch_clips = weights.protocol.shape, weights.protocol.batch_clips
    device = next(weights.network.parameters()).device
    wanted = [
        (i, place)
        for modality in Modality  # a batch goes through one stem
        for i, tracklet in enumerate(tracklets)
        if tracklet.modality is modality
        for place in range(_num_clips(tracklet, weights))
    ]
    vectors = torch.zeros(len(tracklets), weights.width)
    with counted("embedding", len(wanted), "clips", speaks=len(wanted) > 1) as advance:
        for modality in Modality:
            its = [clip for clip in wanted if tracklets[clip[0]].modality is modality]
            for start in range(0, len(its), batch_clips):
                batch = its[start : start + batch_clips]
                clips = np.empty((len(batch), *shape, 3), dtype=np.uint8)
                for (i, place), clip in zip(batch, clips, strict=True):
                    tracklets[i].read(clip, place)
                with torch.inference_mode():
                    found = weights.embed(as_tensor(clips).to(device), modality).cpu()
                vectors.index_add_(0, torch.tensor([i for i, _ in batch]), found)
                advance(len(batch))
    return normalize(vectors, dim=1)


def _num_clips(tracklet: Tracklet, weights: Weights) -> int:
    protocol = weights.protocol
    return chunk_frames(tracklet.num_frames, protocol.shape.frames) if protocol.all_clips else 1


def _facts(gallery: Gallery, weights: Weights) -> dict[str, Any]:
    protocol = weights.protocol
    return {
        "format": FORMAT,
        "gallery": gallery.place,
        "data": gallery.digest,
        "tracklets": len(gallery.tracklets),
        "checkpoint": weights.digest,
        "protocol": {
            "clip": list(protocol.shape),
            "minimum_frames": protocol.minimum_frames,
            "embedding": protocol.embedding.value,
            "all_clips": protocol.all_clips,
        },
    }


def _name(facts: dict[str, Any]) -> str:
    key = json.dumps([facts[name] for name in ("gallery", "checkpoint", "protocol")]).encode()
    place = re.sub(r"[^A-Za-z0-9]+", "-", Path(facts["gallery"]).name)
    return f"{place}-{hashlib.sha256(key).hexdigest()[:12]}.safetensors"


def _read(path: Path, facts: dict[str, Any]) -> Tensor:
    """Raises _UnusableIndexError for anything but whole vectors of these facts."""
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
            vectors: Tensor = file.get_tensor(VECTORS)
        known, checksum = json.loads(metadata["facts"]), metadata["sha256"]
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise _UnusableIndexError(f"cannot be read ({error})") from error
    if _checksum(vectors) != checksum:
        raise _UnusableIndexError("is damaged: its vectors are not those that were written")
    if changed := [name for name in facts if known.get(name) != facts[name]]:
        raise _UnusableIndexError(f"is stale: {', '.join(changed)} changed since it was made")
    return vectors


def _write(path: Path, vectors: Tensor, facts: dict[str, Any]) -> None:
    with draft_of(path) as draft:
        metadata = {"facts": json.dumps(facts), "sha256": _checksum(vectors)}
        save_file({VECTORS: vectors}, draft, metadata)
        draft.replace(path)


def _checksum(vectors: Tensor) -> str:
    return hashlib.sha256(vectors.contiguous().numpy().tobytes()).hexdigest()
