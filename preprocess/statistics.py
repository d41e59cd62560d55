"""What a packed data set holds: counts, the camera x modality table, and how it differs from the published VCM.

Manifest columns -> count -> dataset.json, and compared with it by `verify`
                 -> describe -> what `inspect` prints
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from preprocess.options import Mixed
from preprocess.tree import Tree
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


def inspect(manifest: Manifest) -> dict[str, Any]:
    """All that `inspect` shows, ready for JSON. The table has a row a camera: tracklets of each modality."""
    source = manifest.description["source"]
    return {
        "root": str(manifest.root),
        "name": manifest.name,
        "synthetic": manifest.synthetic,
        "id": manifest.digest,
        "minimum_frames": manifest.minimum_frames,
        "counts": count(manifest),
        "cameras": _camera_table(manifest),
        "sizes": _sizes(manifest),
        "frames_per_tracklet": _spread(manifest),
        "same_camera_pairs": same_camera_pairs(manifest),
        **{
            name: source[name]
            for name in ("layout", "mixed_rows", "notes", "differences", "skipped_frames", "lost_tracklets")
        },
    }


def _camera_table(manifest: Manifest) -> dict[int, dict[str, int]]:
    return {
        int(camera): {
            modality.name.lower(): int(((manifest.camera == camera) & (manifest.modality == modality)).sum())
            for modality in Modality
        }
        for camera in np.unique(manifest.camera)
    }


def _sizes(manifest: Manifest) -> dict[str, int]:
    """How many tracklets have which picture size, HxW; 0x0 are tracklets of several sizes."""
    sizes, counts = np.unique(np.stack([manifest.height, manifest.width], axis=1), axis=0, return_counts=True)
    return {f"{height}x{width}": int(n) for (height, width), n in zip(sizes.tolist(), counts, strict=True)}


def _spread(manifest: Manifest) -> dict[str, float]:
    lengths = manifest.num_frames
    return {"least": int(lengths.min()), "mean": round(float(lengths.mean()), 2), "most": int(lengths.max())}


def same_camera_pairs(manifest: Manifest) -> int:
    """Pairs of query and gallery that evaluation leaves out because identity and camera are the same."""
    sides = []
    for role in (Role.QUERY, Role.GALLERY):
        rows = manifest.rows(role)
        sides.append(np.stack([manifest.identity[rows], manifest.camera[rows]], axis=1))
    (asked, num_asked), (there, num_there) = (np.unique(side, axis=0, return_counts=True) for side in sides)
    of_gallery = dict(zip(map(tuple, there.tolist()), num_there.tolist(), strict=True))
    pairs = zip(map(tuple, asked.tolist()), num_asked.tolist(), strict=True)
    return sum(number * of_gallery.get(place, 0) for place, number in pairs)
