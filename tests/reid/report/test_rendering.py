"""reid/report/rendering.py: real files of every kind, the same twice, in the colours of the theme, for any text."""

from functools import partial
from io import BytesIO

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from reid.report.rendering import DARK, LIGHT, rendered, write

MAGIC = {"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml", "jpg": b"\xff\xd8\xff"}


def draw(text: str = "a title") -> Figure:
    figure = Figure(figsize=(3, 2))
    axes = figure.subplots()
    axes.plot([0, 1])
    axes.set_title(text)
    return figure


@pytest.mark.parametrize("kind", MAGIC)
def test_equal_figures_give_equal_files_of_the_kind_that_was_asked_for(kind, tmp_path):
    first, second = (write(draw, tmp_path / "new" / f"{name}.{kind}").read_bytes() for name in "ab")
    assert first == second
    assert first.startswith(MAGIC[kind])
    assert rendered(draw, kind)[1:] == (288, 192)


def test_a_theme_gives_ground_and_text_their_colours():
    for theme in (LIGHT, DARK):
        with Image.open(BytesIO(rendered(draw, "png", theme).data)) as picture:
            pixels = np.asarray(picture.convert("RGB"))
        ground = tuple(int(theme.paper[i : i + 2], 16) for i in (1, 3, 5))
        ink = np.array([int(theme.ink[i : i + 2], 16) for i in (1, 3, 5)])
        assert tuple(pixels[0, 0]) == ground
        assert np.abs(pixels.astype(int) - ink).sum(axis=-1).min() == 0


@pytest.mark.filterwarnings("ignore:Glyph")
@pytest.mark.parametrize("text", [r"$\frac{", "a$b$c", "<script>", "\N{SNOWMAN}", r"\n%&#"])
def test_no_name_is_read_as_a_formula(text):
    assert rendered(partial(draw, text), "svg").data.startswith(b"<?xml")
