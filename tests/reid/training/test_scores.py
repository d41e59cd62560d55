"""reid/training/scores.py: the numbers of an evaluation under their names, as fractions."""

import numpy as np
import pytest
import torch

from reid.evaluation.metrics import Labels
from reid.evaluation.metrics import evaluate as score
from reid.evaluation.retrieval import Embedded, Evaluation
from reid.training.scores import scores
from reid.types import Direction

NOBODY = Embedded(np.zeros(0, dtype=np.int64), torch.zeros(0, 1))


def test_scores_are_fractions_of_each_direction_and_their_means():
    query, gallery = Labels(np.array([1, 2]), np.zeros(2)), Labels(np.array([1, 2, 2]), np.ones(3))
    right = np.array([[0.9, 0.1, 0.2], [0.1, 0.8, 0.9]])
    late = np.array([[0.1, 0.9, 0.2], [0.9, 0.8, 0.1]])  # ranks 3; 2 and 3
    found = scores(
        Evaluation(
            {
                Direction.INFRARED_TO_VISIBLE: score(right, query, gallery),
                Direction.VISIBLE_TO_INFRARED: score(late, query, gallery),
            },
            NOBODY,
            NOBODY,
        )
    )
    assert found == pytest.approx(
        {
            **{f"infrared_to_visible/rank{k}": 1.0 for k in (1, 5, 10, 20)},
            "infrared_to_visible/map": 1.0,
            "infrared_to_visible/minp": 1.0,
            "visible_to_infrared/rank1": 0.0,
            **{f"visible_to_infrared/rank{k}": 1.0 for k in (5, 10, 20)},
            "visible_to_infrared/map": (1 / 3 + (1 / 2 + 2 / 3) / 2) / 2,
            "visible_to_infrared/minp": (1 / 3 + 2 / 3) / 2,
            "mean/rank1": 0.5,
            "mean/map": (1 + (1 / 3 + (1 / 2 + 2 / 3) / 2) / 2) / 2,
        }
    )
