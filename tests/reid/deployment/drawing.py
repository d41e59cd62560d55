"""A run that was drawn and not trained, and people in plain folders: what the tests of deployment and its commands share."""

from pathlib import Path

import numpy as np
import simplejpeg
import torch

from reid.config import Config
from reid.data.manifest import Manifest
from reid.training import build, checkpoint
from reid.training.checkpoint import Snapshot


def draw_run(config: Config, folder: Path) -> Path:
    """The folder of a run whose only checkpoint, of step 8, holds fresh weights."""
    torch.manual_seed(0)
    network = build.network(config, 8)
    manifest = Manifest.open(Path(config.data.root or ""))
    data_set = {"name": manifest.name, "digest": manifest.digest, "synthetic": manifest.synthetic}
    state = {"config": config.model_dump(mode="json"), "dataset": data_set, "num_identities": 8}
    checkpoint.publish(folder / "checkpoints", Snapshot(8, network.state_dict(), {}, state))
    return folder


def draw_frames(folder: Path, count: int, seed: int) -> Path:
    """A tracklet as a folder of JPEGs, 40 high and 20 wide, named 0.jpg, 1.jpg, ..."""
    folder.mkdir(parents=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (count, 5, 5, 3), dtype=np.uint8)
    for index, picture in enumerate(pixels.repeat(8, axis=1).repeat(4, axis=2)):
        (folder / f"{index}.jpg").write_bytes(simplejpeg.encode_jpeg(np.ascontiguousarray(picture), 90))
    return folder


def draw_people(folder: Path) -> Path:
    """Three visible and two infrared tracklets of 12 frames."""
    for seed, name in enumerate(["rgb/ann", "rgb/bob", "rgb/cat", "ir/night-9", "ir/night-10"]):
        draw_frames(folder / name, 12, seed)
    return folder
