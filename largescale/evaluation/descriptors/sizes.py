"""Images, or boxes of queries, that are too small for a network at some scale: found before any image is embedded."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch

from largescale.corpus.config import ImagesConfig
from largescale.corpus.images import target_shapes
from largescale.embedding import in_evaluation_mode
from largescale.evaluation.descriptors.store import Descriptors
from largescale.models.network import RetrievalNet
from largescale.settings import UserError

ENOUGH, SHOWN = 128, 20
"""Pixels of a side that every backbone can see; faults that are listed."""


def check_sizes(network: RetrievalNet, scales: Sequence[Descriptors], images: ImagesConfig) -> None:
    """
    Args:
        scales: of the same images.

    Raises:
        UserError: some become so small that the backbone makes no feature of them; lists them with their sizes and the scale.
    """
    wanted = min(scales, key=lambda described: described.scale)
    manifest, ids = wanted.manifest, wanted.ids
    shapes = target_shapes(manifest.width[ids], manifest.height[ids], images, wanted.boxes)  # (n, 2)
    shapes = np.floor(shapes * wanted.scale).astype(int)
    sides = shapes.min(axis=1)
    least = least_side(network, np.unique(sides[sides < ENOUGH]).tolist())
    small = np.flatnonzero(sides < least)
    if len(small):
        lines = [
            f"{manifest.keys[int(ids[i])].as_py()}, its {_region(wanted, i)}: {shapes[i, 1]} x {shapes[i, 0]} at scale "
            f"{wanted.scale:.3g}"
            for i in small[:SHOWN]
        ]
        more = f"\n  and {len(small) - SHOWN:,} more" if len(small) > SHOWN else ""
        raise UserError(
            f"no score: {len(small):,} images of {manifest.name} are too small for {network.config.backbone} at that scale, so "
            "they have no descriptor; give scales=single, crop=false where boxes are small, a larger images.size, or leave these "
            "images out:\n  " + "\n  ".join(lines) + more
        )


def least_side(network: RetrievalNet, sides: Iterable[int]) -> int:
    """The least of some rising sides (pixels) of which the backbone makes a feature; `ENOUGH` where it is none of them."""
    with in_evaluation_mode(network), torch.inference_mode():
        return next((side for side in sides if _has_features(network, side)), ENOUGH)


def _has_features(network: RetrievalNet, side: int) -> bool:
    try:
        return network.features(torch.zeros(1, 3, side, side, device=next(network.parameters()).device)).numel() > 0
    except (RuntimeError, ValueError):  # what kernels and pooling say of maps that are smaller than they are
        return False


def _region(wanted: Descriptors, i: int) -> str:
    if wanted.boxes is None:
        return f"{wanted.manifest.width[wanted.ids[i]]} x {wanted.manifest.height[wanted.ids[i]]} pixels"
    x0, y0, x1, y1 = wanted.boxes[i]
    return f"box of {x1 - x0:g} x {y1 - y0:g} pixels"
