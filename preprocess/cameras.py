"""Synthetic cameras: how a walking figure becomes the frames of one modality.

    (seed, number) -> Camera         where it hangs and what it looks at; fixed for the data set
    generator -> draw_take -> Take   what differs between tracklets of a camera: direction, light, occluder
    parts -> film -> background, shadows, parts from far to near, occluder -> develop -> uint8 (n, H, W, 3)

The two modalities differ in physics. Visible light comes from one side, has a colour, and throws a shadow. Infrared
light comes from a lamp on the camera: surfaces darken towards their edges, the picture has a hot spot and a vignette,
what stands farther away is dark, and there is more noise.

Legend: n frames, C channels (3 visible, 1 infrared), H W. Canvas: (C, n, H, W), linear light.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from preprocess import scenes
from preprocess.figures import Part
from preprocess.painting import Brush, Light, Points, Stick
from preprocess.wardrobe import Array, Fabric, Material
from reid.types import Modality

STRIDE_OF_SCENE = 0.035  # frame heights a frame that a person seen from the side moves through the scene
FOCUSED_HEIGHT = 160  # taller frames show the softness of the lens, not that of their pixels


@dataclass(frozen=True, slots=True)
class Camera:
    """Angles in radians; `heading` is the way people usually walk, 0 towards the camera; `horizon` is a fraction of
    the frame height; `tint` multiplies red, green and blue.
    """

    number: int
    modality: Modality
    pitch: float
    heading: float
    gain: float
    tint: tuple[float, float, float]
    softness: float
    noise: float
    horizon: float
    scene: int


@dataclass(frozen=True, slots=True)
class Occluder:
    """What stands in front: `kind` is "pole", "bush" or "wall"; `place` is in frame heights from the middle."""

    kind: str
    place: float
    size: float
    grey: float


@dataclass(frozen=True, slots=True)
class Take:
    """What is particular to one tracklet, whoever walks in it. `fill` and `shift` are fractions of the frame height."""

    heading: float
    turn: float
    phase: float
    fill: float
    shift: tuple[float, float]
    gain: float
    tint: tuple[float, float, float]
    softness: float
    sunlight: Light
    shadow_direction: float
    start: float
    occluder: Occluder | None
    seed: int


def modality_of(camera: int) -> Modality:
    """Odd cameras see visible light, even ones near infrared."""
    return Modality.VISIBLE if camera % 2 else Modality.INFRARED


@lru_cache(maxsize=128)
def make_camera(seed: int, number: int) -> Camera:
    rng = np.random.default_rng((seed, 1, number))
    return Camera(
        number=number,
        modality=modality_of(number),
        pitch=float(rng.uniform(0.05, 0.4)),
        heading=float(rng.uniform(-np.pi, np.pi)),
        gain=float(np.exp(rng.uniform(-0.2, 0.2))),
        tint=_tint(rng, 0.08),
        softness=float(rng.random()),
        noise=float(rng.uniform(0.008, 0.02)),
        horizon=float(rng.uniform(0.3, 0.75)),
        scene=int(rng.integers(2**31)),
    )


def draw_take(rng: np.random.Generator, camera: Camera, nuisance: float) -> Take:
    """One filming. `nuisance` in [0, 1] scales light, blur, shaking, and how often something stands in the way."""
    turned_back = np.pi if rng.random() < 0.5 else 0.0
    side = 0.75 * np.sin(rng.uniform(-2.6, 2.6))
    return Take(
        heading=camera.heading + turned_back + 0.3 * float(rng.standard_normal()),
        turn=0.012 * float(rng.standard_normal()),
        phase=float(rng.uniform(0.0, 2.0 * np.pi)),
        fill=float(0.89 - 0.08 * nuisance * rng.uniform(-0.6, 1.0)),
        shift=(float(0.03 * nuisance * rng.uniform(-1, 1)), float(0.03 * nuisance * rng.uniform(-1, 1))),
        gain=float(np.exp(0.5 * nuisance * rng.uniform(-1.0, 0.6))),
        tint=_tint(rng, 0.14 * nuisance),
        softness=float(nuisance * rng.random()),
        sunlight=Light(float(rng.uniform(0.35, 0.6)), float(side), -0.35, 0.6),
        shadow_direction=float(rng.uniform(-np.pi, np.pi)),
        start=float(rng.random()),
        occluder=_draw_occluder(rng, nuisance),
        seed=int(rng.integers(2**31)),
    )


def film(body: list[Part], take: Take, camera: Camera, height: int, width: int) -> NDArray[np.uint8]:
    """Frames of a figure, (n, H, W, 3); infrared frames have three equal channels."""
    is_infrared = camera.modality is Modality.INFRARED
    view = _View(take, camera, len(body[0].start), height, width)
    blur = 1.0 + 0.8 * take.softness + 0.5 * camera.softness + 0.5 * is_infrared
    softness = blur * max(1.0, height / FOCUSED_HEIGHT)
    light = Light(0.3, 0.0, 0.0, 0.75) if is_infrared else take.sunlight
    brush = Brush(camera.modality, light, softness, float(view.scale))
    canvas = _background(take, camera, view.travel, height, width)
    _throw_shadows(canvas, brush, view, take)
    for part in sorted(body, key=view.nearness):
        brush.paint(canvas, view.stick(part), part.fabric)
    if take.occluder:
        _paint_occluder(canvas, brush, take, take.occluder, view.travel)
    return _develop(canvas, camera, take)


class _View:
    """An orthographic view, looking down by the camera's pitch, of somebody who walks on the spot."""

    def __init__(self, take: Take, camera: Camera, num_frames: int, height: int, width: int) -> None:
        heading = take.heading + take.turn * np.arange(num_frames, dtype=np.float32)
        self.cos, self.sin = np.cos(heading), np.sin(heading)
        self.cos_pitch, self.sin_pitch = np.float32(np.cos(camera.pitch)), np.float32(np.sin(camera.pitch))
        self.scale = np.float32(take.fill * height / (1.02 * self.cos_pitch + 0.12 * self.sin_pitch))
        self.feet_x = np.float32(0.5 * width + take.shift[0] * height)
        self.feet_y = np.float32(height * (0.475 + 0.5 * take.fill + take.shift[1]))
        self.travel = STRIDE_OF_SCENE * np.arange(num_frames, dtype=np.float32) * self.sin.mean()

    def nearness(self, part: Part) -> float:
        """How near to the camera the middle of a part is, on average over the frames, in body units."""
        middle = 0.5 * (part.start + part.end)
        ahead = middle[:, 0] * self.cos - middle[:, 1] * self.sin
        return float((ahead * self.cos_pitch + 0.5 * middle[:, 2] * self.sin_pitch).mean()) + part.layer

    def project(self, point: Array) -> Points:
        ahead = point[:, 0] * self.cos - point[:, 1] * self.sin
        across = point[:, 0] * self.sin + point[:, 1] * self.cos
        up = point[:, 2] * self.cos_pitch - ahead * self.sin_pitch
        return Points(self.feet_x + self.scale * across, self.feet_y - self.scale * up)

    def stick(self, part: Part) -> Stick:
        """An elliptic cross section is as wide as its shadow on the picture plane."""
        width = self.scale * np.hypot(self.cos, np.float32(part.depth_ratio) * self.sin)
        radii = (part.start_radius * width, part.end_radius * width, np.float32(part.bulge) * width)
        return Stick(self.project(part.start), self.project(part.end), *radii, flat=part.flat)


