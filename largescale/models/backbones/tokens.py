"""From the tokens of a transformer to a feature map. B images, T tokens, C channels, h x w patches."""

import math
from typing import Literal

import torch

Tokens = Literal["map", "class_token", "class_mean", "own"]
"""Which tokens of a transformer become its feature map: those of the patches; the class token; it and the mean of the patches'
side by side; what the published model makes of them itself."""


def chosen(tokens: torch.Tensor, prefix: int, ratio: float, which: Tokens) -> torch.Tensor:
    """`(B, T, C)` to the map of the patches `(B, C, h, w)`, or to one cell `(B, C or 2 C, 1, 1)`.

    Args:
        prefix: tokens before the patches; the first of them is the class token, the others (registers) are left out.
        ratio: height / width of the image.
    """
    patches = tokens[:, prefix:]
    if which == "class_token":
        return tokens[:, 0, :, None, None]
    if which == "class_mean":
        return torch.cat([tokens[:, 0], patches.mean(1)], 1)[:, :, None, None]
    return patches.transpose(1, 2).unflatten(2, grid(patches.shape[1], ratio))


def grid(count: int, ratio: float) -> tuple[int, int]:
    """(h, w) of `count` patches of an image of height / width `ratio`; one column where no grid has that many."""
    height = max(1, round(math.sqrt(count * ratio)))
    return (height, count // height) if count % height == 0 else (count, 1)
