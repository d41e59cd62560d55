"""What a packed data set holds: counts, the camera x modality table, and how it differs from the published VCM.

Manifest columns -> count -> dataset.json, and compared with it by `verify`
                 -> describe -> what `inspect` prints
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from preprocess.vcm import Mixed, Tree
from reid.data.manifest import Manifest
from reid.types import Modality, Role, Split

# HITSZ-VCM as published: identities, tracklets, tracklets of at least 12 frames.
PUBLISHED = {
    (Split.TRAIN, Modality.INFRARED): {"identities": 500, "tracklets": 4_919, "long_tracklets": 4_291},
    (Split.TRAIN, Modality.VISIBLE): {"identities": 500, "tracklets": 6_142, "long_tracklets": 5_460},
    (Split.TEST, Modality.INFRARED): {"identities": 427, "tracklets": 5_159, "long_tracklets": 4_584},
    (Split.TEST, Modality.VISIBLE): {"identities": 427, "tracklets": 5_643, "long_tracklets": 5_099},
}
PUBLISHED_FRAMES = {Split.TRAIN: 232_496, Split.TEST: 230_763}
PUBLISHED_MINIMUM = 12


def count(manifest: Manifest) -> dict[str, Any]:
    """Identities, tracklets, frames, and tracklets of the minimum length, of each split and modality and in all."""
    counts: dict[str, Any] = {}
    for position, split in enumerate(Split):
        in_split = manifest.split == position
        counts[split.value] = {
            modality.name.lower(): _count(manifest, in_split & (manifest.modality == modality))
            for modality in Modality
        }
        counts[split.value]["identities"] = int(np.unique(manifest.identity[in_split]).size)
    counts["queries"] = int((manifest.role == list(Role).index(Role.QUERY)).sum())
    counts["shards"] = len(manifest.shards)
    return counts | _count(manifest, np.ones(len(manifest), dtype=bool))


def _count(manifest: Manifest, chosen: Any) -> dict[str, int]:
    num_frames = manifest.num_frames[chosen]
    return {
        "identities": int(np.unique(manifest.identity[chosen]).size),
        "tracklets": int(chosen.sum()),
        "long_tracklets": int((num_frames >= manifest.minimum_frames).sum()),
        "frames": int(num_frames.sum(dtype=np.int64)),
    }


def differences(counts: dict[str, Any], tree: Tree, minimum_frames: int) -> list[str]:
    """Each count that is not the published one, with what this program knows about the reason."""
    return list(_differences(counts, tree, minimum_frames))


def _differences(counts: dict[str, Any], tree: Tree, minimum_frames: int) -> Iterator[str]:
    for (split, modality), published in PUBLISHED.items():
        found = counts[split.value][modality.name.lower()]
        for name, expected in published.items():
            if found[name] != expected:
                yield (
                    f"{split} {modality.name.lower()} {name.replace('_', ' ')}: {expected:,} published, "
                    f"{found[name]:,} found; {_reason(name, split, tree, minimum_frames)}"
                )
    for split, expected in PUBLISHED_FRAMES.items():
        frames = sum(counts[split.value][modality.name.lower()]["frames"] for modality in Modality)
        if frames != expected:
            reason = _reason("frames", split, tree, minimum_frames)
            yield f"{split} frames: {expected:,} published, {frames:,} found; {reason}"


def _reason(name: str, split: Split, tree: Tree, minimum_frames: int) -> str:
    reasons = []
    if name == "long_tracklets" and minimum_frames != PUBLISHED_MINIMUM:
        reasons.append(f"the minimum is {minimum_frames} frames here, {PUBLISHED_MINIMUM} as published")
    if tree.num_mixed[split] and tree.mixed is not Mixed.KEEP:
        reasons.append(f"{tree.num_mixed[split]} rows mix sources and were treated with `{tree.mixed}`")
    reasons += [note for note in tree.notes if note.startswith(str(split)) and "belong to no row" in note]
    return "; ".join(reasons) or "the index files differ from the published ones, no other reason is known"
