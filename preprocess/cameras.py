"""Synthetic cameras: how a walking figure becomes the frames of one modality.

    (seed, number) -> Camera   where it hangs, what it looks at; fixed for the data set
    generator -> draw_take -> Take   what differs between two tracklets of one camera: direction, light, occluder
    parts -> film -> uint8 (n, H, W, 3)

`film` takes the background, projects every part (orthographic, looking down by `pitch`), paints the parts from far to
near, and develops the picture. A part is painted by its signed distance field, all frames of the tracklet at once and
inside its bounding box only; coverage is the distance over the softness of the picture, which is anti-aliasing and
focus in one. The two modalities differ in physics: visible light comes from one side, has a colour and casts a shadow;
infrared light comes from a lamp on the camera, so surfaces darken towards their edges, the picture has a hot spot and
a vignette, and what stands farther away is dark.

Legend: n frames, C channels (3 visible, 1 infrared), H W, h w the box of a part. Canvas: (C, n, H, W), linear light.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image

from preprocess.figures import Part
from preprocess.wardrobe import Array, Fabric, Material, Pattern
from reid.types import Modality

PANORAMA_WIDTHS = 6
MARGIN = 0.06  # of H, background above and below a frame, for shaking


@dataclass(frozen=True, slots=True)
class Camera:
    """Angles in radians; `heading` is the direction people usually walk, 0 towards the camera."""

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
class Take:
    """What is particular to one tracklet, whoever walks in it. Lengths are in frame heights."""

    heading: float
    turn: float
    phase: float
    fill: float
    shift: tuple[float, float]
    gain: float
    tint: tuple[float, float, float]
    softness: float
    light: tuple[float, float, float]
    ambient: float
    sun: float
    start: float
    occluder: str
    occluder_place: float
    occluder_size: float
    occluder_grey: float
    noise_seed: int


def modality_of(camera: int) -> Modality:
    """Odd cameras see visible light, even ones near infrared."""
    return Modality.VISIBLE if camera % 2 else Modality.INFRARED


@lru_cache(maxsize=64)
def make_camera(seed: int, number: int) -> Camera:
    rng = np.random.default_rng((seed, 1, number))
    return Camera(
        number=number,
        modality=modality_of(number),
        pitch=float(rng.uniform(0.05, 0.4)),
        heading=float(rng.uniform(-np.pi, np.pi)),
        gain=float(np.exp(rng.uniform(-0.2, 0.2))),
        tint=_tint(rng, 0.08),
        softness=float(rng.uniform(0.0, 1.0)),
        noise=float(rng.uniform(0.008, 0.02)),
        horizon=float(rng.uniform(0.3, 0.75)),
        scene=int(rng.integers(1, 2**31)),
    )


def draw_take(rng: np.random.Generator, camera: Camera, nuisance: float) -> Take:
    """One filming. `nuisance` in [0, 1] scales light, blur, shaking and how often something stands in the way."""
    goes_back = rng.random() < 0.5
    angle = rng.uniform(-2.6, 2.6)
    occluders = ("none", "pole", "bush", "wall")
    hidden = 0.4 * nuisance
    return Take(
        heading=camera.heading + (np.pi if goes_back else 0.0) + 0.3 * float(rng.standard_normal()),
        turn=float(0.012 * rng.standard_normal()),
        phase=float(rng.uniform(0.0, 2.0 * np.pi)),
        fill=float(0.89 - 0.08 * nuisance * rng.uniform(-0.6, 1.0)),
        shift=(float(0.03 * nuisance * rng.uniform(-1, 1)), float(0.03 * nuisance * rng.uniform(-1, 1))),
        gain=float(np.exp(0.5 * nuisance * rng.uniform(-1.0, 0.6))),
        tint=_tint(rng, 0.14 * nuisance),
        softness=float(nuisance * rng.uniform(0.0, 1.0)),
        light=(float(0.75 * np.sin(angle)), -0.35, 0.6),
        ambient=float(rng.uniform(0.35, 0.6)),
        sun=float(rng.uniform(-np.pi, np.pi)),
        start=float(rng.random()),
        occluder=str(rng.choice(occluders, p=(1.0 - hidden, hidden / 3, hidden / 3, hidden / 3))),
        occluder_place=float(rng.uniform(-0.4, 0.4)),
        occluder_size=float(rng.uniform(0.3, 1.0)),
        occluder_grey=float(rng.uniform(0.1, 0.8)),
        noise_seed=int(rng.integers(2**31)),
    )


def film(body: list[Part], take: Take, camera: Camera, height: int, width: int) -> np.ndarray:
    """Frames of a figure, uint8 (n, H, W, 3); infrared frames have three equal channels."""
    infrared = camera.modality is Modality.INFRARED
    num_frames = len(body[0].start)
    heading = (take.heading + take.turn * np.arange(num_frames)).astype(np.float32)
    travel = _travel(take, num_frames, heading)
    canvas = _background(camera, take, travel, height, width)
    canvas *= np.float32(0.45 if infrared else 1.0)
    softness = np.float32(
        (1.0 + 0.8 * take.softness + 0.5 * camera.softness + 0.5 * infrared) * max(1.0, height / 160)
    )
    lens = _Lens(camera, take, heading, height, width, softness)
    lens.shade_ground(canvas)
    for part in sorted(body, key=lens.depth):
        lens.paint(canvas, part)
    lens.paint_occluder(canvas, travel)
    return _develop(canvas, camera, take)


class _Lens:
    """Projection and painting of one tracklet. Picture coordinates are pixels, x right, y down."""

    def __init__(
        self, camera: Camera, take: Take, heading: Array, height: int, width: int, softness: np.float32
    ) -> None:
        self.modality, self.softness = camera.modality, softness
        self.take, self.height, self.width = take, height, width
        self.cos_pitch, self.sin_pitch = np.float32(np.cos(camera.pitch)), np.float32(np.sin(camera.pitch))
        self.cos, self.sin = np.cos(heading), np.sin(heading)
        self.scale = np.float32(take.fill * height / (1.02 * self.cos_pitch + 0.12 * self.sin_pitch))
        self.origin_x = np.float32((0.5 + take.shift[0] * height / width) * width)
        self.origin_y = np.float32(height * (0.5 + 0.5 * take.fill - 0.025 + take.shift[1]))
        infrared = camera.modality is Modality.INFRARED
        self.ambient = np.float32(0.3 if infrared else take.ambient)
        self.light = np.array((0.0, 0.0, 0.75) if infrared else take.light, dtype=np.float32)

    def depth(self, part: Part) -> float:
        """How near to the camera the middle of a part is, on average over the frames."""
        middle = 0.5 * (part.start + part.end)
        ahead = middle[:, 0] * self.cos - middle[:, 1] * self.sin
        return float((ahead * self.cos_pitch + 0.5 * middle[:, 2] * self.sin_pitch).mean()) + part.layer

    def project(self, point: Array) -> tuple[Array, Array]:
        ahead = point[:, 0] * self.cos - point[:, 1] * self.sin
        across = point[:, 0] * self.sin + point[:, 1] * self.cos
        up = point[:, 2] * self.cos_pitch - ahead * self.sin_pitch
        return self.origin_x + self.scale * across, self.origin_y - self.scale * up

    def paint(self, canvas: Array, part: Part) -> None:
        squeeze = (
            np.sqrt(np.square(self.cos) + np.square(np.float32(part.depth_ratio) * self.sin)) * self.scale
        )
        self._paint(
            canvas,
            self.project(part.start),
            self.project(part.end),
            (part.start_radius * squeeze, part.end_radius * squeeze, np.float32(part.bulge) * squeeze),
            part.fabric,
            part.flat,
        )

    def paint_occluder(self, canvas: Array, travel: Array) -> None:
        take, height, width = self.take, np.float32(self.height), np.float32(self.width)
        grey = take.occluder_grey
        stuff = Material(grey, grey * 0.95, grey * 0.85, 0.5 * grey + 0.2)
        ones = np.ones_like(travel)
        across = (
            0.5 * width
            + (np.float32(take.occluder_place) - 1.3 * (travel - travel[len(travel) // 2])) * height
        )
        if take.occluder == "pole":
            radius = np.float32(0.02 + 0.035 * take.occluder_size) * height * ones
            self._paint(
                canvas,
                (across, -height * ones),
                (across, 2 * height * ones),
                (radius, radius, 0 * ones),
                Fabric(stuff, stuff),
                flat=True,
            )
        if take.occluder == "wall":
            radius = np.float32(0.1 + 0.12 * take.occluder_size) * height * ones
            self._paint(
                canvas,
                (-height * ones, height * ones),
                (2 * height * ones, height * ones),
                (radius, radius, 0 * ones),
                Fabric(stuff, stuff),
                flat=True,
            )
        if take.occluder == "bush":
            leaves = Material(0.2 + 0.2 * grey, 0.35 + 0.2 * grey, 0.2, 0.75)
            rng = np.random.default_rng(take.noise_seed)
            for offset, top, size in rng.uniform(-1, 1, (7, 3)).astype(np.float32):
                x = across + 0.16 * offset * height
                y = (0.97 - np.float32(0.13 * take.occluder_size) * (1 + top)) * height * ones
                radius = (0.055 + 0.02 * size) * height * ones
                self._paint(
                    canvas, (x, y), (x, y + 1), (radius, radius, 0 * ones), Fabric(leaves, leaves), flat=False
                )

    def shade_ground(self, canvas: Array) -> None:
        """The contact shadow of both modalities, and in visible light the one the sun throws."""
        take = self.take
        ones = np.ones_like(self.cos)
        zero = 0.0 * ones
        throws = [(0.05, 0.14, 0.45)]
        if self.modality is Modality.VISIBLE:
            throws.append((0.75, 0.1, 0.8 * (0.65 - take.ambient) / 0.3))
        for reach, radius, strength in throws:
            tip = np.stack(
                [reach * np.cos(take.sun - 0 * zero), reach * np.sin(take.sun - 0 * zero), zero], axis=-1
            )
            start = self.project(np.stack([zero, zero, zero], axis=-1))
            end = self.project(tip.astype(np.float32))
            wide = np.float32(radius) * self.scale * ones
            box = self._box(start, end, np.float32(1.5) * wide)
            if box is None:
                continue
            rows, columns = box
            flatten = np.float32(1.0 / max(float(self.sin_pitch), 0.25))
            y0, y1 = start[1] * flatten, end[1] * flatten
            field = _stick(columns, rows * flatten, (start[0], y0), (end[0], y1))
            distance = np.sqrt(np.square(field.side) + np.square(field.beyond)) / wide[:, None, None]
            cover = np.clip(np.float32(1.2) - distance, 0.0, 1.0) * np.float32(strength)
            window = (slice(None), slice(None), _span(rows), _span(columns))
            canvas[window] *= (np.float32(1.0) - np.float32(0.6) * cover)[None]

    def _box(
        self, start: tuple[Array, Array], end: tuple[Array, Array], reach: Array
    ) -> tuple[Array, Array] | None:
        """Row and column indices, (h,) and (w,), of the pixels a part can touch in any frame."""
        spans = []
        for axis, size in ((1, self.height), (0, self.width)):
            low = np.floor((np.minimum(start[axis], end[axis]) - reach).min() - self.softness)
            high = np.ceil((np.maximum(start[axis], end[axis]) + reach).max() + self.softness)
            spans.append(np.arange(max(0, int(low)), min(size, int(high) + 1), dtype=np.float32))
        return (spans[0], spans[1]) if len(spans[0]) and len(spans[1]) else None

    def _paint(
        self,
        canvas: Array,
        start: tuple[Array, Array],
        end: tuple[Array, Array],
        radii: tuple[Array, Array, Array],
        fabric: Fabric,
        flat: bool,
    ) -> None:
        near, far, bulge = radii
        box = self._box(start, end, np.maximum(near, far) + np.abs(bulge))
        if box is None:
            return
        rows, columns = box
        field = _stick(columns, rows, start, end)
        radius = near[:, None, None] + (far - near)[:, None, None] * field.along  # (n, h, w)
        if bulge.any():
            radius += 4.0 * bulge[:, None, None] * field.along * (1.0 - field.along)
        if flat:
            distance = np.maximum(np.abs(field.side) - radius, field.outside)
        else:
            distance = np.sqrt(np.square(field.side) + np.square(field.beyond)) - radius
        cover = np.clip(np.float32(0.5) - distance / self.softness, 0.0, 1.0)
        lateral = np.clip(field.side / radius, -1.0, 1.0)
        tilt = (self.light[0] * field.across_x + self.light[1] * field.across_y)[:, None, None]
        shade = lateral * tilt + self.light[2] * np.sqrt(1.0 - np.square(lateral))
        np.maximum(shade, 0.0, out=shade)
        shade += self.ambient
        shade *= cover
        window = canvas[:, :, _span(rows), _span(columns)]  # (C, n, h, w)
        window *= (1.0 - cover)[None]
        base = fabric.base.albedo(self.modality)
        if fabric.pattern is Pattern.PLAIN:
            for channel, reflectance in zip(window, base, strict=True):
                channel += shade * reflectance
            return
        mask = self._pattern(fabric, field) * shade
        for channel, reflectance, other in zip(
            window, base, fabric.accent.albedo(self.modality), strict=True
        ):
            channel += shade * reflectance + mask * (other - reflectance)

    def _pattern(self, fabric: Fabric, field: "_Field") -> Array:
        """How much of the accent shows, (n, h, w) in [0, 1]; edges as soft as the picture."""
        length = field.length[:, None, None]
        period = np.float32(fabric.period) * self.scale
        rise = np.float32(0.25) * period / self.softness
        if fabric.pattern is Pattern.BAND:
            return np.clip(
                0.5 + (np.float32(0.16) - np.abs(field.along - np.float32(0.36))) * length / self.softness,
                0,
                1,
            )
        if fabric.pattern is Pattern.BLOCK:
            return np.clip(0.5 + (field.along - np.float32(0.5)) * length / self.softness, 0, 1)
        hoops = np.clip(0.5 + _wave(field.along * length / period) * rise, 0, 1)
        if fabric.pattern is Pattern.HOOPS:
            return hoops
        stripes = np.clip(0.5 + _wave(field.side / period + np.float32(0.25)) * rise, 0, 1)
        return stripes if fabric.pattern is Pattern.PINSTRIPES else 0.5 * (hoops + stripes)


@dataclass(frozen=True, slots=True)
class _Field:
    """Where pixels lie relative to a stick. `along` in [0, 1]; in pixels, `side` of the axis, `beyond` the nearer end
    (0 between the ends), `outside` the two ends (negative between them), (n, h, w) each. Length and unit normal, (n,)."""

    along: Array
    side: Array
    beyond: Array
    outside: Array
    length: Array
    across_x: Array
    across_y: Array


def _stick(columns: Array, rows: Array, start: tuple[Array, Array], end: tuple[Array, Array]) -> _Field:
    delta_x, delta_y = end[0] - start[0], end[1] - start[1]
    length = np.maximum(np.hypot(delta_x, delta_y), np.float32(1e-3))
    unit_x, unit_y = delta_x / length, delta_y / length
    from_x = columns[None, :] - start[0][:, None]  # (n, w)
    from_y = rows[None, :] - start[1][:, None]  # (n, h)
    reach = (from_x * unit_x[:, None])[:, None, :] + (from_y * unit_y[:, None])[:, :, None]
    side = (from_x * -unit_y[:, None])[:, None, :] + (from_y * unit_x[:, None])[:, :, None]
    inside = np.clip(reach, 0.0, length[:, None, None])
    half = 0.5 * length[:, None, None]
    outside = np.abs(reach - half) - half
    return _Field(inside / length[:, None, None], side, reach - inside, outside, length, -unit_y, unit_x)


def _wave(x: Array) -> Array:
    """A triangle of period 1 between -1 and 1."""
    return np.float32(4.0) * np.abs(x - np.floor(x) - np.float32(0.5)) - np.float32(1.0)


def _span(indices: Array) -> slice:
    return slice(int(indices[0]), int(indices[-1]) + 1)


def _travel(take: Take, num_frames: int, heading: Array) -> Array:
    """Distance (n,) the crop has moved sideways through the scene, in frame heights."""
    return (0.035 * np.arange(num_frames) * np.sin(heading.mean())).astype(np.float32)


def _background(camera: Camera, take: Take, travel: Array, height: int, width: int) -> Array:
    """The stretch of the scene behind each frame, (C, n, H, W)."""
    panorama = _panorama(camera, height, width)
    room = panorama.shape[2] - width - int(np.ceil(np.ptp(travel) * height)) - 1
    first = take.start * room - float(travel.min()) * height
    margin = (panorama.shape[1] - height) // 2
    top = margin - round(np.clip(take.shift[1], -MARGIN, MARGIN) * height)
    lefts = (first + travel * height).astype(int)
    return np.stack([panorama[:, top : top + height, left : left + width] for left in lefts], axis=1)


@lru_cache(maxsize=64)
def _panorama(camera: Camera, height: int, width: int) -> Array:
    """What stands behind the people of a camera: a wall with openings, plants, and paving; (C, H + 2 margins, wide)."""
    rng = np.random.default_rng(camera.scene)
    infrared = camera.modality is Modality.INFRARED
    tall, wide = height + 2 * int(np.ceil(MARGIN * height)), PANORAMA_WIDTHS * width
    rows, columns = np.mgrid[0:tall, 0:wide].astype(np.float32) / np.float32(height)
    edge = np.float32(camera.horizon)

    def pick(low: float, high: float) -> Array:
        value, hue = rng.uniform(low, high), rng.uniform(-0.04, 0.04, 3)
        return Material(*np.clip(value + hue, 0.02, 1.0), float(rng.uniform(low, high))).albedo(
            camera.modality
        )

    wall = rng.uniform(0.75, 1.25, 2)
    scene = np.empty((1 if infrared else 3, tall, wide), dtype=np.float32)
    scene[:] = pick(0.3, 0.75)[:, None, None]
    period = np.float32(rng.uniform(0.4, 0.9))
    for low, high, top, bottom in _openings(rng):
        place = (columns / period) % 1.0
        inside = (place > low) & (place < high) & (rows > top * edge) & (rows < bottom * edge)
        scene[:, inside] = pick(0.1, 0.8)[:, None]
    ground = pick(0.25, 0.65)[:, None, None] * (0.8 + 0.4 * (rows - edge))
    joint = 0.03 * (rows - edge + 0.3)
    near = np.float32(rng.uniform(0.15, 0.4))
    lines = (np.abs((columns / near) % 1.0 - 0.5) < 0.03) | (
        np.abs(np.log(np.maximum(rows - edge, 0) + 0.1) * 3 % 1.0 - 0.5) < 0.05
    )
    ground = np.where(lines, ground * 0.8, ground) + 0.0 * joint
    scene = np.where(rows > edge, ground, scene)
    if rng.random() < 0.6:
        leaves = Material(0.28, 0.42, 0.22, 0.8).albedo(camera.modality)
        foliage = _cloud(rng, tall, wide, height / 8)
        outline = edge - 0.12 + 0.25 * (_cloud(rng, tall, wide, height / 2)[:1] - 0.5)
        plants = (rows > outline) & (rows < edge + 0.03)
        scene = np.where(plants, leaves[:, None, None] * (0.3 + 1.2 * foliage), scene)
    scene = (
        scene
        * (0.7 + 0.6 * _cloud(rng, tall, wide, height / 2))
        * (0.85 + 0.3 * _cloud(rng, tall, wide, height / 24))
    )
    return _blurred(scene, 0.006 * height * (1.0 + camera.softness) + 0.4) * np.float32(wall[0])


def _openings(rng: np.random.Generator) -> list[tuple[float, float, float, float]]:
    """Windows and doors in one period of the wall: left, right, top, bottom as fractions."""
    openings = []
    for _ in range(rng.integers(1, 4)):
        left, top = rng.uniform(0.0, 0.6), rng.uniform(0.0, 0.5)
        openings.append((left, left + rng.uniform(0.1, 0.35), top, rng.choice((1.0, top + 0.4))))
    return openings


def _cloud(rng: np.random.Generator, tall: int, wide: int, cell: float) -> Array:
    """Smooth noise in [0, 1], (tall, wide), that changes over about `cell` pixels."""
    grid = rng.random((max(2, round(tall / cell)), max(2, round(wide / cell))), dtype=np.float32)
    picture = Image.fromarray((grid * 255).astype(np.uint8)).resize((wide, tall), Image.Resampling.BICUBIC)
    return np.asarray(picture, dtype=np.float32) / np.float32(255)


def _blurred(scene: Array, sigma: float) -> Array:
    """A Gaussian along both axes, edges repeated."""
    reach = int(np.ceil(2.5 * sigma))
    kernel = np.exp(-0.5 * np.square(np.arange(-reach, reach + 1) / sigma)).astype(np.float32)
    kernel /= kernel.sum()
    for axis in (1, 2):
        padded = np.pad(
            scene, [(reach, reach) if other == axis else (0, 0) for other in range(3)], mode="edge"
        )
        windows = np.lib.stride_tricks.sliding_window_view(padded, len(kernel), axis=axis)
        scene = (windows @ kernel).astype(np.float32)
    return scene


def _develop(canvas: Array, camera: Camera, take: Take) -> np.ndarray:
    """Linear light (C, n, H, W) to pictures, uint8 (n, H, W, 3). Overwrites the canvas."""
    rng = np.random.default_rng(take.noise_seed)
    _, num_frames, height, width = canvas.shape
    gain = np.float32(camera.gain * take.gain)
    noise = rng.standard_normal((num_frames, height, width), dtype=np.float32)
    if camera.modality is Modality.INFRARED:
        canvas *= gain * _lamp(rng, height, width)
        noise *= np.float32(2.0 * camera.noise)
    else:
        canvas *= gain * np.float32([camera.tint[c] * take.tint[c] for c in range(3)])[:, None, None, None]
        noise *= np.float32(camera.noise)
    np.sqrt(canvas, out=canvas)
    canvas += noise
    canvas *= 255.0
    np.clip(canvas, 0.0, 255.0, out=canvas)
    pictures = canvas.astype(np.uint8).transpose(1, 2, 3, 0)
    return np.repeat(pictures, 3, axis=-1) if canvas.shape[0] == 1 else np.ascontiguousarray(pictures)


def _lamp(rng: np.random.Generator, height: int, width: int) -> Array:
    """Hot spot and vignette of an infrared lamp, (H, W)."""
    centre_y, centre_x = rng.uniform(0.25, 0.6), rng.uniform(0.3, 0.7)
    size, strength = rng.uniform(0.2, 0.45), rng.uniform(0.3, 0.8)
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    y, x = rows / height - centre_y, (columns / width - centre_x) * 0.5
    far = y * y + x * x
    lamp: Array = (1.0 + strength * np.exp(-far / (2 * size * size)) - 0.7 * far).astype(np.float32)
    return lamp


def _tint(rng: np.random.Generator, strength: float) -> tuple[float, float, float]:
    """Colour of the light: warm to cold, a little green or magenta."""
    warmth, green = strength * rng.uniform(-1, 1), 0.4 * strength * rng.uniform(-1, 1)
    return (float(np.exp(warmth)), float(np.exp(green)), float(np.exp(-warmth)))
