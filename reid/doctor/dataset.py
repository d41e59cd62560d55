"""Checks of what a run reads: the packed data set, its shards, a cache for them, and weights to start from."""

import hashlib
import re
import time
from pathlib import Path

import numpy as np

from reid.data.batches import BatchPlan
from reid.data.cache import ShardCache
from reid.data.clips import ClipReader, ClipShape
from reid.data.dataset import open_dataset
from reid.data.manifest import Manifest
from reid.data.shards import DamagedShardError
from reid.data.sources import SourceError
from reid.doctor.finding import Finding, Subject, failure, ok, warning
from reid.model.resnet import imagenet_file
from reid.types import Role

SECONDS_TO_READ = 2.0
NO_DATA_SET = "none is named"
VERIFY = "Find all damage with `python -m preprocess verify`, then restore the shard or pack it again"


def opens(subject: Subject) -> Finding:
    """The tables are read, and compared with their digests."""
    root = subject.config.data.root
    if root is None:
        return warning(NO_DATA_SET, "Name a packed data set with --root, so that it is looked at")
    try:
        manifest = open_dataset(root)
    except (ValueError, SourceError) as error:
        return failure(str(error), "Pack one with `python -m preprocess pack`, or name another with --root")
    minimum = subject.config.data.minimum_frames
    counts = ", ".join(f"{len(manifest.rows(role, minimum_frames=minimum)):,} {role}" for role in Role)
    return ok(f"{manifest.name} {manifest.digest[:12]} at {manifest.place}: {counts} tracklets")


def complete(subject: Subject) -> Finding:
    """Every shard in a folder is there, and as long as it was packed."""
    manifest = _opened(subject)
    if manifest is None or not isinstance(manifest.place, Path):
        return ok("nothing in a folder to look at")
    wrong = []
    for shard in manifest.shards:
        size = shard.path.stat().st_size if shard.path.is_file() else None
        if size != shard.nbytes:
            found = "is missing" if size is None else f"has {size:,} bytes"
            wrong.append(f"{shard.path} {found}, expected {shard.nbytes:,}")
    if wrong:
        return failure(f"{wrong[0]}; {len(wrong)} of {len(manifest.shards)} shards are damaged", VERIFY)
    return ok(f"{len(manifest.shards)} shards, {sum(shard.nbytes for shard in manifest.shards) / 1e9:.2f} GB")


def readable(subject: Subject) -> Finding:
    """Clips from the first and the last tracklet of each shard, checksums compared and decoded, for some seconds."""
    manifest = _opened(subject)
    if manifest is None:
        return ok("nothing to read")
    data = subject.config.data
    clip = np.empty((1, data.clip_frames, data.height, data.width, 3), dtype=np.uint8)
    reader = ClipReader(manifest, ClipShape(data.clip_frames, data.height, data.width))
    began, looked_at = time.monotonic(), 0
    try:
        for number in np.random.default_rng(0).permutation(len(manifest.shards)).tolist():
            shard = manifest.shards[number]
            for row in {shard.first_row, shard.first_row + shard.num_tracklets - 1}:
                reader.read_for_test(np.array([row]), clip)
            looked_at += 1
            if time.monotonic() - began > SECONDS_TO_READ:
                break
    except DamagedShardError as error:
        return failure(str(error), VERIFY)
    finally:
        reader.close()
    return ok(f"clips of {looked_at} of {len(manifest.shards)} shards, first and last tracklet")


def batches(subject: Subject) -> Finding:
    """Whether the data set has enough identities, and the batch divides by the processes."""
    manifest = _opened(subject)
    if manifest is None:
        return ok("nothing to draw from")
    data = subject.config.data
    try:
        plan = BatchPlan.of(
            manifest,
            num_identities=data.num_identities,
            num_tracklets=data.num_tracklets,
            minimum_frames=data.minimum_frames,
            seed=subject.config.seed,
        )
        pairs = plan.pairs_per_process(subject.processes)
    except ValueError as error:
        return failure(
            str(error), "Change data.num_identities, data.minimum_frames or the number of processes"
        )
    return ok(f"{pairs} pairs of clips a process, from {len(plan.identities)} identities")


def cache(subject: Subject) -> Finding:
    data = subject.config.data
    if data.cache is None:
        return ok("none is asked for")
    try:
        ShardCache(data.cache, data.cache_gigabytes)
    except (ValueError, OSError) as error:
        return failure(str(error), "Name another folder with --data.cache")
    return ok(f"{data.cache}, at most {data.cache_gigabytes:g} GB")


def weights(subject: Subject) -> Finding:
    """What the trunk starts from, by the digest in its name."""
    source = subject.config.model.weights
    if source == "none":
        return ok("trained from scratch")
    path = imagenet_file() if source == "imagenet" else Path(source)
    if not path.is_file():
        if source == "imagenet":
            return warning(
                f"{path} is not there",
                "It is downloaded when a run begins; where there is no network, put it there before, or use "
                "--model.weights none",
            )
        return failure(f"{path} is not there", "Name a .pth or .safetensors file with --model.weights")
    digest = re.search(r"-([0-9a-f]{8,})\.pth$", path.name)
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if digest and not found.startswith(digest[1]):
        return failure(
            f"{path} is damaged: its sha256 begins with {found[:8]}", "Remove it and download it again"
        )
    return ok(f"{path}, {path.stat().st_size / 1e6:.0f} MB")


def _opened(subject: Subject) -> Manifest | None:
    """The data set; None if there is none, or none that can be opened, which `opens` tells."""
    if subject.config.data.root is None:
        return None
    try:
        return open_dataset(subject.config.data.root)
    except (ValueError, SourceError):
        return None
