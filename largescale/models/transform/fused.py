"""A network as a pass of a CPU computes it: what follows a convolution is done where its result is still in the registers.

Batch normalization, and that of the pixels, become part of the weights, additions and activations part of the convolution
(oneDNN); where it computes in bf16, the weights are in bf16 from the start. Nothing is compiled, images may have any shape, and
the result is the same for every number of threads and processes.
"""

import copy
import logging
from collections import Counter
from functools import lru_cache
from operator import add, iadd
from typing import cast

import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from largescale.models.backbones.contract import Contract
from largescale.models.backbones.timm_backbones import TimmBackbone
from largescale.models.network import RetrievalNet
from largescale.models.transform.max_pool import MaxPoolOfBits, may_take_bits
from largescale.models.transform.multiscale import AtScales
from largescale.precision import Resolved, autocast

Network = RetrievalNet | AtScales
log = logging.getLogger(__name__)
CPU = torch.device("cpu")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
SIDE = 96
"""Pixels of the pictures on which a fused network is tried."""
TOLERANCE = 1e-4
"""Most that features in fp32 may differ from the network's own, as a share of the greatest."""
NEAR = 0.9995
"""Cosine of descriptors in bf16 to those in fp32 that is enough; else they must be as near as those of the network itself."""
Activation = tuple[str, list[float]]
"""Its name in oneDNN, and its numbers."""
NONE: Activation = ("none", [])
ACTIVATIONS: dict[type, Activation] = {
    nn.ReLU: ("relu", []),
    nn.ReLU6: ("hardtanh", [0.0, 6.0]),
    nn.SiLU: ("swish", []),
    nn.Hardswish: ("hardswish", []),
}
POSITIVE = (ACTIVATIONS[nn.ReLU], ACTIVATIONS[nn.ReLU6])


def fused(network: Network, precision: Resolved) -> Network:
    """The same descriptors, to rounding, of uint8 pixels; the network itself, of normalized images, if it cannot be rewritten.

    Args:
        network: in evaluation mode, on a CPU; its backbone is copied.
    """
    if isinstance(network, AtScales):
        first, *others = cast("list[RetrievalNet]", list(network.networks))  # whose backbone is that of all of them
        return AtScales([_fused(first, precision), *others], network.scales)
    return _fused(network, precision)


def is_fused(network: Network) -> bool:
    """Whether it takes pixels."""
    first = network.networks[0] if isinstance(network, AtScales) else network
    return isinstance(getattr(first, "backbone", None), fx.GraphModule)


def _fused(network: RetrievalNet, precision: Resolved) -> RetrievalNet:
    if not isinstance(network, RetrievalNet) or is_fused(network):
        return network
    other, reason = network, "it is no sequence of convolutions"
    if (layers := _layers(network)) is not None:
        try:
            graph = _Graph(layers, network.contract, DTYPES[precision])
            other = network.with_backbone(graph.module)
            reason = _fault(network, other, precision)
        except Exception as error:  # what its code does cannot be followed, or the processor has no such kernels
            reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    how = f"layer by layer: {reason}" if reason else f"with {graph.count} fused convolutions"
    _say(f"{network.config.backbone} describes in {precision}, {how}")
    return network if reason else other


def _layers(network: RetrievalNet) -> nn.Module | None:
    """What makes the map of features; None where it is no map, or made otherwise."""
    if isinstance(network.backbone, TimmBackbone):
        return network.backbone.layers()
    return network.backbone if isinstance(network.backbone, nn.Sequential) else None


@lru_cache(256)
def _say(text: str) -> None:
    log.info(text)


def _fault(network: RetrievalNet, other: RetrievalNet, precision: Resolved) -> str:
    """How it differs from the network on a picture of noise and a smooth one, if it does: in features, in bf16 in descriptors."""
    pixels = _pictures(network.contract.borne(SIDE))
    images = network.contract.normalize(pixels)
    with torch.inference_mode():
        exact = network.features(images).float()
        with autocast(precision, CPU):
            found = other.features(pixels).float()
        if precision == "fp32":
            apart = float((found - exact).abs().max() / exact.abs().max())
            return "" if apart <= TOLERANCE else f"fused, its features differ by {apart:.2g}"
        with autocast(precision, CPU):
            plain = network.features(images).float()
        rows, usual, ours = (network.describe(features) for features in (exact, plain, found))
    near, least = (float(functional.cosine_similarity(rows, x).min()) for x in (ours, usual))
    return "" if near >= min(NEAR, least) else f"fused, its descriptors are within {near:.4f} of those in fp32, else {least:.4f}"


