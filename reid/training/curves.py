"""What the updates measured between two points of the curves, by the names it is tracked under."""

import math
from collections.abc import Mapping

from reid.tracking import names
from reid.training.meters import Reading


def curves(readings: Mapping[str, Reading]) -> dict[str, float]:
    """The loss is the sum over the updates of an iteration. The length of the gradient is a mean over the updates that
    were not skipped, before clipping; `health/nonfinite` counts those that were.
    """
    measured = [reading.means for reading in readings.values()]
    num_skipped = sum(round(reading.count * reading.means["skipped"]) for reading in readings.values())
    num_steps = sum(reading.count for reading in readings.values()) - num_skipped
    norms = sum(reading.count * reading.means["gradient_norm"] for reading in readings.values())
    return {
        names.Metric.LOSS: sum(means["loss"] for means in measured),
        names.Metric.ACCURACY: next(means["accuracy"] for means in measured if "accuracy" in means),
        **{names.objective(term): means[term] for means in measured for term in names.TERMS if term in means},
        **({names.Metric.GRADIENT_NORM: norms / num_steps} if num_steps else {}),
        names.Metric.NONFINITE: num_skipped,
    }


def have_collapsed(measured: Mapping[str, float], margin: float, num_identities: int) -> bool:
    """Whether the features of everybody are the same, by the curves: every distance is 0, so that the triplet (Eq. 10) is
    its margin, and the classifier of `num_identities` guesses. Squared distances of large features end so [A23].
    """
    triplet, identification = (measured[names.objective(term)] for term in ("def_tri", "def_id"))
    return math.isclose(triplet, margin, rel_tol=0.01) and math.isclose(
        identification, math.log(num_identities), rel_tol=0.01
    )
