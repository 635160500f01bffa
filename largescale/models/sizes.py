"""How small an image may be for a network."""

from collections.abc import Iterable

import torch

from largescale.models.network import RetrievalNet

ENOUGH = 128
"""Pixels of a side that every backbone can see."""


def least_side(network: RetrievalNet, sides: Iterable[int]) -> int:
    """The least of some sides (pixels) of which a backbone in evaluation mode makes a feature; `ENOUGH` where it is none of them.

    Sides that are enough are not tried.
    """
    with torch.inference_mode():
        return next((side for side in sorted({side for side in sides if side < ENOUGH}) if _has_features(network, side)), ENOUGH)


def _has_features(network: RetrievalNet, side: int) -> bool:
    try:
        return network.features(torch.zeros(1, 3, side, side, device=next(network.parameters()).device)).numel() > 0
    except (RuntimeError, ValueError):  # what kernels and pooling say of maps that are smaller than they are
        return False
