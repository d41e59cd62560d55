"""reid/training/curves.py: what the updates of an interval come to."""

import pytest

from reid.training.curves import curves, have_collapsed
from reid.training.meters import Reading


def reading(count: int, loss: float, norm: float, skipped: float, **terms: float) -> Reading:
    return Reading(count, {**terms, "loss": loss, "gradient_norm": norm, "skipped": skipped})


def test_losses_add_up_and_terms_keep_their_names():
    found = curves(
        {
            "defend": reading(4, 1.5, 2.0, 0.0, def_id=1.0, def_tri=2.0, accuracy=0.25),
            "attack": reading(4, 0.5, 4.0, 0.0, cov_id=0.5),
        }
    )
    assert found == {
        "train/loss": 2.0,
        "train/accuracy": 0.25,
        "train/def_id": 1.0,
        "train/def_tri": 2.0,
        "train/cov_id": 0.5,
        "train/grad_norm": 3.0,
        "health/nonfinite": 0,
    }


def test_a_skipped_update_is_counted_and_its_gradient_is_not():
    found = curves(
        {
            "defend": reading(4, 1.0, 6.0, 0.25, accuracy=0.0),  # three norms of 8 and one skipped
            "attack": reading(2, 1.0, 2.0, 0.0),
        }
    )
    assert found["health/nonfinite"] == 1
    assert found["train/grad_norm"] == pytest.approx((3 * 8 + 2 * 2) / 5)
    assert "train/grad_norm" not in curves({"defend": reading(3, 1.0, 0.0, 1.0, accuracy=0.0)})


@pytest.mark.parametrize(
    ("triplet", "identification", "expected"),
    [
        (0.3001, 6.2145, True),  # ln 500 = 6.2146
        (0.31, 6.2145, False),  # the hardest positive is still farther than the hardest negative
        (0.3, 6.0, False),  # somebody is told from the others
        (0.0, 6.2145, False),
    ],
)
def test_features_have_collapsed_where_the_triplet_is_its_margin_and_the_classifier_guesses(
    triplet, identification, expected
):
    measured = {"train/def_tri": triplet, "train/def_id": identification}
    assert have_collapsed(measured, 0.3, 500) is expected
