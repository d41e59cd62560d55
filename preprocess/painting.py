"""Paints shaded sticks on all frames of a tracklet at once, by their signed distance.

    Stick (pixels) -> field: where the pixels of its bounding box lie relative to it -> cover, shade, pattern -> canvas

Cover is the distance to the outline over the softness of the picture, which is anti-aliasing and focus in one. Shade
is that of a cylinder: the normal follows from how far a pixel lies beside the axis.

Legend: n frames, C channels, H W, h w the box of a stick. Canvas: (C, n, H, W), linear light. x right, y down, pixels.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from preprocess.wardrobe import Array, Fabric, Pattern
from reid.types import Modality

SHORTEST = np.float32(1e-3)  # pixels; a stick seen end on still has a direction


class Points(NamedTuple):
    """One point a frame, in pixels: (n,) each."""

    x: Array
    y: Array


@dataclass(frozen=True, slots=True)
class Stick:
    """A part in picture coordinates: half widths at both ends, and what is added in the middle, (n,) each."""

    start: Points
    end: Points
    start_radius: Array
    end_radius: Array
    bulge: Array
    flat: bool = False


@dataclass(frozen=True, slots=True)
class Light:
    """`ambient` falls everywhere; `x`, `y`, `z` is the direct light's direction times its strength, z to the viewer."""

    ambient: float
    x: float
    y: float
    z: float


@dataclass(frozen=True, slots=True)
class Brush:
    """Paints in one light and one focus. `softness` and `scale` (pixels in a body unit) are in pixels."""

    modality: Modality
    light: Light
    softness: float
    scale: float

    def paint(self, canvas: Array, stick: Stick, fabric: Fabric) -> None:
        """Lay the stick over what is on the canvas."""
        reach = np.maximum(stick.start_radius, stick.end_radius) + np.abs(stick.bulge) + self.softness
        box = _box(canvas.shape, stick.start, stick.end, reach)
        if box is None:
            return
        field = _field(box, stick.start, stick.end)
        radius = _each(stick.start_radius) + _each(stick.end_radius - stick.start_radius) * field.along
        if stick.bulge.any():
            radius += _each(4.0 * stick.bulge) * field.along * (1.0 - field.along)  # (n, h, w)
        cover = np.clip(0.5 - _distance(field, radius, stick.flat) / self.softness, 0.0, 1.0)
        shade = self._shade(field, radius) * cover
        window = canvas[:, :, box.rows, box.columns]  # (C, n, h, w)
        window *= (1.0 - cover)[None]
        base = fabric.base.albedo(self.modality)
        for channel, reflectance in enumerate(base):
            window[channel] += reflectance * shade
        if fabric.pattern is not Pattern.PLAIN:
            shade *= self._accent(fabric, field)
            for channel, contrast in enumerate(fabric.accent.albedo(self.modality) - base):
                window[channel] += contrast * shade

    def darken(
        self, canvas: Array, start: Points, end: Points, radius: Array, strength: float, squash: float
    ) -> None:
        """Throw a soft shadow, lower than wide by `squash`, over what is on the canvas."""
        box = _box(canvas.shape, start, end, 1.5 * radius)
        if box is None:
            return
        tall = _Box(box.rows, box.columns, box.y / np.float32(squash), box.x)
        field = _field(tall, Points(start.x, start.y / squash), Points(end.x, end.y / squash))
        cover = np.clip(1.2 - np.hypot(field.side, field.beyond) / _each(radius), 0.0, 1.0)
        canvas[:, :, box.rows, box.columns] *= (1.0 - np.float32(strength) * cover)[None]

    def _shade(self, field: "_Field", radius: Array) -> Array:
        """Light that falls on each pixel, (n, h, w)."""
        lateral = np.clip(field.side / radius, -1.0, 1.0)
        shade = np.sqrt(1.0 - np.square(lateral)) * np.float32(self.light.z)
        shade += lateral * _each(self.light.x * field.normal.x + self.light.y * field.normal.y)
        np.maximum(shade, 0.0, out=shade)
        shade += np.float32(self.light.ambient)
        return shade

    def _accent(self, fabric: Fabric, field: "_Field") -> Array:
        """How much of the accent shows, (n, h, w) in [0, 1]."""
        length, period = _each(field.length), fabric.period * self.scale
        match fabric.pattern:
            case Pattern.BAND:
                return self._edge((0.16 - np.abs(field.along - 0.36)) * length)
            case Pattern.BLOCK:
                return self._edge((field.along - 0.5) * length)
            case Pattern.HOOPS:
                return self._stripes(field.along * length, period)
            case Pattern.PINSTRIPES:
                return self._stripes(field.side + 0.25 * period, period)
            case _:
                checks = self._stripes(field.along * length, period)
                checks += self._stripes(field.side + 0.25 * period, period)
                return 0.5 * checks

    def _stripes(self, place: Array, period: float) -> Array:
        turns = place / np.float32(period)
        turns -= np.floor(turns)
        return self._edge((np.abs(turns - 0.5) - 0.25) * np.float32(period))

    def _edge(self, distance: Array) -> Array:
        cover: Array = np.clip(0.5 + distance / self.softness, 0.0, 1.0)
        return cover