def _pictures(side: int) -> Tensor:
    """`(2, 3, side, side)`"""
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand((1, 3, side, side), generator=generator)
    smooth = functional.interpolate(torch.rand((1, 3, 5, 5), generator=generator), (side, side), mode="bilinear")
    return (255 * torch.cat([noise, smooth])).to(torch.uint8)


class _Convolution(nn.Module):
    """A convolution, an addition and an activation in one."""

    def __init__(self, layer: nn.Conv2d, activation: Activation, dtype: torch.dtype) -> None:
        super().__init__()
        self.settings = cast("tuple[int, ...]", layer.padding), layer.stride, layer.dilation, layer.groups
        self.weight = layer.weight.detach().to(dtype)
        self.bias = None if layer.bias is None else layer.bias.detach().to(dtype)
        self.activation, self.dtype = activation, dtype

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        layer = (self.weight, self.bias, *self.settings)
        if other is None:
            return torch.ops.mkldnn._convolution_pointwise(x.to(self.dtype), *layer, *self.activation, "")
        added = (other.to(self.dtype), *layer, "add", 1.0, *(None if x == "none" else x for x in self.activation), None)
        return torch.ops.mkldnn._convolution_pointwise.binary(x.to(self.dtype), *added)


class _OfPixels(_Convolution):
    """The first convolution: normalization becomes part of it, and where it pads with the mean color, pixels of that color.

    In bf16 it sees pixels less a middle brightness: whole numbers up to 141 are exact, and what their products add up to is no
    small difference of large numbers, which rounded weights would make large.
    """

    def __init__(self, layer: nn.Conv2d, activation: Activation, dtype: torch.dtype, contract: Contract) -> None:
        mean, std = torch.tensor(contract.mean, dtype=torch.float64), torch.tensor(contract.std, dtype=torch.float64)
        weight = layer.weight.detach().double()
        bias = 0 if layer.bias is None else layer.bias.detach().double()
        self.middle = round(255 * float(mean.mean())) if dtype == torch.bfloat16 else 0
        self.mean = 255 * mean - self.middle
        layer.weight = nn.Parameter((weight / (255 * std).view(3, 1, 1)).float())
        layer.bias = nn.Parameter((bias - (weight * (self.mean / (255 * std)).view(3, 1, 1)).sum((1, 2, 3))).float())
        self.around, layer.padding = cast("tuple[int, int]", layer.padding), (0, 0)
        super().__init__(layer, activation, dtype)
        self.mean = self.mean.to(dtype).view(3, 1, 1)

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        (down, right), (count, channels, height, width) = self.around, x.shape
        shape = (count, height + 2 * down, width + 2 * right, channels)
        padded = torch.empty(shape, dtype=self.dtype).permute(0, 3, 1, 2)
        for border in (padded[:, :, :down], padded[:, :, down + height :], padded[..., :right], padded[..., right + width :]):
            border.copy_(self.mean)
        inside = padded[:, :, down : down + height, right : right + width].copy_(x)
        if self.middle:
            inside.sub_(self.middle)
        return super().forward(padded, other)


class _Tracer(fx.Tracer):
    """timm's batch normalization that ends in an activation is one layer, too."""

    def is_leaf_module(self, layer: nn.Module, name: str) -> bool:
        return isinstance(layer, nn.BatchNorm2d) or super().is_leaf_module(layer, name)


