"""Pictures made of photographs, as pure functions of arrays.

    queries and what each run answered -> retrieval_sheet    who was found, right or wrong; a row a run (Fig. 6)
    clips and their attention          -> attention_sheet    where each run looks (Fig. 7)
    a batch of training                -> batch_sheet        what the network was shown

Photographs are uint8 (H, W, 3), red first. Lengths are in widths of one photograph. Right and wrong differ in colour and
in sign, so that no one has to see red.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from PIL import Image

from reid.report.rendering import QUIET, RIGHT, WRONG, ink
from reid.report.tables import labelled, shortened

NOBODY, UNKNOWN = -1, -2
INCHES = 0.72  # the width of one photograph
GAP, CAPTION, HEADING, TITLE = 0.12, 0.36, 0.35, 0.6
FILM = 0.5  # the width of a frame in a film strip
MOST_COLUMNS = 16
CHARACTERS = 12  # of a label, in the width of a photograph

Photographs = NDArray[np.uint8]
Numbers = NDArray[np.floating]
Integers = NDArray[np.integer]


class Ranking(NamedTuple):
    """R answers of one run to each of Q queries.

    `rank` counts from 1. Where there are fewer answers, `identity` is NOBODY; who is UNKNOWN is neither right nor wrong.
    `similarity` are cosines.
    """

    label: str
    answers: Photographs  # (Q, R, H, W, 3)
    identity: Integers  # (Q, R)
    similarity: Numbers  # (Q, R)
    rank: Integers  # (Q, R)


class Panel(NamedTuple):
    """Q queries in one direction, and a ranking a run. `ends_right`: the last answers are the first right ones, at any rank."""

    title: str
    clips: Photographs  # (Q, T, H, W, 3), what the network saw
    identity: Integers  # (Q,), UNKNOWN where nobody knows
    rankings: Sequence[Ranking]
    ends_right: bool = False


class Attended(NamedTuple):
    """A clip, and for each run how much each cell of the last feature map added to its score (T, h, w), at least 0."""

    title: str
    clip: Photographs  # (T, H, W, 3)
    attention: Mapping[str, Numbers]


class Seen(NamedTuple):
    """The first frames of B pairs of training clips, who and which camera filmed them, and in a sentence how they were augmented."""

    step: int
    visible: Photographs  # (B, H, W, 3)
    infrared: Photographs  # (B, H, W, 3)
    identity: Integers  # (B,), in runs of `num_tracklets`
    visible_camera: Integers  # (B,)
    infrared_camera: Integers  # (B,)
    num_tracklets: int
    augmentation: str


def retrieval_sheet(panel: Panel, *, synthetic: bool) -> Figure:
    """A block a query: its clip, and a row of answers a run. First right answers stand apart, with their rank."""
    num_queries, num_frames, height, width = panel.clips.shape[:4]
    tall, num_runs = height / width, len(panel.rankings)
    film = -(-num_frames // 2) * (FILM + GAP / 4)
    first = 1 + GAP + film + (0.7 if num_runs > 1 else 0.45)
    block = num_runs * (tall + CAPTION) + (GAP if num_runs > 1 else 0)
    num_answers = panel.rankings[0].answers.shape[1]
    columns = first + np.arange(num_answers) * (1 + GAP)
    if panel.ends_right:
        columns[-1] += 0.5
    size = columns[-1] + 1, HEADING + num_queries * block
    figure, axes = _canvas(*size, labelled(panel.title, synthetic))
    for left, name in zip([0.0, *columns], ["query", *_headings(panel)], strict=True):
        axes.text(left + 0.5, HEADING - 0.1, name, ha="center", va="bottom", color=QUIET)
    for q, person in enumerate(panel.identity):
        top = HEADING + q * block
        middle = panel.clips[q, num_frames // 2]
        _place(axes, middle, 0, top, "somebody" if person == UNKNOWN else f"person {person}", ink())
        for t, frame in enumerate(panel.clips[q]):
            left = 1 + GAP + t // 2 * (FILM + GAP / 4)
            _place(axes, frame, left, top + t % 2 * tall / 2, width=FILM * 0.98)
        for row, ranking in enumerate(panel.rankings):
            top_of_row = top + row * (tall + CAPTION)
            _place_answers(axes, panel, ranking, q, columns, top_of_row)
            if num_runs > 1:
                _label(axes, ranking.label, first - 0.15, top_of_row, tall)
    return figure


def attention_sheet(clips: Sequence[Attended], *, synthetic: bool, columns: int = 2) -> Figure:
    """A block a clip: its frames, and below them a row a run, the warmer the more attention."""
    num_frames, height, width = clips[0].clip.shape[:3]
    tall, labels = height / width, list(clips[0].attention)
    wide = 0.4 + num_frames * (1 + GAP / 2) + 3 * GAP
    block = HEADING + (1 + len(labels)) * (tall + GAP / 2) + 2 * GAP
    rows = -(-len(clips) // columns)
    figure, axes = _canvas(
        min(columns, len(clips)) * wide - 3 * GAP, rows * block, labelled("Where it looks", synthetic)
    )
    for place, attended in enumerate(clips):
        left, top = place % columns * wide, place // columns * block
        axes.text(left + 0.4, top + HEADING - 0.1, attended.title, va="bottom", color=QUIET)
        for row, label in enumerate(["clip", *labels]):
            y = top + HEADING + row * (tall + GAP / 2)
            _label(axes, label, left + 0.25, y, tall)
            shown = attended.clip if row == 0 else overlaid(attended.clip, attended.attention[label])
            for t, frame in enumerate(shown):
                _place(axes, frame, left + 0.4 + t * (1 + GAP / 2), y)
            if row and not is_anywhere(attended.attention[label]):
                middle = left + 0.4 + (num_frames * (1 + GAP / 2) - GAP / 2) / 2
                box = {"boxstyle": "round", "fc": axes.get_facecolor(), "ec": QUIET}
                axes.text(
                    middle, y + tall / 2, "nothing above 0", ha="center", va="center", bbox=box, zorder=4
                )
    return figure


def is_anywhere(attention: Numbers) -> bool:
    """Whether anything in a clip made it more like what it was compared to."""
    return bool(attention.max() > 0)


def overlaid(clip: Photographs, attention: Numbers) -> Photographs:
    """A clip (T, H, W, 3) in grey under its attention (T, h, w), from cold to warm; the clip's greatest value is warmest."""
    height, width = clip.shape[1:3]
    share = attention / max(float(attention.max()), 1e-12)
    small = (Image.fromarray(frame.astype(np.float32)) for frame in share)
    fine = np.stack([np.asarray(frame.resize((width, height), Image.Resampling.BICUBIC)) for frame in small])
    colours = 255 * mpl.colormaps["turbo"](np.clip(fine, 0, 1))[..., :3]  # (T, H, W, 3)
    grey = clip.mean(axis=-1, keepdims=True)
    mixed: Photographs = np.rint(0.5 * grey + 0.5 * colours).astype(np.uint8)
    return mixed


