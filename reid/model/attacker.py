"""ASAM: activates the perturbations of the input in place of adversarial samples (section 3.2).

F_c (2B*T, C, H, W) -> IMSA -> E_att -> GAP -> BN -> f (2B, D)                                     Eqs. 2 and 4
"""

import torch
from torch import Tensor, nn

from reid.model.attention import IntraModalitySelfAttention
from reid.model.neck import Neck, average_pool
from reid.model.resnet import Architecture, Layers
from reid.types import Modality


class Attacker(nn.Module):
    """IMSA and E_att. `separate` gives each modality an IMSA of its own [A5]."""

    def __init__(
        self,
        architecture: Architecture,
        last_stride: int,
        reduction: int,
        *,
        separate: bool,
        recompute: bool = False,
        non_local: bool = False,
    ) -> None:
        super().__init__()
        channels = architecture.channels(0)
        self.imsa = nn.ModuleList(
            IntraModalitySelfAttention(channels, reduction) for _ in range(2 if separate else 1)
        )
        self.layers = Layers(architecture, last_stride, recompute=recompute, non_local=non_local)
        self.neck = Neck(architecture.channels(4))

    def forward(self, x: Tensor, num_frames: int) -> Tensor:
        """The stem's output (2B*T, C, H, W), visible rows first -> f of Eq. 4, (2B, D)."""
        rows = [attend(part) for attend, part in zip(self.imsa, x.chunk(len(self.imsa)), strict=True)]
        x = torch.cat(rows) if len(rows) > 1 else rows[0]  # torch would copy a single one
        feature: Tensor = self.neck(average_pool(self.layers(x), num_frames))
        return feature

    def activated(self, x: Tensor, modality: Modality) -> Tensor:
        """F_c of one modality -> F^ of Eq. 2, both (B*T, C, H, W)."""
        attend = self.imsa[0 if modality is Modality.VISIBLE else -1]
        features: Tensor = attend(x)
        return features
