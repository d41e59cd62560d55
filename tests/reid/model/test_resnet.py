"""reid/model/resnet.py: the trunk is torchvision's ResNet, and its weights land where they should or nowhere."""

from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models import resnet50
from torchvision.models.resnet import BasicBlock

from reid.model.resnet import ARCHITECTURES, Architecture, Layers, Stem, load_pretrained, pretrained


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    """A whole resnet50 of torchvision, its batch normalisations not as they are born."""
    torch.manual_seed(0)
    network = resnet50(weights=None)
    for name, value in network.state_dict().items():
        if "running_mean" in name:
            value.normal_(std=0.1)
    return network.state_dict()


@pytest.fixture(scope="module")
def file(weights: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "resnet50.pth"
    torch.save(weights, path)
    return path


@torch.no_grad()
def test_stem_and_layers_with_its_weights_are_the_resnet50_of_torchvision(weights: dict[str, Tensor]) -> None:
    reference = resnet50(weights=None).eval()
    reference.load_state_dict(weights)
    stem, layers = Stem(ARCHITECTURES["resnet50"]).eval(), Layers(ARCHITECTURES["resnet50"], 2).eval()
    load_pretrained(weights, stem, layers)
    frames = torch.randn(2, 3, 64, 32, generator=torch.Generator().manual_seed(0))
    entered = reference.maxpool(reference.relu(reference.bn1(reference.conv1(frames))))
    expected = reference.layer4(reference.layer3(reference.layer2(reference.layer1(entered))))
    result = layers(stem(frames[:1], frames[1:]))
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize(("backbone", "features"), [("resnet50", 2048), ("thin", 128)])
@pytest.mark.parametrize(("last_stride", "rows"), [(1, 18), (2, 9)])
def test_a_picture_of_the_paper_becomes_a_map_of_18_rows_or_9(
    backbone: str, features: int, last_stride: int, rows: int
) -> None:
    architecture = ARCHITECTURES[backbone]
    with torch.device("meta"):
        frames = torch.empty(1, 3, 288, 144)
        entered = Stem(architecture)(frames, frames)
        layers = Layers(architecture, last_stride)
        shallow = layers.shallow(entered)
        deep = layers(entered)
    assert entered.shape == (2, architecture.channels(0), 72, 36)
    assert shallow.shape == (2, architecture.channels(3), 18, 9)
    assert deep.shape == (2, features, rows, 9 if last_stride == 1 else 5)
    assert architecture.channels(4) == features


@torch.no_grad()
def test_the_stems_of_the_modalities_share_nothing() -> None:
    stem = Stem(ARCHITECTURES["thin"]).eval()
    frames = torch.randn(2, 3, 16, 8)
    before = stem(frames, frames)
    for parameter in stem.infrared.parameters():
        parameter.add_(1)
    after = stem(frames, frames)
    assert torch.equal(before[:2], after[:2])
    assert not torch.equal(before[2:], after[2:])


def test_pretrained_weights_land_in_both_stems_and_every_trunk(
    file: Path, weights: dict[str, Tensor]
) -> None:
    architecture = ARCHITECTURES["resnet50"]
    stem, trunks = Stem(architecture), [Layers(architecture), Layers(architecture)]
    found = pretrained(str(file), "resnet50")
    assert found is not None
    load_pretrained(found, stem, *trunks)
    for module in (stem.visible, stem.infrared):
        assert {name for name, _ in module.named_parameters()} == {"conv1.weight", "bn1.weight", "bn1.bias"}
        assert all(torch.equal(value, weights[name]) for name, value in module.state_dict().items())
    for trunk in trunks:
        assert set(trunk.state_dict()) == {name for name in weights if name.startswith("layer")}
        assert all(torch.equal(value, weights[name]) for name, value in trunk.state_dict().items())


def test_non_local_blocks_follow_the_last_blocks_and_keep_their_weights_where_pretrained_ones_land(
    weights: dict[str, Tensor],
) -> None:
    architecture = ARCHITECTURES["resnet50"]
    layers = Layers(architecture, non_local=True)
    born = {name: value.clone() for name, value in layers.state_dict().items() if "non_local" in name}
    assert {name.split(".query")[0] for name in born if "query.weight" in name} == {
        "non_local2.0", "non_local2.1", "non_local3.0", "non_local3.1", "non_local3.2"
    }  # fmt: skip
    load_pretrained(weights, Stem(architecture), layers)
    found = layers.state_dict()
    assert all(torch.equal(found[name], value) for name, value in born.items())
    assert all(torch.equal(value, weights[name]) for name, value in found.items() if name not in born)


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@torch.no_grad()
def test_new_non_local_blocks_change_nothing_and_trained_ones_do(training: bool) -> None:
    architecture = Architecture(BasicBlock, (1, 3, 4, 1), 4)
    plain, other = (Layers(architecture, non_local=asked).double().train(training) for asked in (False, True))
    other.load_state_dict(plain.state_dict(), strict=False)
    x = torch.randn(4, 4, 24, 12, dtype=torch.float64)
    assert torch.equal(other(x), plain(x))
    for place, block in enumerate([*other.non_local2, *other.non_local3]):
        nn.init.constant_(block.output[1].weight, 0.1 * (place + 1))
    two = plain.layer2[0](plain.layer1(x))
    two = other.non_local2[1](plain.layer2[2](other.non_local2[0](plain.layer2[1](two))))
    three = plain.layer3[0](two)
    for place in range(3):
        three = other.non_local3[place](plain.layer3[place + 1](three))
    torch.testing.assert_close(other.shallow(x), three, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(other.shallow(x), plain.shallow(x))


def test_a_safetensors_file_holds_the_same_weights(weights: dict[str, Tensor], tmp_path: Path) -> None:
    stem_only = {name: value for name, value in weights.items() if name.startswith(("conv1", "bn1"))}
    save_file(stem_only, tmp_path / "stem.safetensors")
    found = pretrained(str(tmp_path / "stem.safetensors"), "resnet50")
    assert found is not None
    assert found.keys() == stem_only.keys()
    assert all(torch.equal(found[name], stem_only[name]) for name in found)


def test_no_weights_are_none() -> None:
    assert pretrained("none", "resnet50") is None


def test_weights_of_another_shape_are_an_error_that_names_them(weights: dict[str, Tensor]) -> None:
    thin = ARCHITECTURES["thin"]
    with pytest.raises(ValueError, match=r"model\.weights do not fit the backbone(.|\n)*conv1\.weight"):
        load_pretrained(weights, Stem(thin), Layers(thin))


def test_missing_weights_are_an_error_that_names_them(weights: dict[str, Tensor]) -> None:
    resnet = ARCHITECTURES["resnet50"]
    partial = {name: value for name, value in weights.items() if name != "layer3.4.conv2.weight"}
    with pytest.raises(ValueError, match=r"layer3\.4\.conv2\.weight|4\.conv2\.weight"):
        load_pretrained(partial, Stem(resnet), Layers(resnet))


def test_a_file_that_does_not_exist_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"model\.weights: .*absent\.pth does not exist; give `imagenet`"):
        pretrained(str(tmp_path / "absent.pth"), "resnet50")


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
@pytest.mark.parametrize("content", [b"", b"these are no weights" * 50], ids=["empty", "text"])
def test_a_file_of_something_else_is_an_error_that_names_it(
    tmp_path: Path, name: str, content: bytes
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"model\.weights: .*{name} (is|holds) no"):
        pretrained(str(tmp_path / name), "resnet50")


def test_a_file_of_something_that_is_no_state_dict_is_an_error_that_names_it(tmp_path: Path) -> None:
    torch.save([torch.zeros(3)], tmp_path / "list.pth")
    with pytest.raises(ValueError, match=r"model\.weights: .*list\.pth holds no"):
        pretrained(str(tmp_path / "list.pth"), "resnet50")


def test_imagenet_weights_exist_for_resnet50_only() -> None:
    with pytest.raises(ValueError, match=r"no ImageNet weights for the backbone 'thin'; use `none`"):
        pretrained("imagenet", "thin")


def test_imagenet_without_a_network_says_what_to_download_and_where_to_put_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: Path
) -> None:
    """And with the file at that place, no network is needed."""

    def refuse(*_: object, **__: object) -> None:
        raise URLError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setattr(torch.hub, "urlopen", refuse)
    with pytest.raises(ValueError, match=r"could not be fetched or read \(.*no network") as caught:
        pretrained("imagenet", "resnet50")
    url, place = (line.strip() for line in str(caught.value).splitlines() if line.startswith("  "))
    assert url.startswith("https://")
    assert url.endswith("resnet50-0676ba61.pth")
    assert place.startswith(str(tmp_path))
    assert "--model.weights" in str(caught.value)
    Path(place).parent.mkdir(parents=True, exist_ok=True)
    Path(place).symlink_to(file)
    assert "layer4.2.conv3.weight" in (pretrained("imagenet", "resnet50") or {})


