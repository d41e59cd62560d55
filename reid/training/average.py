"""The exponential moving average of a network's weights: a second network beside the one that is trained.

    weights after step n -> Average.update: average = d * average + (1 - d) * weights, d = min(decay, n / (n + 9))

So the first step is taken as it is, early averages forget quickly, and nothing but the step decides. Running statistics
of batch normalisation are averaged alike; what is counted in whole numbers is copied. Every process computes the same.
"""

from copy import deepcopy

from torch.optim.swa_utils import get_ema_multi_avg_fn

from reid.model.network import Network
from reid.runtime import Runtime


class Average:
    """`network` is the average of one that was not yet prepared for training. It is never trained itself."""

    def __init__(self, network: Network, decay: float, runtime: Runtime) -> None:
        self.network = deepcopy(network).requires_grad_(requires_grad=False)
        runtime.place(self.network)
        self._decay = decay

    def update(self, network: Network, step: int) -> None:
        """Take in the weights after iteration `step`, from 0."""
        ours, theirs = (net.state_dict() for net in (self.network, network))
        floating = [name for name, tensor in ours.items() if tensor.is_floating_point()]
        move = get_ema_multi_avg_fn(min(self._decay, step / (step + 9)))
        move([ours[name] for name in floating], [theirs[name] for name in floating], None)
        for name in ours.keys() - floating:
            ours[name].copy_(theirs[name])
