"""What a network bears and uses, found by trying it on black images. B images, C channels."""

from dataclasses import replace

import torch
from torch import nn

from largescale.models.backbones.contract import Contract
from largescale.models.modes import in_evaluation_mode
from largescale.settings import UserError

MULTIPLES = (1, 2, 4, 8, 14, 16, 28, 32, 64, 128)
"""Sides of patches and windows, pixels."""
USUAL = 96
"""A side that a network bears, if it bears several (pixels)."""


def borne(backbone: nn.Module, published: Contract, name: str) -> Contract:
    """The contract with the sizes that the backbone bears, and its channels.

    Raises:
        UserError: it makes no feature map of an image of its own size.
    """
    for multiple in MULTIPLES:
        features = _features(backbone, *_two_sides(multiple))
        if isinstance(features, torch.Tensor):
            return replace(published, multiple=multiple, least=_least(backbone, multiple), channels=features.shape[1])
    features = _features(backbone, published.size, published.size)
    if isinstance(features, Exception):
        raise UserError(
            f"{name} makes no feature map of an image of {published.size} x {published.size} pixels: "
            f"{type(features).__name__}: {features}; it is of a kind that gives no such map, choose another backbone"
        )
    size = published.size
    return replace(published, fixed=True, fit="squash", multiple=size, least=size, channels=features.shape[1])


def idle_parameters(network: nn.Module, contract: Contract) -> list[str]:
    """Names of the parameters that no descriptor depends on, so that they would never have a gradient."""
    learning = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
    if not learning:
        return []
    total = _seen(network, contract).sum()
    found = torch.autograd.grad(total, list(learning.values()), allow_unused=True)
    return [name for name, gradient in zip(learning, found, strict=True) if gradient is None]


def called_layers(network: nn.Module, contract: Contract) -> set[str]:
    """Names of the layers that are called; the weights of others may still be read."""
    called: set[str] = set()
    hooks = [
        module.register_forward_hook(lambda *_, name=name: called.add(name))  # type: ignore[misc]
        for name, module in network.named_modules()
    ]
    _seen(network, contract)
    for hook in hooks:
        hook.remove()
    return called


@torch.no_grad()
def negative_share(backbone: nn.Module, contract: Contract) -> float:
    """The share of the numbers of a feature map that are negative, of an image of noise; 0 after a rectifier."""
    side = contract.size if contract.fixed else contract.borne(USUAL)
    noise = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    with in_evaluation_mode(backbone):
        return float((backbone(noise.to(_black(backbone, side, side))) < 0).float().mean())


def _seen(network: nn.Module, contract: Contract) -> torch.Tensor:
    """What a network makes of an image that it bears."""
    side = contract.size if contract.fixed else contract.borne(USUAL)
    with in_evaluation_mode(network):
        features: torch.Tensor = network(_black(network, side, side))
    return features


def _two_sides(multiple: int) -> tuple[int, int]:
    """Near the usual side, odd times the multiple and no multiples of more."""
    count = USUAL // multiple | 1
    return count * multiple, (count + 2) * multiple


def _least(backbone: nn.Module, multiple: int) -> int:
    """The smallest side that is borne, by halving; larger ones are borne as well."""
    low, high = 0, _two_sides(multiple)[0] // multiple
    if _bears(backbone, multiple, multiple):
        return multiple
    while high - low > 1:
        middle = (low + high) // 2
        if _bears(backbone, middle * multiple, middle * multiple):
            high = middle
        else:
            low = middle
    return high * multiple


def _bears(backbone: nn.Module, height: int, width: int) -> bool:
    return isinstance(_features(backbone, height, width), torch.Tensor)


def _features(backbone: nn.Module, height: int, width: int) -> torch.Tensor | Exception:
    """`(1, C, h, w)`, or why there are none."""
    with in_evaluation_mode(backbone), torch.no_grad():
        try:
            features = backbone(_black(backbone, height, width))
        except Exception as error:  # kernels, asserts and views say each in their own way that a size does not fit
            return error
    if not isinstance(features, torch.Tensor) or features.ndim != 4 or not features.numel():
        return TypeError(f"expected a tensor (B, C, h, w), found {getattr(features, 'shape', type(features).__name__)}")
    return features


def _black(network: nn.Module, height: int, width: int) -> torch.Tensor:
    parameter = next(network.parameters())
    return torch.zeros(1, 3, height, width, device=parameter.device, dtype=parameter.dtype)
