"""The residual trunk, cut where the paper cuts it: a stem for each modality, and four layers shared by both.

    clips of visible and infrared frames -> Stem -> (2B*T, C, H/4, W/4) -> Layers -> (2B*T, D, H/16, W/16)

Blocks are torchvision's, so its ImageNet weights fit by name. `resnet50` is the paper's trunk; `thin` has the same
interface and is small enough for a laptop.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint
from torchvision.models import ResNet50_Weights
from torchvision.models.resnet import BasicBlock, Bottleneck

from reid.model.attention import NonLocal

# What torch and safetensors raise for a file that is no weights, or damaged.
UNREADABLE = (EOFError, LookupError, RuntimeError, UnpicklingError, SafetensorError)


@dataclass(frozen=True)
class Architecture:
    """A family member: the block, how many of them each layer has, and the width of the stem."""

    block: type[BasicBlock] | type[Bottleneck]
    depths: tuple[int, int, int, int]
    width: int

    def channels(self, layer: int) -> int:
        """Channels of the output of layer 1 to 4; of the stem for 0."""
        return self.width if layer == 0 else self.width * 2 ** (layer - 1) * self.block.expansion


ARCHITECTURES: Mapping[str, Architecture] = {
    "resnet50": Architecture(Bottleneck, (3, 4, 6, 3), 64),
    "thin": Architecture(BasicBlock, (1, 1, 1, 1), 16),
}


class Stem(nn.Module):
    """E^V and E^I (Eq. 1): conv1, bn, relu and maxpool of a ResNet, one set of weights a modality [A1]."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.visible = _convolution(architecture.width)
        self.infrared = _convolution(architecture.width)

    def forward(self, visible: Tensor, infrared: Tensor) -> Tensor:
        """Frames (B*T, 3, H, W) of each modality -> (2B*T, C, H/4, W/4), visible rows first."""
        return torch.cat([self.visible(visible), self.infrared(infrared)])


