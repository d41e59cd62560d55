"""One picture of a synthetic data set: for each identity a visible tracklet, and below it an infrared one.

`docs/synthetic.jpg` is contact_sheet(SyntheticConfig(height=160, width=80), [6, 92, 95, 97, 103, 105]).
"""

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from preprocess.synthetic import FIRST_FULL, SyntheticTracklet, plan_identity, render
from preprocess.synthetic_options import SyntheticConfig
from reid.types import Modality

GAP, LABEL_HEIGHT = 12, 14  # pixels
PAPER, INK = (250, 250, 248), (40, 40, 40)


def contact_sheet(
    config: SyntheticConfig, identities: Sequence[int], num_columns: int = 3, num_frames: int = 5
) -> Image.Image:
    """Draw `identities`, person ids of the data set, from left to right in rows of `num_columns`.

    Each shows `num_frames` frames, evenly chosen, of one tracklet in either modality. Nothing is read from disk.
    """
    block = (num_frames * config.width, LABEL_HEIGHT + 2 * config.height)
    num_rows = -(-len(identities) // num_columns)
    size = (GAP + num_columns * (block[0] + GAP), LABEL_HEIGHT + GAP + num_rows * (block[1] + GAP))
    sheet = Image.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.font = ImageFont.load_default()
    title = "synthetic figures, not people: visible tracklets above, infrared tracklets of the same identity below"
    pen.text((GAP, GAP // 2), title, INK)
    for place, identity in enumerate(identities):
        x = GAP + place % num_columns * (block[0] + GAP)
        y = LABEL_HEIGHT + GAP + place // num_columns * (block[1] + GAP)
        visible, infrared = (
            _one_of(config, identity, modality) for modality in (Modality.VISIBLE, Modality.INFRARED)
        )
        label = f"synthetic identity {identity}, cameras {visible.camera} (visible) and {infrared.camera} (infrared)"
        pen.text((x, y), label, INK)
        for row, tracklet in enumerate((visible, infrared)):
            frames = render(config, tracklet)
            for column in range(num_frames):
                frame = Image.fromarray(frames[column * len(frames) // num_frames])
                sheet.paste(frame, (x + column * config.width, y + LABEL_HEIGHT + row * config.height))
    return sheet


def _one_of(config: SyntheticConfig, identity: int, modality: Modality) -> SyntheticTracklet:
    """A tracklet that is not short, from another camera for the next identity."""
    seen = [tracklet for tracklet in plan_identity(config, identity) if tracklet.modality is modality]
    full = [tracklet for tracklet in seen if tracklet.num_frames >= FIRST_FULL] or seen
    return full[identity % len(full)]
