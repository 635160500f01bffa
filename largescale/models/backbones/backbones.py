"""Backbones without their classifiers: images to a feature map `(B, C, H, W)`, and what they ask of images.

A backbone keeps the parameter names of its source, so that published weights load as they are.
"""

from typing import Any

import torch
from torch import nn

from largescale.models.backbones.contract import Contract
from largescale.models.backbones.plugins import plugged_backbone
from largescale.models.backbones.stochastic_depth import own_draws
from largescale.models.backbones.timm_backbones import TimmBackbone, timm_backbone, timm_model
from largescale.models.backbones.tokens import Tokens
from largescale.models.backbones.torchvision_backbones import TorchvisionTransformer, torchvision_backbone, torchvision_model
from largescale.settings import UserError

CHANCE = {"Dropout": "p", "StochasticDepth": "p", "DropPath": "drop_prob"}
"""Layers that drop at random, by name, so that neither torchvision nor timm has to be imported, and where they keep how much."""


def build_backbone(name: str, tokens: Tokens = "map", drop_path: float = 0.0) -> tuple[nn.Module, Contract]:
    """A backbone with random weights, and its contract as published; `borne` finds out which sizes it bears.

    Args:
        name: a name of torchvision, `timm:NAME`, or `package.module:function` of one's own.
        tokens: which tokens of a transformer make its map.
        drop_path: stochastic depth, of timm's models. Without it nothing is dropped at random, whatever a model does by
            default: it would depend on which images share a process.

    Raises:
        UserError: there is no such model, or the backbone has no class token.
    """
    if name.startswith("timm:"):
        backbone, contract = timm_backbone(name.removeprefix("timm:"), tokens, drop_path)
    elif ":" in name:
        return plugged_backbone(name, tokens)
    else:
        backbone, contract = torchvision_backbone(name, tokens)
    if drop_path:
        own_draws(backbone)
    else:
        _keep_all(backbone)
    return backbone, contract


def _keep_all(backbone: nn.Module) -> None:
    for module in backbone.modules():
        if (share := CHANCE.get(type(module).__name__)) is not None:
            setattr(module, share, 0.0)


def gives_tokens(backbone: nn.Module) -> bool:
    """Whether it is a transformer whose map is made of its patches' tokens."""
    return isinstance(backbone, TorchvisionTransformer) or (isinstance(backbone, TimmBackbone) and backbone.gives_tokens)


def gives_several(backbone: nn.Module) -> bool:
    """Whether it makes several maps of an image (CrossViT, EfficientViM), which its own head alone makes a vector of."""
    return isinstance(backbone, TimmBackbone) and backbone.gives_several


def source_keys(name: str) -> set[str]:
    """Names in the state dict of the whole published model, classifier included."""
    if ":" in name and not name.startswith("timm:"):
        return set()
    with torch.device("meta"):
        return set(_published(name).state_dict())


def named_as_published(backbone: nn.Module) -> nn.Module:
    """The part of a backbone whose state dict has the names of its source."""
    return backbone.model if isinstance(backbone, TimmBackbone) else backbone


def download_weights(name: str) -> dict[str, torch.Tensor]:
    """The state dict that torchvision (IMAGENET1K_V1) or timm publishes for a model.

    Raises:
        UserError: it cannot be downloaded, or does not exist.
    """
    try:
        return _published(name, pretrained=True).state_dict()
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"the ImageNet weights of {name} could not be downloaded ({type(error).__name__}: {error}); where there is no "
            "network, copy the published file to this machine and give its path as model.weights"
        ) from None


def _published(name: str, pretrained: bool = False) -> Any:
    if name.startswith("timm:"):
        return timm_model(name.removeprefix("timm:"), pretrained=pretrained)
    return torchvision_model(name, "IMAGENET1K_V1" if pretrained else None)
