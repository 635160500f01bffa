"""Backbones of timm without their classifiers, at any size that they bear. B images, C channels, T tokens."""

import difflib
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_map_only

from largescale.models.backbones.contract import Contract
from largescale.models.backbones.tokens import Tokens, chosen
from largescale.precision import without_autocast
from largescale.settings import UserError

ANY_SIZE: tuple[dict[str, Any], ...] = ({"dynamic_img_size": True}, {"strict_img_size": False}, {})
"""How transformers are told to take images of any size; the first that a model knows."""


def timm_model(name: str, **options: Any) -> Any:
    """The whole published model.

    Raises:
        UserError: timm has no such model, or no weights of that tag for it.
    """
    import timm

    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), 3, 0)
        raise UserError(f"timm has no model {name!r}; the nearest are {', '.join(near)}")
    architecture, _, tag = name.partition(".")
    tagged = timm.list_pretrained(f"{architecture}.*")
    if tag and name not in tagged:
        raise UserError(f"timm has no weights {tag!r} of {architecture}; there are {', '.join(tagged) or 'none'}")
    return timm.create_model(name, **options)


def timm_backbone(name: str, tokens: Tokens, drop_path: float = 0.0) -> tuple[nn.Module, Contract]:
    """A backbone with random weights, and what its published weights were trained on.

    Raises:
        UserError: timm has no such model, or it has no class token and one is asked for.
    """
    model = _at_any_size(name, {"drop_path_rate": drop_path} if drop_path else {})
    backbone = TimmBackbone(model, tokens)
    if tokens in ("class_token", "class_mean") and not backbone.has_class_token:
        raise UserError(f"timm:{name} has no class token; choose another pooling or another backbone")
    return backbone, _published(model.pretrained_cfg, backbone.prefix)


def _at_any_size(name: str, more: dict[str, Any]) -> Any:
    for options in ANY_SIZE:
        try:
            return timm_model(name, num_classes=0, **options, **more)
        except TypeError as error:
            if "unexpected keyword" not in str(error):
                raise
    raise UserError(f"timm:{name} does not know {', '.join(more)}: model.drop_path must be 0")


def _published(preset: dict[str, Any], prefix: int) -> Contract:
    return Contract(
        mean=tuple(preset["mean"]),
        std=tuple(preset["std"]),
        interpolation="bilinear" if preset.get("interpolation") == "bilinear" else "bicubic",
        size=preset["input_size"][-1],
        crop_share=preset.get("crop_pct") or Contract.crop_share,
        prefix=prefix,
    )


class TimmBackbone(nn.Module):
    """The features of a model of timm as a map."""

    def __init__(self, model: Any, tokens: Tokens) -> None:
        super().__init__()
        self.model, self.tokens = model, tokens
        self.prefix: int = getattr(model, "num_prefix_tokens", 0)
        self.gives_tokens = self.gives_several = False
        """Known once it has seen an image; several maps are put together by the model's own head only."""
        self.channels_last = getattr(model, "output_fmt", "NCHW") == "NHWC"

    @property
    def has_class_token(self) -> bool:
        return self.prefix > 0 and getattr(self.model, "cls_token", None) is not None

    def layers(self) -> nn.Module | None:
        """What makes the features of images, where that is a map as it is; known once it has seen an image."""
        as_it_is = not (self.tokens == "own" or self.gives_tokens or self.gives_several or self.channels_last)
        return _Features(self.model) if as_it_is else None

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.model.forward_features(images)
        self.gives_several = not isinstance(features, torch.Tensor)
        self.gives_tokens = self.gives_several or features.ndim == 3
        if self.tokens == "own" or self.gives_several:
            with without_autocast(images):
                return self.model.forward_head(_in_fp32(features), pre_logits=True).flatten(1)[:, :, None, None]
        if features.ndim == 3:  # (B, T, C)
            return chosen(features, self.prefix, images.shape[2] / images.shape[3], self.tokens)
        return features.permute(0, 3, 1, 2) if self.channels_last else features


def _in_fp32(features: Any) -> Any:
    """One map, or several: the model's own pooling computes as all pooling does."""
    return tree_map_only(torch.Tensor, lambda x: x.to(torch.promote_types(x.dtype, torch.float32)), features)


class _Features(nn.Module):
    """A model of timm without its head."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.model.forward_features(images)
        return features
