"""Rows that follow from stored ones, kept beside them: pooled over scales, whitened, augmented, lists of neighbors.

Each part is computed once, by one rank, on one thread, so that its bits do not depend on the world; several run side by side.

n rows of a part, S scales, D dimensions, d kept dimensions
"""

import hashlib
import json
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np

from largescale.commit import array_fault, write_array
from largescale.cpu import one_thread, own_cores, single_threads
from largescale.distributed import World
from largescale.evaluation.descriptors.store import WAIT_S
from largescale.evaluation.protocol.relevance import GalleryRows


def digest_of(*values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def derive(directory: Path, parts: int, compute: Callable[[int], np.ndarray], world: World) -> list[np.ndarray]:
    """The parts of `directory`, memory-mapped; the ranks share those that are not there yet."""
    files = [directory / f"part-{part:05d}.npy" for part in range(parts)]

    def make(part: int) -> None:
        write_array(files[part], compute(part))

    missing = world.decide(lambda: [part for part, file in enumerate(files) if not file.exists() or array_fault(file)])
    with one_thread(), single_threads(own_cores()) as pool:
        list(pool.map(make, missing[world.share(len(missing))]))
    world.barrier(WAIT_S)
    return [np.load(file, mmap_mode="c") for file in files]


def readable(path: Path, names: Collection[str]) -> bool:
    """Whether there is an archive (.npz) of these arrays, each of which is what was written: they carry checksums."""
    try:
        with np.load(path) as file:
            return set(file) == set(names) and all(file[name] is not None for name in names)
    except Exception:  # a damaged archive may raise anything
        return False


def gallery_parts(directory: Path, gallery: GalleryRows, compute: Callable[[np.ndarray, slice], np.ndarray], world: World) -> Any:
    """`compute(rows, their numbers)` for each part of a gallery."""
    start = np.cumsum([0, *map(len, gallery.parts)])

    def of_part(part: int) -> np.ndarray:
        return compute(gallery.parts[part].astype(np.float32), slice(int(start[part]), int(start[part + 1])))

    return derive(directory, len(gallery.parts), of_part, world)