class _Graph:
    """`module` computes of pixels what `backbone` does of normalized images, `count` convolutions of it fused."""

    def __init__(self, backbone: nn.Module, contract: Contract, dtype: torch.dtype) -> None:
        backbone = copy.deepcopy(backbone)  # tracing leaves marks, as in maps that a layer keeps for each device
        self.module = fx.GraphModule(backbone, _Tracer().trace(backbone))
        self.contract, self.dtype, self.count = contract, dtype, 0
        self._leave_out_identities()
        self.uses = Counter(node.target for node in self.module.graph.nodes)
        [self.pixels] = (node for node in self.module.graph.nodes if node.op == "placeholder")
        first = _only_user(self.pixels)
        if first is None or not self._may_fuse(first):
            raise ValueError("what sees the pixels is no convolution")
        for node in list(self.module.graph.nodes):
            if self._may_fuse(node):
                self._fuse(node, cast("nn.Conv2d", self._layer(node)))
            elif dtype == torch.bfloat16 and may_take_bits(self._layer(node)) and self._is_positive(node.args[0]):
                self.module.set_submodule(str(node.target), MaxPoolOfBits(cast("nn.MaxPool2d", self._layer(node))))
        self.module.delete_all_unused_submodules()
        self.module.recompile()

    def _leave_out_identities(self) -> None:
        for node in list(self.module.graph.nodes):
            if isinstance(self._layer(node), nn.Identity):
                node.replace_all_uses_with(node.args[0])
                self.module.graph.erase_node(node)

    def _may_fuse(self, node: fx.Node) -> bool:
        layer = self._layer(node)
        plain = isinstance(layer, nn.Conv2d) and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
        return plain and self.uses[node.target] == 1

    def _fuse(self, node: fx.Node, layer: nn.Conv2d) -> None:
        chain, other, activation = [node], None, NONE
        if (
            (after := _only_user(node))
            and isinstance(norm := self._layer(after), nn.BatchNorm2d)
            and self.uses[after.target] == 1
        ):
            layer = fuse_conv_bn_eval(layer, norm)
            chain.append(after)
            if isinstance(last := getattr(norm, "act", None), nn.Module) and not isinstance(last, nn.Identity):
                self._follow(after, f"{after.target}.act")
        if (after := _only_user(chain[-1])) and (other := _added(after, chain[-1])):
            chain.append(after)
        kinds = ACTIVATIONS if other is None else {nn.ReLU}
        if (after := _only_user(chain[-1])) and (kind := type(self._layer(after))) in kinds:
            activation = ACTIVATIONS[kind]
            chain.append(after)
        if node.args[0] is self.pixels:
            convolution: _Convolution = _OfPixels(layer, activation, self.dtype, self.contract)
        else:
            convolution = _Convolution(layer, activation, self.dtype)
        self._replace(chain, convolution, other)

    def _follow(self, node: fx.Node, name: str) -> None:
        """A layer after the node, in front of all that used it."""
        with self.module.graph.inserting_after(node):
            layer = self.module.graph.call_module(name, (node,))
        node.replace_all_uses_with(layer, delete_user_cb=lambda user: user is not layer)

    def _replace(self, chain: list[fx.Node], convolution: _Convolution, other: fx.Node | None) -> None:
        name, graph = str(chain[0].target), self.module.graph
        self.module.set_submodule(name, convolution)
        with graph.inserting_before(chain[-1]):
            new = graph.call_module(name, (chain[0].args[0], *([] if other is None else [other])))
        chain[-1].replace_all_uses_with(new)
        for node in reversed(chain):
            graph.erase_node(node)
        self.count += 1

    def _is_positive(self, node: object) -> bool:
        """Whether what the node computes in bf16 has no negatives."""
        layer = self._layer(node) if isinstance(node, fx.Node) else None
        if isinstance(node, fx.Node) and node.target is torch.cat:
            return all(map(self._is_positive, cast("list[fx.Node]", node.args[0])))
        if isinstance(layer, _Convolution):
            return layer.activation in POSITIVE
        return isinstance(layer, MaxPoolOfBits)

    def _layer(self, node: fx.Node) -> nn.Module | None:
        return self.module.get_submodule(str(node.target)) if node.op == "call_module" else None


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _added(node: fx.Node, one: fx.Node) -> fx.Node | None:
    """What the node adds to one of its two arguments."""
    if node.target not in (add, iadd, torch.add) or len(node.args) != 2 or node.kwargs:
        return None
    others = [x for x in node.args if x is not one]
    return others[0] if len(others) == 1 and isinstance(others[0], fx.Node) else None
