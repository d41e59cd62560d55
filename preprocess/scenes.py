"""What stands behind the people of a synthetic camera: a wall with windows and doors, plants, and paving.

    number of a scene -> panorama (C, H + 2 margins, wide), linear light

A camera shows a window of its panorama that slides along as the person walks. The colours and the near-infrared
reflectances are drawn apart; leaves are dark in visible light and the brightest thing there is in infrared.
"""

from functools import lru_cache

import numpy as np
from PIL import Image

from preprocess.wardrobe import Array, Material
from reid.types import Modality

WIDTH_IN_HEIGHTS = 3.0
MARGIN = 0.06  # of a frame's height, above and below it, for a camera that shakes
LEAVES = Material(0.3, 0.4, 0.22, 0.72)


@lru_cache(maxsize=128)
def panorama(number: int, modality: Modality, horizon: float, sigma: float, height: int) -> Array:
    """The scene `number` for frames of `height`; the wall meets the ground at `horizon` (a fraction of the height,
    from above), and `sigma` blurs it, in pixels. Callers share the array: they must not write to it.
    """
    rng = np.random.default_rng(number)
    shape = (height + 2 * round(MARGIN * height), round(WIDTH_IN_HEIGHTS * height))
    rows, columns = np.mgrid[0 : shape[0], 0 : shape[1]].astype(np.float32) / np.float32(height)
    wall = _wall(rng, rows, columns, horizon, modality)
    ground = _ground(rng, rows, columns, horizon, modality)
    scene = np.where(rows > horizon, ground, wall)
    if rng.random() < 0.6:
        outline = horizon - 0.14 + 0.3 * (_cloud(rng, shape, height / 2) - 0.5)
        foliage = 0.25 + 0.8 * _cloud(rng, shape, height / 8) + 0.5 * _cloud(rng, shape, height / 24)
        plants = (rows > outline) & (rows < horizon + 0.02)
        scene = np.where(plants, LEAVES.albedo(modality)[:, None, None] * foliage, scene)
    weathered = (0.75 + 0.5 * _cloud(rng, shape, height / 2)) * (0.85 + 0.3 * _cloud(rng, shape, height / 20))
    scene = _blurred(scene * weathered, sigma).astype(np.float32)
    scene.setflags(write=False)
    return scene


def _wall(rng: np.random.Generator, rows: Array, columns: Array, horizon: float, modality: Modality) -> Array:
    """A plain or jointed wall with up to three kinds of opening, repeated along it; (C, rows, columns)."""
    wall = np.broadcast_to(
        _paint(rng, 0.35, 0.8, modality), (len(_paint(rng, 0, 1, modality)), *rows.shape)
    ).copy()
    if rng.random() < 0.5:
        course = rng.uniform(0.04, 0.09)
        wall *= np.where((rows / course) % 1.0 < 0.16, 0.78, 1.0)
    bay = rng.uniform(0.4, 0.9)
    for _ in range(rng.integers(1, 4)):
        left, top = rng.uniform(0.0, 0.6), rng.uniform(0.0, 0.5)
        right, bottom = left + rng.uniform(0.1, 0.35), rng.choice((1.0, top + 0.4))
        across = (columns / bay) % 1.0
        is_open = (across > left) & (across < right) & (rows > top * horizon) & (rows < bottom * horizon)
        wall = np.where(is_open, _paint(rng, 0.1, 0.75, modality), wall)
    return wall


def _ground(
    rng: np.random.Generator, rows: Array, columns: Array, horizon: float, modality: Modality
) -> Array:
    """Paving, brighter towards the camera; (C, rows, columns)."""
    tile_width, tile_depth = rng.uniform(0.25, 0.6), rng.uniform(0.1, 0.25)
    below = rows - horizon
    joints = ((columns / tile_width + 0.6 * below) % 1.0 < 0.05) | ((below / tile_depth) % 1.0 < 0.1)
    return _paint(rng, 0.3, 0.65, modality) * (0.8 + 0.4 * below) * np.where(joints, 0.72, 1.0)


def _paint(rng: np.random.Generator, low: float, high: float, modality: Modality) -> Array:
    """A greyish surface, (C, 1, 1)."""
    colour = np.clip(rng.uniform(low, high) + rng.uniform(-0.05, 0.05, 3), 0.02, 1.0)
    surface = Material(float(colour[0]), float(colour[1]), float(colour[2]), float(rng.uniform(low, high)))
    return surface.albedo(modality)[:, None, None]


def _cloud(rng: np.random.Generator, shape: tuple[int, int], cell: float) -> Array:
    """Smooth noise in [0, 1] that changes over about `cell` pixels."""
    grid = rng.random((max(2, round(shape[0] / cell)), max(2, round(shape[1] / cell))))
    picture = Image.fromarray((255 * grid).astype(np.uint8)).resize(shape[::-1], Image.Resampling.BICUBIC)
    return np.asarray(picture, dtype=np.float32) / np.float32(255)


def _blurred(scene: Array, sigma: float) -> Array:
    """A Gaussian along both picture axes, edges repeated."""
    reach = int(np.ceil(2.5 * sigma))
    kernel = np.exp(-0.5 * np.square(np.arange(-reach, reach + 1) / sigma))
    kernel /= kernel.sum()
    for axis in (1, 2):
        padded = np.pad(
            scene, [(0, 0) if other != axis else (reach, reach) for other in range(3)], mode="edge"
        )
        scene = np.lib.stride_tricks.sliding_window_view(padded, len(kernel), axis=axis) @ kernel
    return scene
