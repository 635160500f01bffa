"""A network as a pass of a CPU computes it: what follows a convolution is done where its result is still in the registers.

Batch normalization, and that of the pixels, become part of the weights, additions and activations part of the convolution
(oneDNN); where it computes in bf16, the weights are in bf16 from the start. Nothing is compiled, images may have any shape, and
the result is the same for every number of threads and processes.
"""

import logging
from collections.abc import MutableMapping
from functools import lru_cache
from itertools import chain
from typing import cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from largescale.distributed import World
from largescale.models.backbones.timm_backbones import TimmBackbone
from largescale.models.modes import in_evaluation_mode
from largescale.models.network import RetrievalNet
from largescale.models.transform.graph import Graph
from largescale.models.transform.multiscale import AtScales
from largescale.precision import Resolved, autocast
from largescale.program.logs import ONCE

Network = RetrievalNet | AtScales
log = logging.getLogger(__name__)
CPU = torch.device("cpu")
FUSED, BY_LAYER = "fused", "layer by layer"
SIDE = 96
"""Pixels of the pictures on which a fused network is tried."""
TOLERANCE = 1e-4
"""Most that features in fp32 may differ from the network's own, as a share of the greatest."""
NEAR = 0.9998
"""Cosine of descriptors in bf16 to those in fp32 that is enough; else they must be as near as those of the network itself. Of
photographs the least is some four times as far from 1 (MobileNetV2)."""
EXACT = 2
"""First convolutions that stay in fp32 where descriptors are not near enough without: what follows from edges, and from channels
that hardly vary, magnifies their rounding (MobileNetV2)."""
_REFUSED: MutableMapping[nn.Module, dict[Resolved, list[int]]] = WeakKeyDictionary()
"""Backbones that could not be rewritten, and the versions of their weights: a pass need not try again."""


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


def as_computed(network: Network, precision: Resolved, device: torch.device) -> Network:
    """As passes compute it on a device: fused on a CPU, where it can be."""
    if device.type == "cuda":
        return network
    with in_evaluation_mode(network):
        return fused(network, precision)


def ways_of(network: Network, world: World) -> str:
    """How all ranks compute a network that is `as_computed`: the ways are equal to rounding, and not to the bit."""
    return " and ".join(sorted({*world.gather(FUSED if is_fused(network) else BY_LAYER)}))


def _fused(network: RetrievalNet, precision: Resolved) -> RetrievalNet:
    if not isinstance(network, RetrievalNet) or is_fused(network):
        return network
    refused, weights = _REFUSED.setdefault(network.backbone, {}), _versions(network.backbone)
    if refused.get(precision) == weights:
        return network
    other, how = network, f"{BY_LAYER}: it is no sequence of convolutions"
    if (layers := _layers(network)) is not None:
        try:
            other, how = _in_fp32(network, layers) if precision == "fp32" else _in_bf16(network, layers)
        except Exception as error:  # what its code does cannot be followed, or the processor has no such kernels
            how = f"{BY_LAYER}: {type(error).__name__}: {str(error).partition(chr(10))[0]}"
    if other is network:
        refused[precision] = weights
    _say(f"{network.config.backbone} describes in {precision}, {how}")
    return other


def _versions(backbone: nn.Module) -> list[int]:
    """Which change when weights do."""
    tensors = chain(backbone.parameters(), backbone.buffers())
    return [-1 if tensor.is_inference() else tensor._version for tensor in tensors]


def _layers(network: RetrievalNet) -> nn.Module | None:
    """What makes the map of features; None where it is no map, or made otherwise."""
    if isinstance(network.backbone, TimmBackbone):
        return network.backbone.layers()
    return network.backbone if isinstance(network.backbone, nn.Sequential) else None


@lru_cache(256)
def _say(text: str) -> None:
    log.info(text, extra=ONCE)


@torch.inference_mode()
def _in_fp32(network: RetrievalNet, layers: nn.Module) -> tuple[RetrievalNet, str]:
    """What describes from now on, and how."""
    graph = Graph(layers, network.contract)
    other = network.with_backbone(graph.module)
    pixels = _pictures(network)
    exact, found = network.features(network.contract.normalize(pixels)).float(), other.features(pixels).float()
    if (apart := float((found - exact).abs().max() / exact.abs().max())) > TOLERANCE:
        return network, f"{BY_LAYER}: fused, its features differ by {apart:.2g}"
    return other, f"with {len(graph.convolutions)} fused convolutions"


@torch.inference_mode()
def _in_bf16(network: RetrievalNet, layers: nn.Module) -> tuple[RetrievalNet, str]:
    """What describes from now on, and how."""
    pixels = _pictures(network)
    images = network.contract.normalize(pixels)
    rows = network.describe(network.features(images).float())
    usual = _nearness(rows, network, images)
    tried = []
    for exact in (0, EXACT):
        graph = Graph(layers, network.contract)
        graph.round_to_bf16(pixels, exact)
        other = network.with_backbone(graph.module)
        how = f"with {len(graph.convolutions)} fused convolutions"
        tried.append((_nearness(rows, other, pixels), other, f"{how}, the first {exact} in fp32" if exact else how))
        if tried[-1][0] >= NEAR:
            break
    near, other, how = max(tried, key=lambda one: one[0])
    if near >= min(NEAR, usual):
        return other, how
    return network, f"{BY_LAYER}: fused, its descriptors are within {near:.4f} of those in fp32, else {usual:.4f}"


def _nearness(rows: Tensor, network: RetrievalNet, images: Tensor) -> float:
    """The least cosine of what it says in bf16 to the rows."""
    with autocast("bf16", CPU):
        features = network.features(images).float()
    return float(functional.cosine_similarity(rows, network.describe(features)).min())


def _pictures(network: RetrievalNet) -> Tensor:
    """`(4, 3, s, s)` uint8, like photographs in that each octave of detail has half the contrast of the one before."""
    side, generator = network.contract.borne(SIDE), torch.Generator().manual_seed(0)
    total, cells = torch.zeros(4, 3, side, side), 3
    while cells <= side:
        octave = torch.randn((4, 3, cells, cells), generator=generator) + 2 * torch.randn(
            (4, 1, cells, cells), generator=generator
        )
        total += functional.interpolate(octave, (side, side), mode="bilinear") / cells
        cells *= 2
    return (255 * (0.45 + 0.25 * total / total.std()).clamp(0, 1)).to(torch.uint8)
