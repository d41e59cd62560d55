"""The contact sheet shows what was rendered, and says that it is synthetic."""

import numpy as np

from preprocess.contact_sheet import contact_sheet
from preprocess.synthetic import SyntheticConfig, plan_identity, render


def test_the_sheet_shows_frames_of_every_identity_in_both_modalities():
    config = SyntheticConfig(num_identities=10, height=48, width=24, short_fraction=0.0)
    sheet = contact_sheet(config, [1, 4, 7, 9], num_columns=2, num_frames=3)
    assert sheet.size == (12 + 2 * (3 * 24 + 12), 26 + 2 * (14 + 2 * 48 + 12))
    pixels = np.asarray(sheet)
    corners = [(40, 12), (40, 96), (162, 12), (162, 96)]
    for identity, (y, x) in zip([1, 4, 7, 9], corners, strict=True):
        films = [render(config, tracklet)[0] for tracklet in plan_identity(config, identity)]
        for top in (y, y + 48):
            shown = pixels[top : top + 48, x : x + 24]
            assert any(np.array_equal(shown, first) for first in films), (identity, top)
