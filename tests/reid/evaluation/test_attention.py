"""reid/evaluation/attention.py: attention is Grad-CAM where the vector is a mean, and sees each stripe where it is not."""

import pytest
import torch

from reid.evaluation.attention import attention
from reid.model.network import Network, Structure
from reid.types import Embedding, Guide, Modality


def network_of(guide: Guide | None) -> Network:
    torch.manual_seed(0)
    return Network(
        Structure(num_identities=5, backbone="thin", attacker=False, cross=None, guide=guide, num_parts=2)
    ).double()


def inputs(network: Network, kind: Embedding) -> tuple[torch.Tensor, torch.Tensor]:
    clips = torch.randn(2, 3, 3, 32, 16, dtype=torch.float64)
    targets = torch.nn.functional.normalize(
        torch.randn(2, network.embedding_width(kind), dtype=torch.float64)
    )
    return clips, targets


def deep_maps(network: Network, clips: torch.Tensor, modality: Modality) -> torch.Tensor:
    stem = network.stem.visible if modality is Modality.VISIBLE else network.stem.infrared
    return network.defence.trunk(stem(clips.flatten(0, 1)))[1]


@pytest.mark.parametrize("modality", Modality)
def test_for_a_mean_over_cells_it_is_grad_cam(modality):
    network = network_of(None).eval()
    clips, targets = inputs(network, Embedding.GLOBAL)
    found = attention(network, clips, modality, targets, Embedding.GLOBAL)
    maps = deep_maps(network, clips, modality).detach().requires_grad_()
    pooled = maps.mean((2, 3)).unflatten(0, (2, 3)).mean(1)
    vectors = torch.nn.functional.normalize(network.defence.neck(pooled))
    (slope,) = torch.autograd.grad((vectors * targets).sum(), maps)
    weights = slope.mean((2, 3), keepdim=True)  # the mean that Grad-CAM takes
    expected = (weights * maps).sum(1).clamp(min=0).unflatten(0, (2, 3))
    assert found.shape == (2, 3, 2, 1)
    torch.testing.assert_close(found, expected.detach())
    assert found.max() > 0


def test_a_network_that_recomputes_its_blocks_looks_where_the_same_one_looks_that_keeps_them():
    network = network_of(None)
    clips, targets = inputs(network, Embedding.GLOBAL)
    plain = attention(network, clips, Modality.VISIBLE, targets)
    network.defence.layers.recompute = True
    torch.testing.assert_close(attention(network, clips, Modality.VISIBLE, targets), plain, rtol=0, atol=0)
    assert network.defence.layers.recompute


def test_a_guided_vector_is_like_its_target_where_the_target_has_a_stripe():
    network = network_of(Guide.MOTION_ONLY).eval()
    with torch.no_grad():
        for weight in network.guidance.motion.parameters():
            weight.zero_()  # only the stripes themselves are left
    clips, _ = inputs(network, Embedding.GUIDED)
    width = network.embedding_width(Embedding.GUIDED)
    upper = torch.zeros(2, width, dtype=torch.float64)
    upper[:, : width // 2] = 1
    found = attention(network, clips, Modality.INFRARED, upper, Embedding.GUIDED)
    assert found[:, :, 0].max() > 0
    assert found[:, :, 1].max() == 0


@pytest.mark.parametrize("is_training", [True, False])
def test_the_network_is_left_as_it_was(is_training):
    network = network_of(Guide.FULL).train(is_training)
    for parameter in network.parameters():
        parameter.requires_grad_(False)  # as a frozen part is
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with torch.inference_mode():
        clips, targets = inputs(network, Embedding.AUTO)
    attention(network, clips.clone(), Modality.VISIBLE, targets.clone())
    assert network.training is is_training
    assert not network.defence.layers.layer4._forward_hooks
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, before[name])
    assert all(parameter.grad is None for parameter in network.parameters())
