"""One picture: its bounds, strict decoding, resizing, encoding. Also: which PIL is really loaded.

    bytes -> header (bounds, only JPEG, before anything is decoded) -> decoded pixels -> kept as they are, or resized and
    encoded once -> Picture

A header of 335 bytes can claim 81 megapixels, so nothing is decoded whose claim is out of bounds. Decoding is simplejpeg's
strict one: damage in the middle of a picture is an error, where PIL would fill the rest with grey.
"""

import importlib
import importlib.metadata
import io
import struct
import warnings
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import PIL
import simplejpeg
from numpy.typing import NDArray
from PIL import ExifTags, Image, features

from preprocess.options import Check, Size
from reid.data.shards import LARGEST_FRAME, MOST_PIXELS

MOST_SCANS = 100  # a progressive JPEG has about ten; each scan costs a pass over all pixels
SCAN, PROGRESSIVE, APP1, FILL = 0xFFDA, 0xFFC2, 0xFFE1, 0xFFFF
COLOURS = {"Gray": "GRAY", "YCbCr": "RGB", "RGB": "RGB"}

_SEGMENT = struct.Struct(">HH")  # marker, length

Pixels = NDArray[np.uint8]


class PictureError(ValueError):
    """A file that is no picture this program packs; the message says why, not where."""


class Header(NamedTuple):
    """What a JPEG claims about itself. `orientation` is EXIF's: 1 is upright."""

    size: Size
    colour: str
    orientation: int


class Picture(NamedTuple):
    """A picture as it goes into a shard. `is_gray`: its pixels were looked at, and have R = G = B everywhere."""

    data: bytes
    size: Size
    is_gray: bool


def read_header(data: bytes) -> Header:
    """Check a picture without decoding it. Raises PictureError unless it is a JPEG within bounds, grey or in colour."""
    if not data:
        raise PictureError("the file is empty")
    if len(data) > LARGEST_FRAME:
        raise PictureError(f"{len(data):,} bytes, more than the {LARGEST_FRAME:,} a frame may have")
    if not data.startswith(b"\xff\xd8\xff"):
        raise PictureError(f"not a JPEG: it begins with {data[:4].hex(' ')} instead of ff d8 ff")
    try:
        height, width, colour, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError as error:
        raise PictureError(f"the JPEG header is damaged: {error}") from error
    if height * width > MOST_PIXELS:
        raise PictureError(
            f"claims {width} x {height} pixels, more than the {MOST_PIXELS:,} a frame may have"
        )
    if colour not in COLOURS:
        raise PictureError(f"a {colour} picture; convert it to RGB or grey first")
    is_progressive, has_exif = _survey(data)
    if is_progressive and data.count(SCAN.to_bytes(2)) > MOST_SCANS:
        raise PictureError(f"more than {MOST_SCANS} scans: made to keep decoders busy")
    return Header(Size(height, width), colour, _orientation(data) if has_exif else 1)


def _survey(data: bytes) -> tuple[bool, bool]:
    """Whether a JPEG is progressive, and whether it has EXIF data: what its segments before the first scan say."""
    is_progressive = has_exif = False
    place, last = 2, len(data) - _SEGMENT.size
    while place <= last:
        marker, length = _SEGMENT.unpack_from(data, place)
        if marker == SCAN or marker < 0xFF00:
            break
        if marker == PROGRESSIVE:
            is_progressive = True
        elif marker == APP1 and data.startswith(b"Exif\0\0", place + _SEGMENT.size):
            has_exif = True
        place += 1 if marker == FILL else 2 + length
    return is_progressive, has_exif


def _orientation(data: bytes) -> int:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # PIL only warns of EXIF data that it cannot read
            with Image.open(io.BytesIO(data), formats=("JPEG",)) as picture:
                claimed = picture.getexif().get(ExifTags.Base.Orientation, 1)
    except (OSError, SyntaxError, ValueError, TypeError, LookupError, struct.error, UserWarning) as error:
        raise PictureError(f"its EXIF data is damaged: {error!r}") from error
    return claimed if claimed in _TURNS else 1


def decode(data: bytes, header: Header) -> Pixels:
    """All pixels, uint8 (H, W, 3), or (H, W, 1) if the JPEG is grey. Raises PictureError at any damage."""
    try:
        pixels: Pixels = simplejpeg.decode_jpeg(data, COLOURS[header.colour])
    except ValueError as error:
        raise PictureError(f"the JPEG is damaged: {error}") from error
    return pixels