def _background(take: Take, camera: Camera, travel: Array, height: int, width: int) -> Array:
    """The stretch of the scene behind each frame; an infrared lamp hardly reaches it."""
    sigma = 0.4 + 0.006 * height * (1.0 + camera.softness)
    scene = scenes.panorama(camera.scene, camera.modality, camera.horizon, sigma, height)
    room = scene.shape[2] - width - float(np.ptp(travel)) * height - 1.0
    lefts = (take.start * room + (travel - travel.min()) * height).astype(int)
    top = round((scenes.MARGIN - take.shift[1]) * height)
    canvas = np.stack([scene[:, top : top + height, left : left + width] for left in lefts], axis=1)
    canvas *= np.float32(0.45 if camera.modality is Modality.INFRARED else 1.0)
    return canvas


def _throw_shadows(canvas: Array, brush: Brush, view: _View, take: Take) -> None:
    """The dark below the feet, and in visible light the shadow the sun throws."""
    still = np.zeros((len(view.cos), 3), dtype=np.float32)
    sunward = np.array([np.cos(take.shadow_direction), np.sin(take.shadow_direction), 0.0], dtype=np.float32)
    throws = [(0.05, 0.14, 0.3)]
    if brush.modality is Modality.VISIBLE:
        throws.append((0.75, 0.1, 1.4 * (0.7 - take.sunlight.ambient)))
    squash = max(float(view.sin_pitch), 0.25)
    for length, radius, strength in throws:
        wide = np.full(len(still), radius * view.scale, dtype=np.float32)
        start, end = view.project(still), view.project(still + np.float32(length) * sunward)
        brush.darken(canvas, start, end, wide, strength, squash)


