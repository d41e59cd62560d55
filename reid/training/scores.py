"""Scores of an evaluation by the names they are tracked under."""

from reid.evaluation.retrieval import Evaluation
from reid.tracking import names


def scores(evaluation: Evaluation) -> dict[str, float]:
    """Fractions in [0, 1]: Rank-1, 5, 10, 20, mAP and mINP of each direction, and the means of both."""
    found: dict[str, float] = {}
    results = evaluation.results
    for direction, result in results.items():
        found |= {names.rank(direction, k): result.rank(k) for k in names.RANKS}
        found[names.mean_average_precision(direction)] = result.map
        found[names.mean_inverse_penalty(direction)] = result.minp
    found[names.Metric.MEAN_RANK1] = sum(result.rank(1) for result in results.values()) / len(results)
    found[names.Metric.MEAN_MAP] = sum(result.map for result in results.values()) / len(results)
    return found
