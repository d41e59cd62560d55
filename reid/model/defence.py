"""ADM: the re-identification trunk, and the cross-modality attention that hardens it (section 3.3).

    F_c -> E_def3 -> F_d3 --CMCA--> ConLa4 --\\
                      |                       mean -> GAP -> feature -> BN -> f_d                     Eqs. 6 to 8
                      ConLa4 -> F_d --CMCA--/
                                |--> FRM-STIG, which sees F_d before any partner does [A13]

Without CMCA (the baseline) the feature is GAP(F_d) [A38].
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from reid.model.attention import CrossModalityCrossAttention, exchange
from reid.model.neck import GeneralizedMean, Neck, average_pool
from reid.model.resnet import Architecture, Layers


@dataclass(frozen=True)
class CrossAttention:
    """How the modalities look at each other: bottleneck [A4], frame or clip pairing [A10], statistics [A34]."""

    reduction: int = 2
    pair_clips: bool = False
    update_statistics: bool = False


class Defence(nn.Module):
    """E_def, and two CMCA where `cross` is given: one a depth, shared by both directions [A9]."""

    def __init__(
        self,
        architecture: Architecture,
        last_stride: int,
        cross: CrossAttention | None,
        *,
        recompute: bool = False,
        generalized_mean: bool = False,
        non_local: bool = False,
    ) -> None:
        super().__init__()
        self.layers = Layers(architecture, last_stride, recompute=recompute, non_local=non_local)
        self.gem = GeneralizedMean() if generalized_mean else None
        self.neck = Neck(architecture.channels(4))
        self.cross = cross
        if cross is not None:
            self.cmca3 = CrossModalityCrossAttention(architecture.channels(3), cross.reduction)
            self.cmca4 = CrossModalityCrossAttention(architecture.channels(4), cross.reduction)

    def trunk(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """F_c -> F_d3 and F_d of Eq. 6, (2B*T, C3, H, W) and (2B*T, D, H, W)."""
        shallow = self.layers.shallow(x)
        return shallow, self.layers.last(shallow)

    def feature(self, shallow: Tensor, deep: Tensor, num_frames: int, *, alone: bool = False) -> Tensor:
        """F_d3 and F_d -> the feature of Eq. 8 before its BN, (2B, D).

        Rows are visible first; row i of one half is paired with row i of the other [A11]. With `alone` each frame is
        its own partner: the form that needs one modality only [A20].
        """
        if self.cross is None:
            return self.pool(deep, num_frames)
        frames = num_frames if self.cross.pair_clips else 1
        partner = (lambda maps: maps) if alone else exchange
        crossed = self.cmca3(shallow, partner(shallow), frames)
        with _statistics(self.layers.layer4, updated=self.cross.update_statistics):
            crossed = self.layers.last(crossed)
        return self.pool((crossed + self.cmca4(deep, partner(deep), frames)) / 2, num_frames)

    def pool(self, maps: Tensor, num_frames: int) -> Tensor:
        """GAP of Eq. 8, or GeM in its place: (2B*T, D, H, W) -> (2B, D)."""
        return average_pool(maps, num_frames, self.gem)


@contextmanager
def _statistics(module: nn.Module, *, updated: bool) -> Iterator[None]:
    """Within, batch normalisation in training uses the batch's statistics, and remembers them only if `updated`.

    In evaluation nothing changes.
    """
    norms = [] if updated else [m for m in module.modules() if isinstance(m, _BatchNorm) and m.training]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True