def _draw_occluder(rng: np.random.Generator, nuisance: float) -> Occluder | None:
    kind = ("pole", "bush", "wall")[rng.integers(3)]
    place, size, grey = rng.uniform(-0.4, 0.4), rng.uniform(0.3, 1.0), rng.uniform(0.1, 0.8)
    is_there = rng.random() < 0.4 * nuisance
    return Occluder(kind, float(place), float(size), float(grey)) if is_there else None


def _paint_occluder(canvas: Array, brush: Brush, take: Take, occluder: Occluder, travel: Array) -> None:
    """Poles and bushes pass by faster than the scene behind; a low wall stays."""
    height, width = np.float32(canvas.shape[2]), np.float32(canvas.shape[3])
    grey = occluder.grey
    stuff = Material(grey, 0.95 * grey, 0.85 * grey, 0.5 * grey + 0.2)
    still = np.zeros_like(travel)
    passing = 0.5 * width + (np.float32(occluder.place) - 1.3 * (travel - travel.mean())) * height
    if occluder.kind == "pole":
        radius = still + (0.02 + 0.035 * occluder.size) * height
        pole = Stick(
            Points(passing, still - height),
            Points(passing, still + 2 * height),
            radius,
            radius,
            still,
            flat=True,
        )
        brush.paint(canvas, pole, Fabric(stuff, stuff))
    elif occluder.kind == "wall":
        radius = still + (0.08 + 0.1 * occluder.size) * height
        wall = Stick(
            Points(still - height, still + height),
            Points(still + 2 * width, still + height),
            radius,
            radius,
            still,
            flat=True,
        )
        brush.paint(canvas, wall, Fabric(stuff, stuff))
    else:
        for aside, above, size, dark in np.random.default_rng(take.seed).random((24, 4), dtype=np.float32):
            top = Points(
                passing + (0.4 * aside - 0.2) * height, still + (1 - 0.3 * occluder.size * above) * height
            )
            radius = still + (0.025 + 0.03 * size) * height
            leaves = Material(*(reflectance * (0.75 - 0.35 * float(dark)) for reflectance in scenes.LEAVES))
            brush.paint(
                canvas, Stick(top, Points(top.x, top.y + 1), radius, radius, still), Fabric(leaves, leaves)
            )


def _develop(canvas: Array, camera: Camera, take: Take) -> NDArray[np.uint8]:
    """Linear light (C, n, H, W) to pictures (n, H, W, 3). Overwrites the canvas."""
    rng = np.random.default_rng(take.seed)
    _, num_frames, height, width = canvas.shape
    gain = np.float32(camera.gain * take.gain)
    noise = rng.standard_normal((num_frames, height, width), dtype=np.float32)
    if camera.modality is Modality.INFRARED:
        canvas *= gain * _lamp(rng, height, width)
        noise *= np.float32(2.0 * camera.noise)
    else:
        tint = np.multiply(camera.tint, take.tint).astype(np.float32)
        canvas *= gain * tint[:, None, None, None]
        noise *= np.float32(camera.noise)
    np.sqrt(canvas, out=canvas)
    canvas += noise
    canvas *= np.float32(255.0)
    np.clip(canvas, 0.0, 255.0, out=canvas)
    pictures = canvas.astype(np.uint8).transpose(1, 2, 3, 0)
    return np.repeat(pictures, 3, axis=-1) if len(canvas) == 1 else np.ascontiguousarray(pictures)


def _lamp(rng: np.random.Generator, height: int, width: int) -> Array:
    """Hot spot and vignette of an infrared lamp, (H, W)."""
    centre_y, centre_x = rng.uniform(0.25, 0.6), rng.uniform(0.3, 0.7)
    size, strength = rng.uniform(0.2, 0.45), rng.uniform(0.3, 0.8)
    y = np.arange(height)[:, None] / height - centre_y
    x = 0.5 * (np.arange(width)[None, :] / width - centre_x)
    far = y * y + x * x
    return (1.0 + strength * np.exp(-far / (2 * size * size)) - 0.7 * far).astype(np.float32)


def _tint(rng: np.random.Generator, strength: float) -> tuple[float, float, float]:
    """Colour of a light: warm or cold, a little green or magenta."""
    warmth, green = strength * rng.uniform(-1, 1), 0.4 * strength * rng.uniform(-1, 1)
    return (float(np.exp(warmth)), float(np.exp(green)), float(np.exp(-warmth)))
