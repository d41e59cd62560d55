"""One picture: bounds before decoding, strict decoding, resizing, and the backend that did it."""

import io

import numpy as np
import PIL
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from preprocess.images import (
    Backend,
    PictureError,
    Resizer,
    decode,
    is_gray,
    keep,
    pil_backend,
    read_header,
)
from preprocess.options import Check, Size
from reid.data.shards import LARGEST_FRAME


def photograph(height: int = 48, width: int = 32) -> np.ndarray:
    rows, columns = np.mgrid[0:height, 0:width]
    planes = [rows * 255 // height, columns * 255 // width, (rows + columns) * 255 // (height + width)]
    return np.stack(planes, axis=-1).astype(np.uint8)


def encoded(pixels: np.ndarray, **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=92, **options)
    return file.getvalue()


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(photograph(), exif=exif)


def claiming(height: int, width: int) -> bytes:
    """A small JPEG whose header claims another size."""
    data = bytearray(encoded(photograph()))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    return bytes(data)


def test_a_kept_picture_keeps_its_bytes_and_tells_its_size():
    data = encoded(photograph())
    assert keep(data, Check.DECODE) == (data, Size(48, 32), False)


def test_decoding_agrees_with_pil_to_the_last_bit():
    data = encoded(photograph())
    ours = decode(data, read_header(data))
    assert np.array_equal(ours, np.asarray(Image.open(io.BytesIO(data))))


def test_grey_is_found_in_both_of_its_forms():
    plane = photograph()[..., 0]
    assert keep(encoded(plane), Check.DECODE).is_gray
    assert keep(encoded(np.stack([plane] * 3, axis=-1)), Check.DECODE).is_gray
    assert not keep(encoded(photograph()), Check.DECODE).is_gray


def test_resizing_gives_the_size_and_nearly_the_pixels_of_a_careful_resize():
    resized = Resizer(Size(24, 16), 95)(encoded(photograph()))
    assert resized.size == Size(24, 16)
    pixels = decode(resized.data, read_header(resized.data)).astype(int)
    expected = photograph().reshape(24, 2, 16, 2, 3).mean(axis=(1, 3))
    assert np.abs(pixels - expected).mean() < 4


def test_a_picture_of_the_right_size_is_not_encoded_again():
    data = encoded(photograph())
    assert Resizer(Size(48, 32), 50)(data).data == data


def test_a_grey_picture_stays_grey_when_resized():
    resized = Resizer(Size(24, 16), 92)(encoded(photograph()[..., 0]))
    assert resized.is_gray
    assert read_header(resized.data).colour == "Gray"


def test_grey_in_three_channels_is_still_grey_after_resizing_and_encoding():
    resized = Resizer(Size(24, 16), 80)(encoded(np.stack([photograph()[..., 0]] * 3, axis=-1)))
    assert resized.is_gray
    pixels = decode(resized.data, read_header(resized.data))
    assert np.array_equal(pixels[..., 0], pixels[..., 1])
    assert np.array_equal(pixels[..., 0], pixels[..., 2])


@settings(deadline=None)
@given(st.integers(1, 5), st.integers(1, 5), st.data())
def test_one_value_that_differs_is_enough_to_be_no_grey(height, width, data):
    pixels = np.full((height, width, 3), 7, dtype=np.uint8)
    pixels += np.arange(height * width, dtype=np.uint8).reshape(height, width, 1)
    assert is_gray(pixels)
    pixels[
        data.draw(st.integers(0, height - 1)),
        data.draw(st.integers(0, width - 1)),
        data.draw(st.integers(0, 2)),
    ] += 1
    assert not is_gray(pixels)


@pytest.mark.parametrize("orientation", range(2, 9))
def test_a_turned_picture_is_refused_as_it_is_and_turned_when_resized(orientation):
    data = turned(orientation)
    with pytest.raises(PictureError, match=f"orientation {orientation}"):
        keep(data, Check.HEADER)
    size = Size(32, 48) if orientation >= 5 else Size(48, 32)
    upright = Resizer(size, 95)(data)
    with Image.open(io.BytesIO(data)) as picture:
        from PIL import ImageOps

        expected = np.asarray(ImageOps.exif_transpose(picture)).astype(int)
    assert np.abs(decode(upright.data, read_header(upright.data)).astype(int) - expected).mean() < 3
    assert read_header(upright.data).orientation == 1


def cmyk() -> bytes:
    file = io.BytesIO()
    Image.new("CMYK", (32, 48)).save(file, "JPEG")
    return file.getvalue()


def png() -> bytes:
    file = io.BytesIO()
    Image.fromarray(photograph()).save(file, "PNG")
    return file.getvalue()


REFUSED = {
    "empty": (b"", "empty"),
    "png": (png(), "not a JPEG"),
    "html": (b"<html>404</html>", "not a JPEG"),
    "pickle": (b"\x80\x04cos\nsystem\n", "not a JPEG"),
    "cmyk": (cmyk(), "CMYK picture; convert it"),
    "bomb": (claiming(9_000, 9_000), "claims 9000 x 9000 pixels"),
    "nothing": (claiming(0, 0), "header is damaged"),
    "scans": (encoded(photograph(), progressive=True) + b"\xff\xda" * 200, "more than 100 scans"),
    "huge": (b"\xff\xd8\xff" + bytes(LARGEST_FRAME), "more than the"),
    "header": (encoded(photograph())[:150], "header is damaged"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_honest_jpeg_is_refused_by_name_before_decoding(name):
    data, reason = REFUSED[name]
    with pytest.raises(PictureError, match=reason):
        read_header(data)


def test_an_ordinary_progressive_picture_is_kept():
    assert keep(encoded(photograph(), progressive=True), Check.DECODE).size == Size(48, 32)


def test_a_picture_cut_in_the_middle_is_an_error_where_pil_would_invent_the_rest():
    data = encoded(photograph(200, 200))
    for length in (len(data) * 2 // 3, len(data) - 40, len(data) - 2):
        with pytest.raises(PictureError, match="damaged"):
            keep(data[:length], Check.DECODE)


def test_a_picture_that_lies_about_its_size_is_an_error():
    with pytest.raises(PictureError, match="damaged"):
        keep(claiming(96, 64), Check.DECODE)


def test_a_header_check_does_not_see_damage_in_the_middle_which_is_why_it_is_not_the_default():
    data = encoded(photograph(200, 200))
    assert keep(data[: len(data) // 2], Check.HEADER).size == Size(200, 200)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2_000), st.binary(min_size=1, max_size=8))
def test_changed_bytes_are_refused_or_give_a_picture_of_the_claimed_size(place, payload):
    data = turned(1)
    changed = data[: place % len(data)] + payload + data[place % len(data) + len(payload) :]
    try:
        picture = keep(changed, Check.DECODE)
    except PictureError:
        return
    assert simplejpeg.decode_jpeg(changed).shape[:2] == picture.size


def test_the_pil_that_is_loaded_is_named_with_what_it_is():
    backend = pil_backend()
    assert backend.simd == (".post" in PIL.__version__)
    assert backend.version.startswith(PIL.__version__)
    assert backend.problems == ()
    assert ("pillow-simd" if backend.simd else "stock pillow") in backend.describe()


def test_a_stock_pillow_says_that_it_is_slower():
    assert "3 to 4 times slower" in Backend("pillow", "12.1.1", False, "3.1", ()).describe()
