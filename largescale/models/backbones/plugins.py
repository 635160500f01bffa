"""Backbones of the user's own, by import path: `model.backbone=mypackage.module:build`."""

from collections.abc import Callable
from typing import TypeVar

from torch import nn

from largescale.models.backbones.contract import Contract
from largescale.models.backbones.tokens import Tokens
from largescale.program.plugins import imported
from largescale.settings import UserError

Build = TypeVar("Build", bound=Callable[[], nn.Module])
MARK = "__largescale_backbone__"


def backbone(build: Build) -> Build:
    """Mark a function without arguments that returns a network `(B, 3, H, W) -> (B, C, h, w)` with random weights.

    Only functions so marked are called: a weights file names its backbone, and may come from anybody. The network may have an
    attribute `contract`; else images are normalized as ImageNet's.
    """
    setattr(build, MARK, True)
    return build


def plugged_backbone(path: str, tokens: Tokens) -> tuple[nn.Module, Contract]:
    """What a marked function builds.

    Raises:
        UserError: there is no such module or function, it is not marked, or tokens are asked for.
    """
    build = imported(path, "model.backbone=")
    if not getattr(build, MARK, False):
        raise UserError(
            f"model.backbone={path}: the function is not marked as a backbone; write @largescale.models.backbone above it"
        )
    if tokens != "map":
        raise UserError(f"model.backbone={path} gives a map of features; pooling={tokens} needs a transformer of timm")
    network = build()
    return network, getattr(network, "contract", Contract())
