"""The whole network: which parts exist, and one forward for each branch of Algorithm 1.

Legend: B clips of one modality, T frames, D channels, K parts, M identities.

    visible, infrared (B, T, 3, H, W) -> stem -> F_c -> defend: defence, defence_classifier
                                                     -> guide:  defence's trunk, guidance, guided_classifier
                                                     -> attack: attacker, attack_classifier and, frozen, defence_classifier

Rows of every output are visible first, then infrared. `embed` needs one modality only; its two halves, before and
behind F_c, are there for whoever changes features in between.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reid.model.attacker import Attacker
from reid.model.defence import CrossAttention, Defence
from reid.model.guidance import Guidance
from reid.model.neck import classifier
from reid.model.resnet import ARCHITECTURES, Stem, load_pretrained
from reid.types import Embedding, Guide, Modality


class Part(StrEnum):
    """What Algorithm 1 trains by name."""

    STEM = "stem"
    ATTACKER = "attacker"
    ATTACK_CLASSIFIER = "attack_classifier"
    DEFENCE = "defence"
    DEFENCE_CLASSIFIER = "defence_classifier"
    GUIDANCE = "guidance"
    GUIDED_CLASSIFIER = "guided_classifier"


class Branch(StrEnum):
    """A way through the network that ends in objectives."""

    DEFEND = "defend"
    GUIDE = "guide"
    ATTACK = "attack"


class Defended(NamedTuple):
    """`feature` before the BN neck, `normalised` after it (f_d of Eq. 8), both (2B, D); `logits` (2B, M) of W_def."""

    feature: Tensor
    normalised: Tensor
    logits: Tensor


class Guided(NamedTuple):
    """`logits` (2B, M) of W_se."""

    logits: Tensor


class Attacked(NamedTuple):
    """`defence_logits` of the frozen W_def for Eq. 3, `logits` of W_att for Eq. 5, both (2B, M)."""

    defence_logits: Tensor
    logits: Tensor


class Outputs(NamedTuple):
    """One entry a branch that was asked for. A NamedTuple, because accelerate's float32 conversion looks into those."""

    defend: Defended | None = None
    guide: Guided | None = None
    attack: Attacked | None = None


@dataclass(frozen=True)
class Structure:
    """The numbers and choices a network is built from; the defaults are the paper's full model."""

    num_identities: int
    backbone: str = "resnet50"
    last_stride: int = 1
    attacker: bool = True
    cross: CrossAttention | None = field(default_factory=CrossAttention)
    guide: Guide | None = Guide.FULL
    num_parts: int = 6
    attention_reduction: int = 2
    separate_attention: bool = False
    num_lstm_layers: int = 1
    gate_reduction: int = 16
    guided_neck: bool = False
    generalized_mean: bool = False
    non_local: bool = False
    recompute: bool = False


