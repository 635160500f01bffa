"""What a pass of a CPU computes is what the network says."""

import logging
import pickle
from concurrent.futures import ThreadPoolExecutor
from typing import cast

import pytest
import torch
from torch import fx, nn

from largescale.models.backbones.contract import Contract
from largescale.models.build import build_network
from largescale.models.config import ModelConfig
from largescale.models.network import RetrievalNet
from largescale.models.transform import fused as fusing
from largescale.models.transform.convolution import NONE, Convolution
from largescale.models.transform.fused import as_computed, fused, is_fused
from largescale.models.transform.graph import Graph
from largescale.models.transform.max_pool import MaxPoolOfBits
from largescale.models.transform.multiscale import AtScales
from largescale.precision import Resolved, autocast

_FORWARD = Convolution.forward
SHAPES = ((3, 64, 64), (1, 65, 97))
"""(B, H, W)."""


def learned(backbone: str) -> RetrievalNet:
    """A network whose batch normalization has seen images, in evaluation mode."""
    torch.manual_seed(0)
    network = build_network(ModelConfig(backbone=backbone, freeze_batchnorm=False))
    for norm in (module for module in network.modules() if isinstance(module, nn.BatchNorm2d)):
        for values in (norm.weight.data, norm.running_var):
            values.uniform_(0.5, 1.5)
        for values in (norm.bias.data, norm.running_mean):
            values.normal_(0, 0.2)
    return network.eval()


TIMMS = [f"timm:test_{name}" for name in ("resnet.r160_in1k", "efficientnet", "byobnet", "convnext")]


BF16 = pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="oneDNN has no convolution in bf16 for this processor"
)


@pytest.fixture(scope="module", params=["squeezenet1_1", "resnet18", "mobilenet_v2", *TIMMS])
def network(request: pytest.FixtureRequest) -> RetrievalNet:
    return learned(request.param)


