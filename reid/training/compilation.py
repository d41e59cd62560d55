"""Compiling the residual blocks, region by region: DDP, the attentions and the objectives stay as they are."""

import torch

from reid.config import ConfigError
from reid.model.network import Network
from reid.model.resnet import Layers
from reid.runtime import Runtime

NUM_GRAPHS = 64  # of one block: kinds of blocks, stages, training and evaluation; torch's 8 would leave some uncompiled


def require_compiler(runtime: Runtime) -> None:
    """Compile a line for the device of this run. Raises ConfigError with the remedy where that cannot be done.

    Several GPUs are refused: they synchronise batch statistics by torch's SyncBatchNorm, at which its compiler ends
    graphs or fails. Several processes on CPUs have a batch normalisation of their own, which it takes whole.
    """
    if runtime.world > 1 and runtime.device.type == "cuda":
        raise ConfigError(
            f"engine.compile: {runtime.world} GPUs synchronise batch statistics in a way that torch.compile does not take; "
            "leave it false, or use one GPU"
        )
    trial = torch.compile(lambda x: x.sin() + 1, options={"force_disable_caches": True})
    try:
        trial(torch.zeros(8, device=runtime.device))
    except RuntimeError as error:
        reason = str(error).strip().partition("\n")[0]
        raise ConfigError(
            f"engine.compile: torch.compile does not work for {runtime.device.type} on this machine ({reason}). Install a "
            "C++ compiler (on Debian `apt-get install g++`) or name one in CXX; a GPU needs triton too, which comes with "
            "torch. Or leave engine.compile false"
        ) from error


def compile_blocks(network: Network) -> None:
    """In place, when each is first called: names of weights and buffers stay."""
    torch._dynamo.config.recompile_limit = NUM_GRAPHS
    for layers in network.modules():
        if isinstance(layers, Layers):
            for layer in (layers.layer1, layers.layer2, layers.layer3, layers.layer4):
                for block in layer.children():
                    block.compile()
