"""Descriptors of an image at several scales, merged into one (Radenović 2018, §5). S scales, B images, D dimensions."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import nn
from torch.nn.functional import interpolate, normalize

from largescale.models.network import RetrievalNet

SCALES = (1.0, 2**-0.5, 0.5)


class AtScales(nn.Module):
    """What describes each image once per scale; in unit rows wherever the cosine compares them."""

    def __init__(self, networks: Sequence[RetrievalNet], scales: Sequence[float]) -> None:
        """
        Args:
            networks: that of each descriptor; they have one backbone, which sees an image once per different scale.
        """
        super().__init__()
        self.networks, self.scales, self.dim = nn.ModuleList(networks), tuple(scales), networks[0].dim
        self.contract = networks[0].contract
        self.train(networks[0].training)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """`(B, 3, H, W)`, normalized, or whatever else the networks take -> `(B, S, D)`."""
        networks = cast("list[RetrievalNet]", list(self.networks))
        maps = {scale: networks[0].features(resize(images, scale, self.contract.multiple)) for scale in set(self.scales)}
        pairs = zip(networks, self.scales, strict=True)
        rows = torch.stack([network.describe(maps[scale]) for network, scale in pairs], dim=1)
        return rows if networks[0].config.normalize or networks[0].metric == "l2" else normalize(rows, dim=2)


def resize(images: torch.Tensor, scale: float, multiple: int = 1) -> torch.Tensor:
    """`(B, 3, H, W)` bilinearly to `(B, 3, floor(H scale), floor(W scale))`; scale 1 changes nothing.

    Args:
        multiple: sides become multiples of it, the next lower ones but at least one.
    """
    if scale == 1:
        return images
    images = images.to(torch.promote_types(images.dtype, torch.float32))
    if multiple == 1:
        return interpolate(images, scale_factor=scale, mode="bilinear", align_corners=False)
    height, width = (max(1, int(side * scale) // multiple) * multiple for side in images.shape[2:])
    return interpolate(images, (height, width), mode="bilinear", align_corners=False)


def merge_scales(descriptors: torch.Tensor, exponent: float = 1.0, unit: bool = True) -> torch.Tensor:
    """`(S, B, D) -> (B, D)`: the generalized mean over scales, in rows of length 1 where `unit` says so.

    Args:
        exponent: that of GeM where the descriptors come straight from it, which makes them non-negative; else 1
            (`RetrievalNet.scale_exponent`). A component below 0 keeps its sign (as in dirtorch; cirtorch has NaN there).
    """
    merged = _power(_power(descriptors, exponent).mean(0), 1 / exponent)
    return merged / torch.linalg.vector_norm(merged, dim=1, keepdim=True) if unit else merged


def _power(x: torch.Tensor, exponent: float) -> torch.Tensor:
    return x if exponent == 1 else x.abs() ** exponent * x.sign()