def test_a_damaged_download_of_imagenet_weights_is_an_error_that_says_where_it_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    place = tmp_path / "hub" / "checkpoints" / "resnet50-0676ba61.pth"
    place.parent.mkdir(parents=True)
    place.write_bytes(b"PK\x03\x04 and then the connection broke")
    with pytest.raises(ValueError, match=rf"could not be fetched or read(.|\n)*{place}"):
        pretrained("imagenet", "resnet50")


def trained(layers: Layers, x: Tensor) -> tuple[dict[str, Tensor], int]:
    """Gradients and buffers after a pass through all layers and a second one through the last, and the bytes kept."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    x = x.clone().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        shallow = layers.shallow(x)
        maps = layers.last(shallow)
        for norm in (norms := [m for m in layers.layer4.modules() if isinstance(m, nn.BatchNorm2d)]):
            norm.track_running_stats = False  # as around the pass over CMCA's output
        maps = maps + layers.last(shallow.flip(0))
        for norm in norms:
            norm.track_running_stats = True
    maps.square().mean().backward()
    assert x.grad is not None
    gradients = {name: p.grad for name, p in layers.named_parameters() if p.grad is not None}
    return {"x": x.grad, **gradients, **dict(layers.named_buffers())}, sum(kept.values())


@pytest.mark.parametrize("backbone", ["thin", "resnet50"])
def test_recomputed_blocks_give_the_same_gradients_and_statistics_from_less_memory(backbone: str) -> None:
    architecture = ARCHITECTURES[backbone]
    plain = Layers(architecture, non_local=backbone == "thin").double()
    frugal = Layers(architecture, recompute=True, non_local=backbone == "thin").double()
    frugal.load_state_dict(plain.state_dict())
    x = torch.randn(4, architecture.width, 24, 12, dtype=torch.float64)
    (expected, much), (found, little) = trained(plain, x), trained(frugal, x)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name
    assert (
        found["layer4.0.bn1.num_batches_tracked"] == 1
    )  # neither the second pass nor the recomputation counts
    weights = sum(p.numel() * p.element_size() for p in plain.parameters())
    assert little < 0.5 * (much - weights)


def test_nothing_is_recomputed_without_gradients() -> None:
    layers = Layers(ARCHITECTURES["thin"], recompute=True)
    calls = []
    layers.layer1[0].register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    with torch.no_grad():
        layers(torch.randn(2, 16, 8, 8))
    assert calls == [False]
