"""Images, or boxes of queries, that are too small for a network at some scale: found before any image is embedded."""

from collections.abc import Sequence

import numpy as np

from largescale.corpus.config import ImagesConfig
from largescale.corpus.images import target_shapes
from largescale.evaluation.descriptors.store import Descriptors
from largescale.models.modes import in_evaluation_mode
from largescale.models.network import RetrievalNet
from largescale.models.sizes import least_side
from largescale.settings import UserError

SHOWN = 20
"""Faults that are listed."""


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
    with in_evaluation_mode(network):
        least = least_side(network, sides.tolist())
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


def _region(wanted: Descriptors, i: int) -> str:
    if wanted.boxes is None:
        return f"{wanted.manifest.width[wanted.ids[i]]} x {wanted.manifest.height[wanted.ids[i]]} pixels"
    x0, y0, x1, y1 = wanted.boxes[i]
    return f"box of {x1 - x0:g} x {y1 - y0:g} pixels"
