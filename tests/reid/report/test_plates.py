"""reid/report/plates.py: captions say what was done, and training keeps the pictures that a report shows."""

import numpy as np
import pytest

from reid.data.augmentation import Augmentation
from reid.data.manifest import Manifest
from reid.report import album, plates
from reid.training import build
from reid.training.review import batch_of


@pytest.fixture(scope="module")
def seen(tiny):
    """Makes what is shown of a batch, from an augmentation."""
    config = tiny()
    manifest = Manifest.open(config.data.root)

    def of(augmentation: Augmentation):
        return album.seen(0, *batch_of(config, manifest, 0), manifest, augmentation)

    return of


@pytest.mark.parametrize(
    ("augmentation", "sentence"),
    [
        (
            Augmentation(),
            "Augmentation moves each by up to 10 pixels, mirrors 50 % of them, all frames of a clip alike.",
        ),
        (
            Augmentation(0, 0, 0.25, per_frame=True),
            "Augmentation turns 25 % of the visible ones grey, frame by frame.",
        ),
        (
            Augmentation(0, 0, 0, exchange_probability=0.5, erasing_probability=0.125),
            "Augmentation shows 50 % of the visible ones by a single channel, paints over a part of 12.5 % of them, all "
            "frames of a clip alike.",
        ),
        (Augmentation(0, 0), "Clips are not augmented."),
    ],
)
def test_the_caption_of_a_batch_tells_of_the_augmentation_that_was_configured(seen, augmentation, sentence):
    assert (
        f"as the network got it. {sentence} Made again"
        in plates.batch(seen(augmentation), synthetic=True).caption
    )


def test_attention_that_is_nowhere_is_told_of_in_the_caption(untrained, monkeypatch):
    (picture,) = plates.attention(untrained)
    assert "Nothing above 0" not in picture.caption
    shown = album.attended(untrained)
    shown[0] = shown[0]._replace(
        attention={name: np.zeros_like(one) for name, one in shown[0].attention.items()}
    )
    monkeypatch.setattr(album, "attended", lambda _: shown)
    (picture,) = plates.attention(untrained)
    assert "Nothing above 0" in picture.caption


def test_training_keeps_a_picture_of_every_kind(tiny, untrained, seen, tmp_path):
    (tmp_path / "journal.jsonl").touch()
    kept = plates.kept(untrained["full"], seen(build.augmentation(tiny())), tmp_path, "full")
    names = {picture.name for picture in kept}
    directions = ("infrared_to_visible", "visible_to_infrared")
    both = {f"{kind}_{direction}" for kind in ("retrieval", "failures") for direction in directions}
    assert names == both | {"cmc", "distances", "embeddings", "attention", "batch_0", "training"}
