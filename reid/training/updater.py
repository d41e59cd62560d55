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
    group, by its name: a gradient that overflows in one group skips the step of that group alone. Gradients longer than
    `clip_norm` are shortened to it, all that a group trains together.
    """

    def __init__(
        self,
        network: Network,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        criterion: Criterion,
        scalers: Mapping[str, GradScaler],
        clip_norm: float | None = None,
    ) -> None:
        self._model = model
        self._optimizer = optimizer
        self._criterion = criterion
        self._scalers = scalers
        self._clip_norm = clip_norm
        self._trainable = {
            part: [parameter for parameter in module.parameters() if parameter.requires_grad]
            for part, module in network.parts.items()
        }

    def apply(self, group: Group, visible: Tensor, infrared: Tensor, identity: Tensor) -> dict[str, Tensor]:
        """Move the parts that `group` trains, and only those.

        `visible` and `infrared` are (B, T, 3, H, W), `identity` is (2B,), visible rows first. Returns scalars on the
        device: every objective; `loss`, their weighted sum; `gradient_norm` before clipping, zero where the step was
        `skipped` because a scaled gradient overflowed; `accuracy` of the defence's classifier, if it ran.
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
        measured = {**losses, "loss": loss, **self._descend(loss, self._scalers[group.name])}
        if outputs.defend is not None:
            measured["accuracy"] = (outputs.defend.logits.argmax(1) == identity).float().mean()
        return measured

    def _descend(self, loss: Tensor, scaler: GradScaler) -> dict[str, Tensor]:
        """Backward and step, without a word from the device."""
        scaler.scale(loss).backward()
        if scaler.is_enabled():
            self._remember_nothing()
        scaler.unscale_(self._optimizer)
        moved = [
            p for weights in self._optimizer.param_groups for p in weights["params"] if p.grad is not None
        ]
        norm = nn.utils.get_total_norm([parameter.grad for parameter in moved])
        if self._clip_norm is not None:
            nn.utils.clip_grads_with_norm_(moved, self._clip_norm, norm)
        scaler.step(self._optimizer)
        scaler.update()
        skipped = ~norm.isfinite() if scaler.is_enabled() else torch.zeros_like(norm, dtype=torch.bool)
        return {"gradient_norm": norm.where(~skipped, 0.0), "skipped": skipped}

    def _remember_nothing(self) -> None:
        """Start the momentum of what is about to move for the first time at zero, which is what no momentum means.

        torch's fused SGD allocates it and leaves it unwritten if that first step overflows.
        """
        for weights in self._optimizer.param_groups:
            for parameter in weights["params"] if weights["momentum"] else ():
                if parameter.grad is not None and "momentum_buffer" not in self._optimizer.state[parameter]:
                    self._optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
