"""Backbones of torchvision without their classifiers. B images, C channels, T tokens."""

import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from largescale.models.backbones.contract import Contract
from largescale.models.backbones.tokens import Tokens, chosen
from largescale.settings import UserError


def torchvision_model(name: str, weights: str | None = None) -> Any:
    """The whole published model."""
    from torchvision.models import get_model

    return get_model(name, weights=weights)


def torchvision_backbone(name: str, tokens: Tokens) -> tuple[nn.Module, Contract]:
    """A backbone with random weights, and what its published weights were trained on.

    Raises:
        UserError: tokens of a network that has none.
    """
    model = torchvision_model(name)
    if name == "vit_b_16":
        return TorchvisionTransformer(model, tokens), _published(name, prefix=1)
    if tokens != "map":
        raise UserError(f"{name} has no class token: pooling={tokens} needs a transformer such as vit_b_16")
    return _CUTS[name](model), _published(name, prefix=0)


def _published(name: str, prefix: int) -> Contract:
    from torchvision.models import get_model_weights

    preset = get_model_weights(name)["IMAGENET1K_V1"].transforms()
    [size] = preset.crop_size
    interpolation = preset.interpolation.value
    return Contract(tuple(preset.mean), tuple(preset.std), interpolation=interpolation, size=size, prefix=prefix)


def _cut(*names: str) -> Callable[[Any], nn.Module]:
    return lambda model: nn.Sequential(OrderedDict((name, model.get_submodule(name)) for name in names))


def _cut_features(model: Any) -> nn.Module:
    """AlexNet and VGG without the last maximum pooling (as cirtorch): twice the cells."""
    return nn.Sequential(OrderedDict(features=model.features[:-1]))


_cut_resnet = _cut("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")
_CUTS: dict[str, Callable[[Any], nn.Module]] = {
    "alexnet": _cut_features,
    "vgg16": _cut_features,
    "vgg19": _cut_features,
    "resnet18": _cut_resnet,
    "resnet50": _cut_resnet,
    "resnet101": _cut_resnet,
    "squeezenet1_1": _cut("features"),
    "mobilenet_v2": _cut("features"),
    "swin_t": _cut("features", "norm", "permute"),
}


class TorchvisionTransformer(nn.Module):
    """torchvision's ViT at any size: its position embeddings are resampled to the grid of the image."""

    def __init__(self, model: Any, tokens: Tokens) -> None:
        super().__init__()
        self.conv_proj, self.class_token, self.encoder = model.conv_proj, model.class_token, model.encoder
        for block in self.encoder.layers:
            block.self_attention = SelfAttention(block.self_attention)
        # its own descriptor of an image is its class token
        self.tokens: Tokens = "class_token" if tokens == "own" else tokens

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        patches = self.conv_proj(images)  # (B, C, h, w)
        count, _, height, width = patches.shape
        tokens = torch.cat([self.class_token.expand(count, -1, -1), patches.flatten(2).transpose(1, 2)], 1)  # (B, 1 + hw, C)
        encoder = self.encoder
        x = encoder.ln(encoder.layers(encoder.dropout(tokens + self._positions(height, width))))
        return chosen(x, 1, height / width, self.tokens)

    def _positions(self, height: int, width: int) -> torch.Tensor:
        embedding = self.encoder.pos_embedding  # (1, 1 + g * g, C)
        side = math.isqrt(embedding.shape[1] - 1)
        if (height, width) == (side, side):
            return embedding
        grid = embedding[:, 1:].transpose(1, 2).unflatten(2, (side, side))
        grid = functional.interpolate(grid, (height, width), mode="bicubic", align_corners=False, antialias=True)
        return torch.cat([embedding[:, :1], grid.flatten(2).transpose(1, 2)], 1)


class SelfAttention(nn.Module):
    """torch's own, with its names and weights, and with the images first throughout.

    torch puts the tokens first; the product of such a view with weights that do not learn takes four times as long.
    """

    def __init__(self, published: nn.MultiheadAttention) -> None:
        super().__init__()
        self.num_heads = published.num_heads
        self.in_proj_weight, self.in_proj_bias = published.in_proj_weight, published.in_proj_bias
        self.out_proj = published.out_proj

    def forward(self, x: torch.Tensor, *_: torch.Tensor, need_weights: bool) -> tuple[torch.Tensor, None]:
        """Tokens `(B, T, C)`, thrice; as many, and no weights."""
        three = functional.linear(x, self.in_proj_weight, self.in_proj_bias)  # (B, T, 3 C)
        queries, keys, values = three.unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)  # (B, heads, T, C / heads)
        mixed = functional.scaled_dot_product_attention(queries, keys, values)
        return self.out_proj(mixed.transpose(1, 2).flatten(2)), None
