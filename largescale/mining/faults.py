"""Images that a mining pass could not use."""

import numpy as np

from largescale.corpus.batches.batches import BadImage
from largescale.corpus.config import BadImagesConfig
from largescale.corpus.manifest import Manifest
from largescale.distributed import World
from largescale.settings import UserError


def without_descriptor(manifest: Manifest, ids: np.ndarray) -> list[BadImage]:
    """Images that were decoded, but whose descriptor is not usable."""
    keys, shards = manifest.keys.take(ids).to_pylist(), manifest.shard[ids].tolist()
    reason = "its descriptor is not finite or has no length"
    return [BadImage(key, manifest.shards[shard].name, reason) for key, shard in zip(keys, shards, strict=True)]


def within_budget(world: World, config: BadImagesConfig, faults: list[BadImage], images: int) -> list[BadImage]:
    """The faults of all ranks, if they are few enough to go on.

    Raises:
        UserError: more of the `images` of the pass than the budget allows.
    """
    everywhere = [fault for part in world.gather(faults) for fault in part]
    allowed = int(config.budget * images)
    if len(everywhere) > allowed:
        first = everywhere[0]
        raise UserError(
            f"{len(everywhere):,} of {images:,} images could not be mined, the first is {first.key} in {first.shard} "
            f"({first.error}); bad_images.budget={config.budget} allows {allowed:,}, so the run stops: repair the corpus "
            "(`make verify-shards` lists its faults), or look at the weights if descriptors are at fault"
        )
    return everywhere