def is_gray(pixels: Pixels) -> bool:
    """Whether R = G = B everywhere. Most pictures in colour show it in their first row."""
    return pixels.shape[-1] == 1 or all(_neighbours_agree(part) for part in (pixels[:1], pixels))


def _neighbours_agree(pixels: Pixels) -> bool:
    """Whether R = G = B, by comparing each byte with the next: three times as fast as comparing strided channels."""
    values = pixels.reshape(-1)
    differs = values[1:] != values[:-1]
    differs[2::3] = False  # B of a pixel and R of the next
    return not differs.any()


def keep(data: bytes, check: Check) -> Picture:
    """The picture as it is, byte for byte."""
    header = read_header(data)
    if header.orientation != 1:
        raise PictureError(
            f"EXIF says it must be turned (orientation {header.orientation}); `--mode resize` turns it, "
            "`--mode copy` keeps bytes as they are"
        )
    gray = check is Check.DECODE and is_gray(decode(data, header))
    return Picture(data, header.size, gray)


@dataclass(frozen=True, slots=True)
class Resizer:
    """Brings pictures to one size, without keeping their ratio, and encodes them once.

    A picture that has the size already and stands upright keeps its bytes.
    """

    size: Size
    quality: int

    def __call__(self, data: bytes) -> Picture:
        header = read_header(data)
        pixels = decode(data, header)
        if header.size == self.size and header.orientation == 1:
            return Picture(data, self.size, is_gray(pixels))
        picture = Image.fromarray(pixels[..., 0] if header.colour == "Gray" else pixels)
        turn = _TURNS.get(header.orientation)
        upright = picture if turn is None else picture.transpose(turn)
        resized = np.asarray(
            upright.resize((self.size.width, self.size.height), Image.Resampling.BILINEAR)
        ).reshape(*self.size, -1)
        return Picture(_encode(resized, self.quality), self.size, is_gray(resized))


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _encode(pixels: Pixels, quality: int) -> bytes:
    colours, sampling = ("GRAY", "Gray") if pixels.shape[-1] == 1 else ("RGB", "420")
    return bytes(simplejpeg.encode_jpeg(pixels, quality, colours, sampling))


class Backend(NamedTuple):
    """The PIL that is really loaded. `problems` says what is odd about the installation."""

    distribution: str
    version: str
    simd: bool
    libjpeg: str
    problems: tuple[str, ...]

    def describe(self) -> str:
        kind = (
            "pillow-simd"
            if self.simd
            else "stock pillow: resizing is 3 to 4 times slower than with pillow-simd"
        )
        return f"PIL {self.version} ({kind}), libjpeg-turbo {self.libjpeg}"


def pil_backend() -> Backend:
    """Find out which PIL does the resizing, by what is loaded and not by what was asked for.

    pillow-simd appends `.postN` to the version in its code, whatever name it was installed under.
    """
    loaded = PIL.__version__
    simd = ".post" in loaded
    owners = {
        name: distribution.version
        for name in ("pillow", "pillow-simd")
        for distribution in importlib.metadata.distributions(name=name)
    }
    problems = []
    if len(owners) > 1:
        problems.append("pillow and pillow-simd are both installed and overwrite each other's files")
    name, version = next(iter(owners.items()), ("unknown", loaded))
    if version.split("+")[0] != loaded:
        problems.append(f"PIL {loaded} is loaded, but {name} {version} is installed")
    compiled = importlib.import_module("PIL._imaging").PILLOW_VERSION
    if compiled != loaded:
        problems.append(f"the compiled part of PIL is {compiled}, the rest is {loaded}")
    return Backend(name, version, simd, str(features.version("libjpeg_turbo")), tuple(problems))


def fingerprint() -> dict[str, Any]:
    """What the bytes of a resized picture depend on, besides its source: goes into the plan of a pack."""
    backend = pil_backend()
    return {
        "pil": f"{backend.distribution} {backend.version}",
        "simd": backend.simd,
        "resample": "bilinear",
        "encoder": f"simplejpeg {simplejpeg.__version__}",
        "subsampling": "420",
    }
