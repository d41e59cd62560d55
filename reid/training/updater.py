"""One optimizer step of Algorithm 1: freeze what the group does not name, one forward, one backward, one step."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.amp import GradScaler

from reid.model.network import Network
from reid.training.recipe import Criterion, Group


class Updater:
    """Applies groups of updates to one network.

    `model` is `network` as it is trained, with autocast and synchronised over processes. `scalers` holds one of each
    group, by its name: a gradient that overflows in one group skips the step of that group alone.
    """

    def __init__(
        self,
        network: Network,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        criterion: Criterion,
        scalers: Mapping[str, GradScaler],
    ) -> None:
        self._model = model
        self._optimizer = optimizer
        self._criterion = criterion
        self._scalers = scalers
        self._trainable = {
            part: [parameter for parameter in module.parameters() if parameter.requires_grad]
            for part, module in network.parts.items()
        }

    def apply(self, group: Group, visible: Tensor, infrared: Tensor, identity: Tensor) -> dict[str, Tensor]:
        """Move the parts that `group` trains, and only those.

        `visible` and `infrared` are (B, T, 3, H, W), `identity` is (2B,), visible rows first. Returns the objectives,
        the weighted sum of them under the name of the group, and the accuracy of the defence's classifier.
        """
        for part, parameters in self._trainable.items():
            for parameter in parameters:
                parameter.requires_grad_(part in group.trains)
        self._optimizer.zero_grad(set_to_none=True)  # SGD skips None; a zero would still decay and coast
        outputs = self._model(group.branches, visible, infrared, group.spares_stem)
        losses = self._criterion(outputs, identity)
        loss = sum(
            (weight * losses[name] for update in group.updates for name, weight in update.objectives.items()),
            start=visible.new_zeros(()),
        )
        scaler = self._scalers[group.name]
        scaler.scale(loss).backward()
        scaler.step(self._optimizer)
        scaler.update()
        measured = {group.name: loss, **losses}
        if outputs.defend is not None:
            measured["accuracy"] = (outputs.defend.logits.argmax(1) == identity).float().mean()
        return measured
