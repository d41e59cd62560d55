"""Where a network looks: how much each cell of F_d adds to the similarity of a clip with what it is compared to.

    clips -> network.embed, with a hook on the last layer of the defence's trunk -> F_d, vectors
    cosine with a target -> its gradient at F_d -> sum over channels of gradient x F_d, what is positive of it

This is Grad-CAM without the mean of the gradient over the cells, because the guided vector treats each stripe of each
frame in its own way. For a vector that is a mean over cells, the gradient is the same everywhere, and so are the two.

Legend: B clips of one modality, T frames, D channels, h w cells of the last feature map.
"""

import torch
from torch import Tensor, nn

from reid.model.network import Network
from reid.types import Embedding, Modality


def attention(
    network: Network, clips: Tensor, modality: Modality, targets: Tensor, kind: Embedding = Embedding.AUTO
) -> Tensor:
    """Normalised clips (B, T, 3, H, W) and unit vectors (B, D') to be like -> (B, T, h, w), at least 0.

    The network is left in the mode it was in, its gradients untouched.
    """
    maps: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        maps.append(output)

    was_training, layers = network.training, network.defence.layers
    network.eval()
    recomputes, layers.recompute = (
        layers.recompute,
        False,
    )  # else blocks are called one by one, and their layer is not
    hook = layers.layer4.register_forward_hook(keep)
    try:
        with (
            torch.enable_grad(),
            torch.backends.cudnn.flags(enabled=False),
        ):  # cuDNN's LSTM has no backward in eval
            vectors = network.embed(clips.detach().requires_grad_(), modality, kind)
            (slope,) = torch.autograd.grad((vectors * targets).sum(), maps[0])
    finally:
        hook.remove()
        layers.recompute = recomputes
        network.train(was_training)
    gain: Tensor = (slope * maps[0]).detach().sum(1).relu()  # (B*T, h, w)
    looks: Tensor = gain.unflatten(0, (-1, clips.shape[1]))
    return looks
