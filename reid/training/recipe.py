"""Algorithm 1 and Table 1 of the paper as data.

An `Update` is one "update ... by minimising ..." line: the branch it runs, its weighted objectives, the parts it
trains. A `Stage` is the paper's Step I or Step II: groups of updates, one optimizer step a group. A variant says which
parts exist. One rule makes the eight rows of Table 1: an update stays if every part that it trains exists.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from reid.model.network import Branch, Outputs, Part
from reid.training import objectives
from reid.types import Distance, Recipe


@dataclass(frozen=True)
class Factors:
    """The factors of Eq. 17."""

    lambda1: float = 1.0
    lambda2: float = 0.5
    lambda3: float = 0.5


@dataclass(frozen=True)
class Update:
    """One line of Algorithm 1. `objectives` maps an objective's name to its weight."""

    branch: Branch
    objectives: Mapping[str, float]
    trains: frozenset[Part]


@dataclass(frozen=True)
class Group:
    """Updates that share one forward, one backward and one optimizer step."""

    updates: tuple[Update, ...]

    @property
    def name(self) -> str:
        return "+".join(update.branch for update in self.updates)

    @property
    def branches(self) -> tuple[Branch, ...]:
        return tuple(update.branch for update in self.updates)

    @property
    def trains(self) -> frozenset[Part]:
        return frozenset[Part]().union(*(update.trains for update in self.updates))

    @property
    def spares_stem(self) -> tuple[Branch, ...]:
        """The branches whose gradient ends before the stem, although another update of the group may train it."""
        return tuple(update.branch for update in self.updates if Part.STEM not in update.trains)


@dataclass(frozen=True)
class Stage:
    name: str
    groups: tuple[Group, ...]


def stages(
    parts: frozenset[Part], factors: Factors, recipe: Recipe = Recipe.ALGORITHM1
) -> tuple[Stage, Stage]:
    """Step I and Step II of Algorithm 1 for a network that has `parts`."""
    w = factors
    defending, guiding = {"def_id": w.lambda2, "def_tri": w.lambda2}, {"p_id": w.lambda3}
    attacking = {"cov_id": 1.0, "att_id": w.lambda1}
    guide = Update(
        Branch.GUIDE, guiding, frozenset({Part.STEM, Part.DEFENCE, Part.GUIDANCE, Part.GUIDED_CLASSIFIER})
    )
    # [A26]: not the defence, to which Eqs. 3 and 5 give no gradient
    attack = Update(Branch.ATTACK, attacking, frozenset({Part.STEM, Part.ATTACKER, Part.ATTACK_CLASSIFIER}))
    first = Update(Branch.DEFEND, defending, frozenset({Part.STEM, Part.DEFENCE, Part.DEFENCE_CLASSIFIER}))
    second = Update(Branch.DEFEND, defending, frozenset({Part.DEFENCE}))
    return (
        Stage("I", _groups((first, guide, attack), parts, recipe)),  # lines 2, 3, 4-5
        Stage("II", _groups((second, guide, attack), parts, recipe)),  # lines 9, 10, 11
    )


def _groups(updates: tuple[Update, ...], parts: frozenset[Part], recipe: Recipe) -> tuple[Group, ...]:
    kept = tuple(update for update in updates if update.trains <= parts)
    if recipe is Recipe.JOINT:
        return (Group(kept),)
    if recipe is Recipe.ALGORITHM1:
        return tuple(Group((update,)) for update in kept)
    attacks = tuple(update for update in kept if update.branch is Branch.ATTACK)
    others = tuple(update for update in kept if update.branch is not Branch.ATTACK)
    return tuple(Group(group) for group in (others, attacks) if group)


@dataclass(frozen=True)
class Criterion:
    """Turns outputs into the objectives of a group.

    `gather` brings the rows of all processes together, differentiably, so that triplets are mined over the global
    batch [A24]; the other objectives are means over rows, which averaging over processes leaves right.
    """

    margin: float
    distance: Distance
    after_neck: bool
    gather: Callable[[Tensor], Tensor]

    def __call__(self, outputs: Outputs, identity: Tensor) -> dict[str, Tensor]:
        """Outputs of (2B, ...) rows and the identity (2B,) of each -> the objectives of every branch they hold."""
        losses: dict[str, Tensor] = {}
        if outputs.defend is not None:
            losses["def_id"] = objectives.identification(outputs.defend.logits, identity)
            losses["def_tri"] = self._triplet(outputs, identity)
        if outputs.guide is not None:
            losses["p_id"] = objectives.identification(outputs.guide.logits, identity)
        if outputs.attack is not None:
            losses["cov_id"] = objectives.confusion(outputs.attack.defence_logits)
            losses["att_id"] = objectives.identification(outputs.attack.logits, identity)
        return losses

    def _triplet(self, outputs: Outputs, identity: Tensor) -> Tensor:
        assert outputs.defend is not None
        feature = outputs.defend.normalised if self.after_neck else outputs.defend.feature
        return objectives.triplet(self.gather(feature), self.gather(identity), self.margin, self.distance)