class _Box(NamedTuple):
    """The pixels a stick can touch in any frame: as slices, and as coordinates (h,) and (w,)."""

    rows: slice
    columns: slice
    y: Array
    x: Array


class _Field(NamedTuple):
    """Where pixels lie relative to a stick, (n, h, w): `along` it in [0, 1]; in pixels, to the `side` of its axis,
    `beyond` its nearer end (0 between the ends), `outside` its two ends (negative between them).
    Its length (n,) and its unit normal in the picture.
    """

    along: Array
    side: Array
    beyond: Array
    outside: Array
    length: Array
    normal: Points


def _box(canvas_shape: tuple[int, ...], start: Points, end: Points, reach: Array) -> _Box | None:
    (top, bottom), (left, right) = (
        (
            max(0, int(np.floor((np.minimum(a, b) - reach).min()))),
            min(size, int(np.ceil((np.maximum(a, b) + reach).max())) + 1),
        )
        for a, b, size in ((start.y, end.y, canvas_shape[2]), (start.x, end.x, canvas_shape[3]))
    )
    if top >= bottom or left >= right:
        return None
    y, x = np.arange(top, bottom, dtype=np.float32), np.arange(left, right, dtype=np.float32)
    return _Box(slice(top, bottom), slice(left, right), y, x)


def _field(box: _Box, start: Points, end: Points) -> _Field:
    delta_x, delta_y = end.x - start.x, end.y - start.y
    delta_x = np.where(np.hypot(delta_x, delta_y) < SHORTEST, SHORTEST, delta_x)
    length = np.hypot(delta_x, delta_y)
    unit_x, unit_y = (delta_x / length)[:, None], (delta_y / length)[:, None]
    from_x, from_y = box.x - start.x[:, None], box.y - start.y[:, None]  # (n, w), (n, h)
    reach = (from_x * unit_x)[:, None, :] + (from_y * unit_y)[:, :, None]  # (n, h, w)
    side = (from_y * unit_x)[:, :, None] - (from_x * unit_y)[:, None, :]
    inside = np.clip(reach, 0.0, _each(length))
    outside = np.abs(reach - _each(0.5 * length)) - _each(0.5 * length)
    normal = Points(-unit_y[:, 0], unit_x[:, 0])
    return _Field(inside / _each(length), side, reach - inside, outside, length, normal)


def _distance(field: _Field, radius: Array, flat: bool) -> Array:
    """Pixels to the outline, negative inside."""
    distance: Array
    if flat:
        distance = np.maximum(np.abs(field.side) - radius, field.outside)
    else:
        distance = np.sqrt(np.square(field.side) + np.square(field.beyond)) - radius
    return distance


def _each(values: Array) -> Array:
    """One value a frame, (n,) -> (n, 1, 1)."""
    return values[:, None, None]