def pixels(count: int, height: int, width: int) -> torch.Tensor:
    """`(B, 3, H, W)` uint8, as a corpus gives them."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(256, (count, height, width, 3), generator=generator, dtype=torch.uint8).permute(0, 3, 1, 2)


def images(network: RetrievalNet, count: int, height: int, width: int) -> torch.Tensor:
    """Normalized as the network asks for them."""
    return network.contract.normalize(pixels(count, height, width))


def in_bf16(backbone: nn.Module, contract: Contract) -> fx.GraphModule:
    graph = Graph(backbone, contract)
    graph.round_to_bf16(pixels(2, 64, 64), 0)
    return graph.module


def target(network: RetrievalNet, node: fx.Node) -> nn.Module | None:
    return network.backbone.get_submodule(node.target) if node.op == "call_module" else None


@pytest.mark.slow
@torch.inference_mode()
def test_descriptors_are_the_networks_to_rounding(network: RetrievalNet) -> None:
    other = fused(network, "fp32")
    assert is_fused(other)
    assert not is_fused(network)
    assert not [node for node in other.backbone.graph.nodes if isinstance(target(other, node), nn.BatchNorm2d)]
    for shape in SHAPES:
        torch.testing.assert_close(other(pixels(*shape)), network(images(network, *shape)), atol=1e-5, rtol=0)


@pytest.mark.slow
@torch.inference_mode()
def test_at_scales(network: RetrievalNet) -> None:
    several = AtScales([network] * 2, (1.0, 0.5))
    torch.testing.assert_close(fused(several, "fp32")(pixels(2, 64, 80)), several(images(network, 2, 64, 80)), atol=1e-5, rtol=0)


@pytest.mark.slow
@torch.inference_mode()
def test_threads_share_it_and_have_the_same_bits(network: RetrievalNet) -> None:
    other = fused(network, "fp32")
    expected = other(pixels(2, 64, 80))
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(torch.inference_mode()(other), [pixels(2, 64, 80)] * 6))
    assert all(torch.equal(rows, expected) for rows in found)
    assert torch.equal(fused(network, "fp32")(pixels(2, 64, 80)), expected)


@pytest.mark.slow
def test_the_network_itself_stays_as_it_was(network: RetrievalNet) -> None:
    before = {name: x.clone() for name, x in network.state_dict().items()}
    fused(network, "fp32")
    assert all(torch.equal(x, before[name]) for name, x in network.state_dict().items())
    network(images(network, 1, 64, 64)).sum().backward()
    assert next(network.backbone.parameters()).grad is not None
    network.zero_grad()


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["timm:darknet17", "timm:levit_128s"])
def test_a_network_that_cannot_be_rewritten_is_not_changed_by_the_attempt(backbone: str) -> None:
    """One has an activation that oneDNN has not, in its batch normalization; the other keeps a map for each device."""
    network = learned(backbone)
    with torch.inference_mode():
        expected = network(images(network, 1, 224, 224))
    before = pickle.dumps(network)
    for precision in ("fp32", "bf16"):
        fused(network, cast("Resolved", precision))
    assert len(pickle.dumps(network)) == len(before)
    with torch.inference_mode():
        assert torch.equal(network(images(network, 1, 224, 224)), expected)


@torch.inference_mode()
@BF16
def test_in_bf16_a_fused_network_is_near_fp32_or_as_near_as_the_network_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    network = learned("squeezenet1_1")
    assert is_fused(fused(network, "bf16"))
    monkeypatch.setattr(Convolution, "forward", lambda layer, x, other=None: torch.zeros(()) * _FORWARD(layer, x, other))
    assert fused(network, "bf16") is network


def test_what_could_not_be_rewritten_is_tried_again_with_other_weights_only(monkeypatch: pytest.MonkeyPatch) -> None:
    tried, network = [], learned("timm:test_resnet.r160_in1k")
    monkeypatch.setattr(Graph, "__init__", lambda graph, layers, contract: tried.append(contract) or {}["no such graph"])
    for _ in range(3):
        assert fused(AtScales([network] * 2, (1.0, 0.5)), "fp32").networks[0] is network
        assert as_computed(network, "fp32", torch.device("cpu")) is network
    assert len(tried) == 1
    fused(network, "bf16")
    assert len(tried) == 2
    with torch.no_grad():
        next(network.backbone.parameters()).mul_(2)
    fused(network, "fp32")
    assert len(tried) == 3


@pytest.mark.parametrize("groups", [1, 4])
@torch.inference_mode()
@BF16
def test_rounded_weights_add_nothing_on_average(groups: int) -> None:
    torch.manual_seed(0)
    layer, x = nn.Conv2d(16, 8, 3, groups=groups), torch.rand(4, 16, 32, 32).bfloat16()
    convolution = Convolution(layer, NONE, adds=False)
    expected = convolution(x.float()).mean((0, 2, 3))
    convolution.round_to_bf16(x.double().mean((0, 2, 3)))
    with autocast("bf16", torch.device("cpu")):
        usual, found = (part(x).float().mean((0, 2, 3)) for part in (layer, convolution))
    assert (found - expected).abs().max() < 0.1 * (usual - expected).abs().max()


@torch.inference_mode()
def test_in_bf16_the_first_convolutions_stay_fp32_where_that_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    near = iter((0.9, 0.8, 0.91))  # of the network itself, and of both ways
    monkeypatch.setattr(fusing, "_nearness", lambda rows, network, images: next(near))
    layers = [module for module in fused(learned("resnet18"), "bf16").modules() if isinstance(module, Convolution)]
    assert [layer.dtype for layer in layers] == [torch.float32] * 2 + [torch.bfloat16] * (len(layers) - 2)


@pytest.mark.slow
@torch.inference_mode()
def test_bf16_is_near_fp32_where_the_processor_has_it_and_where_not(network: RetrievalNet) -> None:
    other = fused(network, "bf16")
    with autocast("bf16", torch.device("cpu")):
        rows = other(pixels(3, 64, 64) if is_fused(other) else images(network, 3, 64, 64))
    assert rows.dtype == torch.float32
    assert torch.cosine_similarity(rows, network(images(network, 3, 64, 64))).min() > 0.999


@torch.inference_mode()
@BF16
def test_in_bf16_the_first_convolution_is_no_less_exact_than_of_normalized_pixels() -> None:
    """Products of raw pixels are large and nearly cancel in what follows from edges; a network of one such layer shows it."""
    layer = nn.Conv2d(3, 8, 3)
    layer.weight.data -= layer.weight.data.mean((2, 3), keepdim=True)  # edges only
    layer.bias.data.zero_()
    graph = in_bf16(nn.Sequential(layer).eval(), Contract())
    smooth = (pixels(2, 32, 32) // 16 + 110).to(torch.uint8)
    expected = layer(Contract().normalize(smooth))
    with autocast("bf16", torch.device("cpu")):
        plain, found = layer(Contract().normalize(smooth)).float(), graph(smooth).float()
    assert (found - expected).abs().mean() < 1.5 * (plain - expected).abs().mean()


class Own(nn.Module):
    """What it does depends on the image."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) if x.mean() > 0 else x


@pytest.mark.parametrize("backbone", [Own(), nn.Sequential(Own()), nn.Sequential(nn.AvgPool2d(3))])
def test_what_cannot_be_rewritten_is_left_alone_and_said(backbone: nn.Module, caplog: pytest.LogCaptureFixture) -> None:
    name = f"own_{id(backbone)}"
    own = RetrievalNet(
        ModelConfig(backbone="squeezenet1_1").model_copy(update={"backbone": name}), backbone, Contract(channels=4)
    )
    with caplog.at_level(logging.INFO):
        assert fused(own.eval(), "fp32") is own
    assert f"{name} describes in fp32, layer by layer: " in caplog.text


@pytest.mark.parametrize("backbone", ["squeezenet1_1", "resnet18", "alexnet"])
@torch.inference_mode()
def test_in_bf16_maxima_of_what_cannot_be_negative_are_taken_of_bits(backbone: str) -> None:
    """Only in bf16, and only behind activations; as many as the network has, none of which changes a bit."""
    network = learned(backbone)
    layers = [module for module in network.modules() if isinstance(module, nn.MaxPool2d)]
    graph = in_bf16(network.backbone, network.contract)
    assert len([module for module in graph.modules() if isinstance(module, MaxPoolOfBits)]) == len(layers) > 0
    plain = Graph(network.backbone, network.contract).module
    assert not [module for module in plain.modules() if isinstance(module, MaxPoolOfBits)]


def test_maxima_of_what_may_be_negative_are_left_to_torch() -> None:
    backbone = nn.Sequential(nn.Conv2d(3, 8, 3), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.MaxPool2d(2))
    graph = in_bf16(backbone.eval(), Contract())
    assert [type(module) for module in (graph.get_submodule("1"), graph.get_submodule("4"))] == [nn.MaxPool2d, MaxPoolOfBits]
