"""Backbones of torchvision and timm without their classifiers: images to a feature map `(B, C, H, W)`.

A backbone keeps the parameter names of its source, so that published weights load as they are.
B images, C channels, T tokens, s stride in pixels.
"""

import difflib
import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from largescale.settings import UserError


def build_backbone(name: str, class_token: bool = False) -> tuple[nn.Module, int]:
    """A backbone with random weights, and its number of channels.

    Transformers yield their patch tokens as a map, or with `class_token` that token as a map of one cell.

    Args:
        name: a name of torchvision, or `timm:NAME`.

    Raises:
        UserError: timm has no such model, or the backbone has no class token.
    """
    if name.startswith("timm:"):
        return _timm_backbone(name.removeprefix("timm:"), class_token)
    model = _torchvision(name)
    if name == "vit_b_16":
        return TorchvisionTransformer(model, class_token), model.hidden_dim
    if class_token:
        raise UserError(f"{name} has no class token: pooling=class_token needs a transformer such as vit_b_16")
    return _CUTS[name](model)


def source_keys(name: str) -> set[str]:
    """Names in the state dict of the whole published model, classifier included."""
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
        return _timm(name.removeprefix("timm:"), pretrained=pretrained)
    return _torchvision(name, "IMAGENET1K_V1" if pretrained else None)


def _torchvision(name: str, weights: str | None = None) -> Any:
    from torchvision.models import get_model

    return get_model(name, weights=weights)


def _cut_features(model: Any) -> tuple[nn.Module, int]:
    """AlexNet and VGG without the last maximum pooling (as cirtorch): twice the cells."""
    channels = [layer for layer in model.features if isinstance(layer, nn.Conv2d)][-1].out_channels
    return nn.Sequential(OrderedDict(features=model.features[:-1])), channels


def _cut(names: list[str], channels: Callable[[Any], int]) -> Callable[[Any], tuple[nn.Module, int]]:
    return lambda model: (nn.Sequential(OrderedDict((name, model.get_submodule(name)) for name in names)), channels(model))


_RESNET = ["conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"]
_cut_resnet = _cut(_RESNET, lambda model: model.fc.in_features)
_CUTS: dict[str, Callable[[Any], tuple[nn.Module, int]]] = {
    "alexnet": _cut_features,
    "vgg16": _cut_features,
    "vgg19": _cut_features,
    "resnet18": _cut_resnet,
    "resnet50": _cut_resnet,
    "resnet101": _cut_resnet,
    "squeezenet1_1": _cut(["features"], lambda model: model.classifier[1].in_channels),
    "mobilenet_v2": _cut(["features"], lambda model: model.last_channel),
    "swin_t": _cut(["features", "norm", "permute"], lambda model: model.head.in_features),
}


class TorchvisionTransformer(nn.Module):
    """torchvision's ViT at any size: its position embeddings are resampled to the grid of the image."""

    def __init__(self, model: Any, class_token: bool) -> None:
        super().__init__()
        self.conv_proj, self.class_token, self.encoder = model.conv_proj, model.class_token, model.encoder
        self.stride, self.use_class_token = model.patch_size, class_token

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        patches = self.conv_proj(images)  # (B, C, h, w)
        count, _, height, width = patches.shape
        tokens = torch.cat([self.class_token.expand(count, -1, -1), patches.flatten(2).transpose(1, 2)], 1)  # (B, 1 + hw, C)
        encoder = self.encoder
        x = encoder.ln(encoder.layers(encoder.dropout(tokens + self._positions(height, width))))
        return _tokens_to_map(x, 1, height, width, self.use_class_token)

    def _positions(self, height: int, width: int) -> torch.Tensor:
        embedding = self.encoder.pos_embedding  # (1, 1 + g * g, C)
        side = math.isqrt(embedding.shape[1] - 1)
        if (height, width) == (side, side):
            return embedding
        grid = embedding[:, 1:].transpose(1, 2).unflatten(2, (side, side))
        grid = functional.interpolate(grid, (height, width), mode="bicubic", align_corners=False, antialias=True)
        return torch.cat([embedding[:, :1], grid.flatten(2).transpose(1, 2)], 1)


def _tokens_to_map(tokens: torch.Tensor, prefix: int, height: int, width: int, class_token: bool) -> torch.Tensor:
    kept = tokens[:, :1] if class_token else tokens[:, prefix:]  # (B, T, C)
    grid = (1, 1) if class_token else (height, width)
    return kept.transpose(1, 2).unflatten(2, grid)


class TimmBackbone(nn.Module):
    """A model of timm; the layout of its features is learned from a dry run (on the meta device) at its own input size."""

    def __init__(self, model: Any, features: torch.Size, size: int, class_token: bool) -> None:
        super().__init__()
        self.model, self.use_class_token = model, class_token
        self.tokens = len(features) == 3  # (1, prefix + g * g, C), not (1, C, h, w) or (1, h, w, C)
        self.channels_first = not self.tokens and features[1] == model.num_features
        grid = math.isqrt(features[1])
        self.prefix, self.stride = features[1] - grid * grid, size // grid

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if not self.tokens:
            features = self.model.forward_features(images)
            return features if self.channels_first else features.permute(0, 3, 1, 2)
        height, width = images.shape[2] // self.stride, images.shape[3] // self.stride
        tokens = self.model.forward_features(images[:, :, : height * self.stride, : width * self.stride])
        return _tokens_to_map(tokens, self.prefix, height, width, self.use_class_token)


def _timm(name: str, **options: Any) -> Any:
    import timm

    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), 3, 0)
        raise UserError(f"timm has no model {name!r}; the nearest are {', '.join(near)}")
    return timm.create_model(name, **options)


def _timm_backbone(name: str, class_token: bool) -> tuple[nn.Module, int]:
    from timm.models import Eva, SwinTransformer, SwinTransformerV2, VisionTransformer

    with torch.device("meta"):
        probe = _timm(name)
        _, size, _ = probe.default_cfg["input_size"]
        features = probe.forward_features(torch.empty(1, 3, size, size)).shape
    any_size: dict[str, bool] = {}
    if isinstance(probe, (VisionTransformer, Eva)):
        any_size = {"dynamic_img_size": True}
    elif isinstance(probe, (SwinTransformer, SwinTransformerV2)):
        any_size = {"strict_img_size": False}
    backbone = TimmBackbone(_timm(name, num_classes=0, **any_size), features, size, class_token)
    if class_token and not (backbone.tokens and backbone.prefix):
        raise UserError(f"timm:{name} has no class token; choose another pooling or another backbone")
    return backbone, backbone.model.num_features
