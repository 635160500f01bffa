"""A network as a graph of layers, its convolutions with all that is done to their results where these are still in registers."""

import copy
from collections import Counter
from operator import add, iadd
from typing import cast

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from largescale.models.backbones.contract import Contract
from largescale.models.transform.convolution import ACTIVATIONS, NONE, POSITIVE, Convolution, OfPixels
from largescale.models.transform.max_pool import MaxPoolOfBits, may_take_bits


class _Tracer(fx.Tracer):
    """timm's batch normalization that ends in an activation is one layer, too."""

    def is_leaf_module(self, layer: nn.Module, name: str) -> bool:
        return isinstance(layer, nn.BatchNorm2d) or super().is_leaf_module(layer, name)


class Graph:
    """`module` computes of pixels, in fp32, what `backbone` does of normalized images; `convolutions` are what was fused."""

    def __init__(self, backbone: nn.Module, contract: Contract) -> None:
        backbone = copy.deepcopy(backbone)  # tracing leaves marks, as in maps that a layer keeps for each device
        self.module = fx.GraphModule(backbone, _Tracer().trace(backbone))
        self.contract = contract
        self.convolutions: list[Convolution] = []
        self._leave_out_identities()
        self.uses = Counter(node.target for node in self.module.graph.nodes)
        [self.pixels] = (node for node in self.module.graph.nodes if node.op == "placeholder")
        first = _only_user(self.pixels)
        if first is None or not self._may_fuse(first):
            raise ValueError("what sees the pixels is no convolution")
        for node in list(self.module.graph.nodes):
            if self._may_fuse(node):
                self._fuse(node, cast("nn.Conv2d", self._layer(node)))
        self.module.delete_all_unused_submodules()
        self.module.recompile()

    def round_to_bf16(self, pixels: Tensor, exact: int) -> None:
        """All but the first `exact` convolutions compute in bf16 from now on.

        Args:
            pixels: `(B, 3, H, W)` uint8, by which it is judged what rounded weights do on average.
        """
        for layer, mean in self._means_of_inputs(pixels).items():
            if layer in self.convolutions[exact:]:
                layer.round_to_bf16(mean)
        for node in self.module.graph.nodes:
            if may_take_bits(self._layer(node)) and self._is_positive(node.args[0]):
                self.module.set_submodule(str(node.target), MaxPoolOfBits(cast("nn.MaxPool2d", self._layer(node))))

    def _means_of_inputs(self, pixels: Tensor) -> dict[Convolution, Tensor]:
        """`(channels,)` float64 of each convolution."""
        means: dict[Convolution, Tensor] = {}

        def note(layer: nn.Module, given: tuple[Tensor, ...]) -> None:
            means[cast("Convolution", layer)] = given[0].double().mean((0, 2, 3))

        hooks = [layer.register_forward_pre_hook(note) for layer in self.convolutions]
        with torch.inference_mode():
            self.module(pixels)
        for hook in hooks:
            hook.remove()
        return means

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
            convolution: Convolution = OfPixels(layer, activation, other is not None, self.contract)
        else:
            convolution = Convolution(layer, activation, other is not None)
        self._replace(chain, convolution, other)

    def _follow(self, node: fx.Node, name: str) -> None:
        """A layer after the node, in front of all that used it."""
        with self.module.graph.inserting_after(node):
            layer = self.module.graph.call_module(name, (node,))
        node.replace_all_uses_with(layer, delete_user_cb=lambda user: user is not layer)

    def _replace(self, chain: list[fx.Node], convolution: Convolution, other: fx.Node | None) -> None:
        name, graph = str(chain[0].target), self.module.graph
        self.module.set_submodule(name, convolution)
        with graph.inserting_before(chain[-1]):
            new = graph.call_module(name, (chain[0].args[0], *([] if other is None else [other])))
        chain[-1].replace_all_uses_with(new)
        for node in reversed(chain):
            graph.erase_node(node)
        self.convolutions.append(convolution)

    def _is_positive(self, node: object) -> bool:
        """Whether what the node computes is in bf16 and has no negatives."""
        layer = self._layer(node) if isinstance(node, fx.Node) else None
        if isinstance(node, fx.Node) and node.target is torch.cat:
            return all(map(self._is_positive, cast("list[fx.Node]", node.args[0])))
        if isinstance(layer, Convolution):
            return layer.activation in POSITIVE and layer.dtype == torch.bfloat16
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