class Layers(nn.Module):
    """layer1 to layer4 of a ResNet, shared by the modalities [A2]; the last one keeps its resolution by default [A3].

    With `recompute`, only the inputs of the blocks are kept for the backward pass, which computes the rest again. With
    `non_local`, a non-local block follows each of the last two blocks of layer2 and the last three of layer3, as in AGW.
    """

    def __init__(
        self,
        architecture: Architecture,
        last_stride: int = 1,
        *,
        recompute: bool = False,
        non_local: bool = False,
    ) -> None:
        super().__init__()
        self.recompute = recompute
        self.layer1 = _layer(architecture, 1, stride=1)
        self.layer2 = _layer(architecture, 2, stride=2)
        self.layer3 = _layer(architecture, 3, stride=2)
        self.layer4 = _layer(architecture, 4, stride=last_stride)
        self.non_local2 = _non_local(architecture, 2, 2 if non_local else 0)
        self.non_local3 = _non_local(architecture, 3, 3 if non_local else 0)

    def shallow(self, x: Tensor) -> Tensor:
        """E_def3 of Eq. 6: the first three layers."""
        x = self._through(self.layer1, x)
        x = self._through(self.layer2, x, self.non_local2)
        return self._through(self.layer3, x, self.non_local3)

    def last(self, x: Tensor) -> Tensor:
        """ConLa4 of Eq. 7: the fourth layer [A12]."""
        return self._through(self.layer4, x)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, D, H/4, W/4) at the default stride."""
        return self.last(self.shallow(x))

    def _through(self, layer: nn.Sequential, x: Tensor, attentions: nn.ModuleList | None = None) -> Tensor:
        """The blocks of a layer, each of the last followed by one of `attentions`."""
        recomputes = self.recompute and torch.is_grad_enabled()
        if not recomputes and not attentions:
            maps: Tensor = layer(x)
            return maps
        first = len(layer) - len(attentions or ())
        for place, block in enumerate(layer):
            x = _recomputed(block, x) if recomputes else block(x)
            if attentions and place >= first:
                x = attentions[place - first](x)
        return x


def _recomputed(block: nn.Module, x: Tensor) -> Tensor:
    maps: Tensor = checkpoint(
        block, x, use_reentrant=False, preserve_rng_state=False, context_fn=partial(_twice, block)
    )
    return maps


def _twice(block: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """What surrounds the first pass through a block, and the second."""
    norms = [module for module in block.modules() if isinstance(module, _BatchNorm)]
    return nullcontext(), _again(norms, [norm.track_running_stats for norm in norms])


@contextmanager
def _again(norms: Sequence[_BatchNorm], tracks: Sequence[bool]) -> Iterator[None]:
    """Within, `norms` do what they did when `tracks` was true of them, but on copies of their statistics, which thus
    count each batch once.
    """
    own = [(norm.track_running_stats, dict(norm.named_buffers(recurse=False))) for norm in norms]
    for norm, tracked, (_, buffers) in zip(norms, tracks, own, strict=True):
        norm.track_running_stats = tracked
        for name, buffer in buffers.items():
            setattr(norm, name, buffer.clone())
    try:
        yield
    finally:
        for norm, (tracked, buffers) in zip(norms, own, strict=True):
            norm.track_running_stats = tracked
            for name, buffer in buffers.items():
                setattr(norm, name, buffer)


def _convolution(width: int) -> nn.Sequential:
    conv1 = nn.Conv2d(3, width, kernel_size=7, stride=2, padding=3, bias=False)
    nn.init.kaiming_normal_(conv1.weight, mode="fan_out", nonlinearity="relu")
    stem = nn.Sequential()
    stem.add_module("conv1", conv1)
    stem.add_module("bn1", nn.BatchNorm2d(width))
    stem.add_module("relu", nn.ReLU(inplace=True))
    stem.add_module("maxpool", nn.MaxPool2d(kernel_size=3, stride=2, padding=1))
    return stem


def _layer(architecture: Architecture, number: int, stride: int) -> nn.Sequential:
    block, depth = architecture.block, architecture.depths[number - 1]
    channels = architecture.channels(number - 1)
    planes = architecture.width * 2 ** (number - 1)
    width = architecture.channels(number)
    shortcut = None
    if stride != 1 or channels != width:
        convolution = nn.Conv2d(channels, width, kernel_size=1, stride=stride, bias=False)
        shortcut = nn.Sequential(convolution, nn.BatchNorm2d(width))
    blocks = [block(channels, planes, stride, shortcut), *(block(width, planes) for _ in range(depth - 1))]
    layer = nn.Sequential(*blocks)
    for module in layer.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return layer


def _non_local(architecture: Architecture, number: int, count: int) -> nn.ModuleList:
    """Non-local blocks for the last `count` blocks of a layer, or for all if it has fewer."""
    count = min(count, architecture.depths[number - 1])
    return nn.ModuleList(NonLocal(architecture.channels(number)) for _ in range(count))


def pretrained(source: str, backbone: str) -> dict[str, Tensor] | None:
    """Weights of a whole ResNet by torchvision's names.

    `source` is `none` (None is returned), `imagenet` (torchvision's IMAGENET1K_V1, resnet50 only) or the path of a
    `.pth` or `.safetensors` file. Raises ValueError where the weights cannot be had, with what to download and where
    to put it.
    """
    if source == "none":
        return None
    if source == "imagenet":
        return _imagenet(backbone)
    path = Path(source)
    if not path.is_file():
        raise ValueError(
            f"model.weights: {path} does not exist; give `imagenet`, `none` or a .pth or .safetensors file"
        )
    try:
        found = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except UNREADABLE as error:
        raise ValueError(f"model.weights: {path} is no file of weights, or a damaged one: {error}") from error
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise ValueError(
            f"model.weights: {path} holds no plain mapping of names to tensors; save `network.state_dict()` alone"
        )
    return dict(found)


def imagenet_file() -> Path:
    """Where torchvision keeps the weights that `imagenet` stands for, once they are downloaded."""
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(ResNet50_Weights.IMAGENET1K_V1.url).name


def _imagenet(backbone: str) -> dict[str, Tensor]:
    if backbone != "resnet50":
        raise ValueError(
            f"model.weights: there are no ImageNet weights for the backbone {backbone!r}; use `none`"
        )
    weights = ResNet50_Weights.IMAGENET1K_V1
    try:
        return dict(weights.get_state_dict(progress=False, check_hash=True))
    except (OSError, *UNREADABLE) as error:
        raise ValueError(
            f"model.weights: the ImageNet weights could not be fetched or read ({error}). Download\n"
            f"  {weights.url}\nwhere there is a network, and put it at\n  {imagenet_file()}\n"
            "or name the file with --model.weights FILE, or train from scratch with --model.weights none"
        ) from error


def load_pretrained(weights: Mapping[str, Tensor], stem: Stem, *trunks: Layers) -> None:
    """Copy a ResNet's weights into both stems and every trunk, whose non-local blocks stay as they are.

    Raises ValueError naming what is missing or misshapen.
    """
    stems = {name: value for name, value in weights.items() if name.startswith(("conv1.", "bn1."))}
    layers = {name: value for name, value in weights.items() if name.startswith("layer")}
    for module, part in [
        (stem.visible, stems),
        (stem.infrared, stems),
        *((trunk, layers) for trunk in trunks),
    ]:
        fresh = {name: value for name, value in module.state_dict().items() if name.startswith("non_local")}
        try:
            module.load_state_dict(part | fresh)
        except RuntimeError as error:
            raise ValueError(f"model.weights do not fit the backbone: {error}") from error
