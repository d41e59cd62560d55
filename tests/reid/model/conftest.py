"""What the tests of the model share: a way to wake its batch normalisations."""

from collections.abc import Callable
from typing import TypeVar

import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

Module = TypeVar("Module", bound=nn.Module)


@pytest.fixture
def awake() -> Callable[[Module], Module]:
    """Gives every batch normalisation weights and statistics of a trained one, so that attention, which starts as the
    identity, shows. A bias that is frozen stays. Returns the module in float64.
    """

    def wake(module: Module) -> Module:
        generator = torch.Generator().manual_seed(0)
        for norm in module.modules():
            if isinstance(norm, _BatchNorm):
                size = norm.weight.shape
                norm.weight.data = 0.5 + torch.rand(size, generator=generator)
                if norm.bias.requires_grad:
                    norm.bias.data = torch.randn(size, generator=generator) / 4
                assert norm.running_mean is not None
                assert norm.running_var is not None
                norm.running_mean.copy_(torch.randn(size, generator=generator) / 4)
                norm.running_var.copy_(0.5 + torch.rand(size, generator=generator))
        return module.double()

    return wake