class Network(nn.Module):
    """The parts of one variant, and no others: `parts` names what exists."""

    def __init__(self, structure: Structure) -> None:
        super().__init__()
        s, architecture = structure, ARCHITECTURES[structure.backbone]
        features = architecture.channels(4)
        self.stem = Stem(architecture)
        self.defence = Defence(
            architecture,
            s.last_stride,
            s.cross,
            recompute=s.recompute,
            generalized_mean=s.generalized_mean,
            non_local=s.non_local,
        )
        self.defence_classifier = classifier(features, s.num_identities)
        if s.attacker:
            self.attacker = Attacker(
                architecture,
                s.last_stride,
                s.attention_reduction,
                separate=s.separate_attention,
                recompute=s.recompute,
                non_local=s.non_local,
            )
            self.attack_classifier = classifier(features, s.num_identities)
        if s.guide is not None:
            self.guidance = Guidance(
                features,
                s.num_parts,
                s.guide,
                num_layers=s.num_lstm_layers,
                reduction=s.gate_reduction,
                neck=s.guided_neck,
                generalized_mean=s.generalized_mean,
            )
            self.guided_classifier = classifier(features * s.num_parts, s.num_identities)

    @property
    def parts(self) -> dict[Part, nn.Module]:
        return {part: self.get_submodule(part) for part in Part if hasattr(self, part)}

    def load_pretrained(self, weights: dict[str, Tensor]) -> None:
        """Start both stems and every trunk from the weights of one ResNet [A2]."""
        trunks = [self.defence.layers, *([self.attacker.layers] if Part.ATTACKER in self.parts else [])]
        load_pretrained(weights, self.stem, *trunks)

    def forward(
        self,
        branches: Collection[Branch],
        visible: Tensor,
        infrared: Tensor,
        spares_stem: Collection[Branch] = (),
    ) -> Outputs:
        """Normalised clips (B, T, 3, H, W) of each modality through the branches asked for, in one pass.

        Branches in `spares_stem` send no gradient to the stem; the others share one pass of stem and trunk.
        """
        num_frames = visible.shape[1]
        x = self.stem(_frames(visible), _frames(infrared))
        spared = {branch: branch in spares_stem for branch in branches}
        entrances = {False: x, True: x.detach()}
        trunks = {
            spares: self.defence.trunk(entrances[spares])
            for spares in sorted({spared[branch] for branch in branches if branch is not Branch.ATTACK})
        }
        defend = guide = attack = None
        if Branch.DEFEND in branches:
            defend = self._defend(*trunks[spared[Branch.DEFEND]], num_frames)
        if Branch.GUIDE in branches:
            guide = self._guide(trunks[spared[Branch.GUIDE]][1], num_frames)
        if Branch.ATTACK in branches:
            attack = self._attack(entrances[spared[Branch.ATTACK]], num_frames)
        return Outputs(defend, guide, attack)

    def _defend(self, shallow: Tensor, deep: Tensor, num_frames: int) -> Defended:
        feature = self.defence.feature(shallow, deep, num_frames)
        normalised = self.defence.neck(feature)
        return Defended(feature, normalised, self.defence_classifier(normalised))

    def _guide(self, deep: Tensor, num_frames: int) -> Guided:
        return Guided(self.guided_classifier(self._guided_vector(deep, num_frames)))

    def _attack(self, x: Tensor, num_frames: int) -> Attacked:
        attacked = self.attacker(x, num_frames)
        frozen = self.defence_classifier.weight.detach()  # the gradient passes through it, not into it [A22]
        return Attacked(F.linear(attacked, frozen), self.attack_classifier(attacked))

    def _guided_vector(self, deep: Tensor, num_frames: int) -> Tensor:
        vector: Tensor = self.guidance(deep, num_frames)
        return vector

    def embedding_width(self, kind: Embedding = Embedding.AUTO) -> int:
        """Components D' of the vectors that `embed` makes."""
        guided = self.guided_classifier.in_features if Part.GUIDANCE in self.parts else 0
        alone = self.defence_classifier.in_features
        widths = {Embedding.AUTO: guided or alone, Embedding.GUIDED: guided, Embedding.BOTH: guided + alone}
        return int(widths.get(kind, alone))

    def embed(self, clips: Tensor, modality: Modality, kind: Embedding = Embedding.AUTO) -> Tensor:
        """Normalised clips (B, T, 3, H, W) of one modality -> what retrieval compares, (B, D'), unit length [A20].

        D' is K*D for the guided vector and D for a global one. Raises ValueError for a kind this variant cannot give.
        """
        return self.embed_features(self.stem_features(clips, modality), clips.shape[1], kind)

    def stem_features(self, clips: Tensor, modality: Modality) -> Tensor:
        """Normalised clips (B, T, 3, H, W) of one modality -> F_c of Eq. 1, (B*T, C, H/4, W/4)."""
        stem = self.stem.visible if modality is Modality.VISIBLE else self.stem.infrared
        features: Tensor = stem(_frames(clips))
        return features

    def self_attacked(self, features: Tensor, modality: Modality) -> Tensor:
        """F_c of one modality -> what IMSA makes of it (Eq. 2), the same shape. Raises ValueError without ASAM."""
        if Part.ATTACKER not in self.parts:
            raise ValueError(
                "the attack of ASAM's own needs the attack branch, which this variant does not have"
            )
        attacked: Tensor = self.attacker.activated(features, modality)
        return attacked

    def embed_self_attacked(
        self, clips: Tensor, modality: Modality, kind: Embedding = Embedding.AUTO
    ) -> Tensor:
        """As `embed`, but the defence sees the features that ASAM has activated in place of F_c, which is what it is to
        bear (section 3.3). Raises ValueError without ASAM.
        """
        features = self.self_attacked(self.stem_features(clips, modality), modality)
        return self.embed_features(features, clips.shape[1], kind)

    def embed_features(self, features: Tensor, num_frames: int, kind: Embedding = Embedding.AUTO) -> Tensor:
        """The rest of `embed`: F_c (B*T, C, H/4, W/4) -> (B, D'), unit length."""
        if kind is Embedding.AUTO:
            kind = Embedding.GUIDED if Part.GUIDANCE in self.parts else Embedding.GLOBAL
        if kind in {Embedding.GUIDED, Embedding.BOTH} and Part.GUIDANCE not in self.parts:
            raise ValueError(
                f"evaluation.embedding: {kind} needs FRM-STIG, which this variant does not have; use auto"
            )
        if kind is Embedding.SELF_ATTENDED and self.defence.cross is None:
            raise ValueError(
                f"evaluation.embedding: {kind} needs CMCA, which this variant does not have; use auto"
            )
        shallow, deep = self.defence.trunk(features)
        vectors = []
        if kind in {Embedding.GUIDED, Embedding.BOTH}:
            vectors.append(self._guided_vector(deep, num_frames))
        if kind in {Embedding.GLOBAL, Embedding.BOTH}:
            vectors.append(self.defence.neck(self.defence.pool(deep, num_frames)))
        if kind is Embedding.SELF_ATTENDED:
            vectors.append(self.defence.neck(self.defence.feature(shallow, deep, num_frames, alone=True)))
        precision = self.defence.neck.norm.weight.dtype
        unit = torch.cat([F.normalize(vector.to(precision), dim=1) for vector in vectors], 1)
        return F.normalize(unit, dim=1)


def _frames(clips: Tensor) -> Tensor:
    """(B, T, 3, H, W) -> (B*T, 3, H, W), channels last in memory."""
    return clips.flatten(0, 1).contiguous(memory_format=torch.channels_last)
