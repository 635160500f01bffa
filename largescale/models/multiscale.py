"""Descriptors of an image at several scales, merged into one (Radenović 2018, §5). S scales, B images, D dimensions."""

import torch
from torch.nn.functional import interpolate

SCALES = (1.0, 2**-0.5, 0.5)


def resize(images: torch.Tensor, scale: float) -> torch.Tensor:
    """`(B, 3, H, W)` bilinearly to `(B, 3, floor(H scale), floor(W scale))`; scale 1 changes nothing."""
    return images if scale == 1 else interpolate(images, scale_factor=scale, mode="bilinear", align_corners=False)


def merge_scales(descriptors: torch.Tensor, exponent: float = 1.0) -> torch.Tensor:
    """`(S, B, D) -> (B, D)`: the generalised mean over scales, unit rows.

    Args:
        exponent: that of GeM where the descriptors come straight from it, which makes them non-negative; else 1
            (`RetrievalNet.scale_exponent`).
    """
    merged = descriptors.mean(0) if exponent == 1 else (descriptors.clamp(min=0) ** exponent).mean(0) ** (1 / exponent)
    return merged / torch.linalg.vector_norm(merged, dim=1, keepdim=True)
