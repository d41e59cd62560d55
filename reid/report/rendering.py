"""From a function that draws a figure to bytes: PNG for people, PDF for papers, SVG and JPEG for a page, in a theme.

    Draw -> the style of a Theme -> Figure -> bytes

The style is in force while a figure is drawn and while it is written: a drawing function says what is shown, this file
how it looks. Equal figures give equal bytes. Text is never read as a formula, whatever characters a name holds.
"""

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Literal, NamedTuple

import matplotlib as mpl
from matplotlib.figure import Figure

Draw = Callable[[], Figure]
Format = Literal["png", "pdf", "svg", "jpg"]

# Told apart by most eyes, and seen on white and on black.
RIGHT, WRONG, QUIET = "#1f9443", "#d8414a", "#7b828c"
LINES = ("#2b78c2", "#df7a00", "#1f9443", "#a15ac8", "#d8414a", "#73808c", "#00a0a0", "#b8860b")

DOTS_PER_INCH = {"png": 110, "jpg": 110}
_UNDATED: dict[str, dict[str, Any]] = {
    "png": {"metadata": {"Software": None}},
    "pdf": {"metadata": {"CreationDate": None, "Creator": None, "Producer": None}},
    "svg": {"metadata": {"Date": None, "Creator": None}},
    "jpg": {"pil_kwargs": {"quality": 78, "subsampling": "4:2:2", "optimize": True}},
}

logging.getLogger("fontTools").setLevel(logging.WARNING)  # it tells of every glyph of a PDF


@dataclass(frozen=True)
class Theme:
    """Colours of the ground, of text and of the grid."""

    paper: str
    ink: str
    grid: str


LIGHT = Theme("#ffffff", "#1c2128", "#e6e8eb")
DARK = Theme("#171b20", "#e4e7eb", "#2c323a")


class Rendered(NamedTuple):
    """A figure as bytes, and its natural size in CSS pixels, 96 of which make an inch."""

    data: bytes
    width: int
    height: int


def rendered(draw: Draw, kind: Format, theme: Theme = LIGHT) -> Rendered:
    """Draw a figure and write it."""
    with style(theme):
        figure = draw()
        buffer = BytesIO()
        figure.savefig(buffer, format=kind, dpi=DOTS_PER_INCH.get(kind, "figure"), **_UNDATED[kind])
        width, height = (round(96 * inches) for inches in figure.get_size_inches())
    return Rendered(buffer.getvalue(), width, height)


def write(draw: Draw, path: Path) -> Path:
    """Draw a figure into a file of the kind that its suffix names, on white."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(rendered(draw, path.suffix[1:]).data)  # type: ignore[arg-type]
    return path


def ink() -> str:
    """The colour of text in the theme that is in force."""
    return str(mpl.rcParams["text.color"])


def style(theme: Theme) -> AbstractContextManager[Any]:
    """Within, figures are drawn in a theme."""
    inked = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    return mpl.rc_context(
        {
            "font.size": 9,
            "figure.titlesize": 12,
            "figure.titleweight": "bold",
            "figure.facecolor": theme.paper,
            "axes.facecolor": theme.paper,
            "axes.titlesize": 10,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "axes.axisbelow": True,
            "grid.color": theme.grid,
            "legend.frameon": False,
            "legend.fontsize": 8,
            "text.parse_math": False,
            "pdf.fonttype": 42,
            "svg.hashsalt": "",
            **dict.fromkeys(inked, theme.ink),
        }
    )