def batch_sheet(seen: Seen, *, synthetic: bool) -> Figure:
    """Identities from left to right, each with its tracklets: visible above, infrared below."""
    num_pairs, height, width = seen.visible.shape[:3]
    tall, per_row = height / width, max(1, MOST_COLUMNS // seen.num_tracklets) * seen.num_tracklets
    wide = (1 + GAP / 2) * min(per_row, num_pairs) + 2 * GAP * (
        min(per_row, num_pairs) // seen.num_tracklets - 1
    )
    block = HEADING + 2 * (tall + CAPTION) + GAP
    title = labelled(f"The batch of step {seen.step}", synthetic)
    figure, axes = _canvas(wide, -(-num_pairs // per_row) * block, title, inches=0.6)
    for pair, identity in enumerate(seen.identity):
        column, top = pair % per_row, pair // per_row * block
        left = column * (1 + GAP / 2) + column // seen.num_tracklets * 2 * GAP
        if pair % seen.num_tracklets == 0:
            middle = left + (seen.num_tracklets * (1 + GAP / 2) - GAP / 2) / 2
            axes.text(middle, top + HEADING - 0.08, f"person {identity}", ha="center", va="bottom")
        for row, (pictures, cameras) in enumerate(
            ((seen.visible, seen.visible_camera), (seen.infrared, seen.infrared_camera))
        ):
            y = top + HEADING + row * (tall + CAPTION)
            _place(axes, pictures[pair], left, y, f"camera {cameras[pair]}", QUIET, framed=False)
    return figure


def _headings(panel: Panel) -> list[str]:
    ranks = panel.rankings[0].rank
    names = [f"rank {r + 1}" for r in range(ranks.shape[1])]
    return [*names[:-1], "first right"] if panel.ends_right else names


def _place_answers(
    axes: Axes, panel: Panel, ranking: Ranking, q: int, columns: NDArray[np.float64], top: float
) -> None:
    person = panel.identity[q]
    for r, found in enumerate(ranking.identity[q]):
        if found == NOBODY:
            continue
        sign, color = ("✓ ", RIGHT) if found == person else ("✗ ", WRONG)
        if UNKNOWN in {found, person}:
            sign, color = "", QUIET
        caption = f"{sign}{ranking.similarity[q, r]:.2f}"
        if panel.ends_right and r == len(columns) - 1:
            caption = f"{sign}rank {ranking.rank[q, r]}"
        _place(axes, ranking.answers[q, r], float(columns[r]), top, caption, color)


def _canvas(width: float, height: float, title: str, inches: float = INCHES) -> tuple[Figure, Axes]:
    """A figure of `width` x `height` photographs' widths, under a title."""
    whole = width + 2 * GAP, height + TITLE + GAP
    figure = Figure(figsize=(inches * whole[0], inches * whole[1]))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.axis("off")
    axes.text(width / 2, -TITLE / 2, title, ha="center", va="center", weight="bold", size=11)
    axes.set(xlim=(-GAP, width + GAP), ylim=(height + GAP, -TITLE), autoscale_on=False)
    return figure, axes


def _place(
    axes: Axes,
    picture: Photographs,
    left: float,
    top: float,
    caption: str = "",
    color: str = QUIET,
    *,
    width: float = 1.0,
    framed: bool = True,
) -> None:
    """Put a photograph at its upper left corner, in a frame of its caption's colour if it has a caption."""
    tall = width * picture.shape[0] / picture.shape[1]
    axes.imshow(picture, extent=(left, left + width, top + tall, top), aspect="auto", zorder=2)
    if caption:
        axes.text(
            left + width / 2, top + tall + 0.06, caption, ha="center", va="top", color=color, fontsize=8
        )
    if caption and framed:
        frame = Rectangle((left, top), width, tall, fill=False, ec=color, lw=2.2, joinstyle="miter", zorder=3)
        axes.add_patch(frame)


def _label(axes: Axes, text: str, x: float, top: float, height: float) -> None:
    """What a row of that height is, read upwards."""
    short = shortened(text, int(height * CHARACTERS))
    axes.text(x, top + height / 2, short, rotation=90, ha="center", va="center", color=ink(), fontsize=8)
