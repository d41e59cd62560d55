"""The objectives of the paper as pure functions of logits or features. All are means over the rows given [A21].

Legend: R rows (clips of both modalities), D features, M identities.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from reid.types import Distance


def confusion(logits: Tensor) -> Tensor:
    """l_cov_id (Eq. 3): cross-entropy of the uniform distribution, (R, M) -> scalar. Its minimum is ln M [A22]."""
    return -logits.log_softmax(1).mean()


def identification(logits: Tensor, identity: Tensor) -> Tensor:
    """l_att_id, l_def_id and l_p_id (Eqs. 5, 9, 16): cross-entropy, (R, M) and (R,) -> scalar."""
    return F.cross_entropy(logits, identity)


def triplet(features: Tensor, identity: Tensor, margin: float, distance: Distance) -> Tensor:
    """l_def_tri (Eq. 10): hardest positive and hardest negative of every row, (R, D) and (R,) -> scalar.

    `euclidean_unit` measures between features of unit length, `euclidean` between the features as they are, `squared`
    is the literal equation [A23]. A row is no positive of its own; one without a positive or without a negative
    counts as zero.
    """
    distances = _distances(features, distance)
    same = identity[:, None] == identity
    itself = torch.eye(len(identity), dtype=torch.bool, device=identity.device)
    farthest = distances.masked_fill(~same | itself, -torch.inf).amax(1)
    nearest = distances.masked_fill(same, torch.inf).amin(1)
    return F.relu(farthest - nearest + margin).mean()


def _distances(features: Tensor, distance: Distance) -> Tensor:
    """(R, D) -> (R, R). By differences, not by products: rows that are close keep their digits."""
    if distance is Distance.EUCLIDEAN_UNIT:
        features = F.normalize(features, dim=1)
    squared = (features[:, None] - features).square().sum(2)
    if distance is Distance.SQUARED:
        return squared
    return squared.clamp_min(1e-12).sqrt()  # the root has no gradient at zero
