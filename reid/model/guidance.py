"""FRM-STIG: features guided by how the parts of a body move together (section 3.4).

Legend: B clips (both modalities), T frames, K stripes, D channels, H W.

    F_d (B*T, D, H, W) -> K stripes -> f (B, T, K, D)
    f -> LSTM_mot over t -> motion (B, T, K, D)                                                        FR-E-TI
    motion of the last frame -> LSTM_spa over k -> relation (B, D)                                     FH-G-SR
    f * gate(f, relation) + motion -> mean over t -> concatenation over k -> (B, K*D)                  Eqs. 11 to 15
"""

import torch
from torch import Tensor, nn

from reid.model.attention import bottleneck
from reid.model.neck import GeneralizedMean, Neck
from reid.types import Guide


class Guidance(nn.Module):
    """LSTM_mot, LSTM_spa and the two linear maps of Eq. 12; hidden width D, because Eq. 14 adds them to f [A14]."""

    def __init__(
        self,
        features: int,
        num_parts: int,
        kind: Guide,
        *,
        num_layers: int = 1,
        reduction: int = 16,
        neck: bool = False,
        generalized_mean: bool = False,
    ) -> None:
        super().__init__()
        self.gem = GeneralizedMean() if generalized_mean else None
        self.num_parts = num_parts
        self.kind = kind
        self.motion = nn.LSTM(features, features, num_layers, batch_first=True)
        if kind is Guide.FULL:
            self.spatial = nn.LSTM(features, features, num_layers, batch_first=True)
        if kind is not Guide.MOTION_ONLY:
            width = bottleneck(2 * features, reduction, "model.gate_reduction")  # [A17]
            self.gate = nn.Sequential(
                nn.Linear(2 * features, width), nn.ReLU(), nn.Linear(width, features), nn.Sigmoid()
            )
        self.neck = Neck(num_parts * features) if neck else nn.Identity()  # [A19]

    def forward(self, maps: Tensor, num_frames: int) -> Tensor:
        """F_d (B*T, D, H, W) -> the concatenated stripes of Eq. 15, (B, K*D). H must divide by K."""
        stripes = self.stripes(maps, num_frames)
        motion = self._over_frames(stripes)
        if self.kind is not Guide.MOTION_ONLY:
            both = torch.cat([stripes, self._relation(motion)], -1)  # Eq. 11, (B, T, K, 2*D)
            stripes = stripes * self.gate(both)  # Eqs. 12 and 13 [A18]
        vector: Tensor = self.neck((stripes + motion).mean(1).flatten(1))  # Eqs. 14 and 15, (B, K*D)
        return vector

    def stripes(self, maps: Tensor, num_frames: int) -> Tensor:
        """(B*T, D, H, W) -> (B, T, K, D): means over K horizontal stripes, as PCB cuts a person [A14], or GeM."""
        rows = maps.shape[2]
        if rows % self.num_parts:
            raise ValueError(
                f"model.num_parts: {rows} rows of the last feature map do not divide into {self.num_parts} stripes; "
                "change data.height, model.last_stride or model.num_parts"
            )
        cells = maps.unflatten(2, (self.num_parts, -1))  # (B*T, D, K, H/K, W)
        parts = cells.mean((3, 4)) if self.gem is None else self.gem(cells)  # (B*T, D, K)
        stripes: Tensor = parts.mT.unflatten(0, (-1, num_frames))
        return stripes

    def _over_frames(self, stripes: Tensor) -> Tensor:
        """LSTM_mot, shared by stripes and modalities [A15]: (B, T, K, D) -> (B, T, K, D)."""
        batch = stripes.shape[0]
        outputs: Tensor = self.motion(stripes.transpose(1, 2).flatten(0, 1))[0]  # (B*K, T, D)
        motion: Tensor = outputs.unflatten(0, (batch, -1)).transpose(1, 2)  # (B, T, K, D)
        return motion

    def _relation(self, motion: Tensor) -> Tensor:
        """What Eq. 11 puts beside f, (B, T, K, D): LSTM_spa's last output, the same for all t and k [A16]; without
        LSTM_spa, LSTM_mot's last output of the same stripe [A36].
        """
        last = motion[:, -1]  # (B, K, D)
        if self.kind is Guide.FULL:
            outputs, _ = self.spatial(last)
            last = outputs[:, -1:]  # (B, 1, D)
        return last[:, None].expand_as(motion)
