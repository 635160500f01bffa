"""A FAISS index where it is searched: on this rank's GPU where FAISS has one and can hold it, else in the memory of the node."""

import logging
from typing import Any

import numpy as np
import torch

from largescale.program.extras import faiss

MOST = 2048
"""Neighbors that FAISS gives on a GPU, and lists that it visits there."""
log = logging.getLogger(__name__)


class PlacedIndex:
    """A trained index that rows are added to, and searched in.

    Args:
        empty: the trained, empty index as bytes.
        device: of this rank.
        scratch: bytes that FAISS keeps on a GPU for its own use.
        half: rows have half precision, and so they are stored on a GPU.
    """

    def __init__(self, empty: np.ndarray, device: torch.device, scratch: int, half: bool) -> None:
        index = faiss.deserialize_index(empty)
        self.approximate = not isinstance(faiss.downcast_index(index), faiss.IndexFlat)
        lists: Any = faiss.try_extract_index_ivf(index)
        self.lists: int = lists.nlist if lists else 1
        self.probes: int = lists.nprobe if lists else 1
        self._held = to_gpu(index, device, scratch, half)
        self.index = self._held[1] if self._held else index
        self.most = MOST if self._held else None
        """Neighbors that can be asked for; None: any number."""

    def add(self, rows: np.ndarray) -> None:
        self.index.add(rows)

    def __len__(self) -> int:
        return int(self.index.ntotal)

    @property
    def deepest(self) -> int:
        return len(self) if self.most is None else min(len(self), self.most)

    def search(self, queries: np.ndarray, depth: int) -> tuple[np.ndarray, np.ndarray]:
        """`(B, K)` distances and places; place -1 for none."""
        return self.index.search(queries, depth)

    def visit_twice(self) -> bool:
        """Whether there are lists of which not all were visited."""
        most = self.lists if self.most is None else min(self.lists, self.most)
        if self.probes >= most:
            return False
        self.probes = min(2 * self.probes, most)
        space: Any = faiss.ParameterSpace() if self._held is None else faiss.GpuParameterSpace()
        space.set_index_parameter(self.index, "nprobe", self.probes)
        return True


def has_gpu(device: torch.device) -> bool:
    """Whether FAISS can hold an index there: faiss-cpu has no GPU, whatever the machine has."""
    return device.type == "cuda" and hasattr(faiss, "StandardGpuResources")


def to_gpu(index: Any, device: torch.device, scratch: int, half: bool) -> tuple[Any, Any] | None:
    """The resources and the index on the GPU of a rank; None, and a word, where it has none or cannot hold such an index."""
    if not has_gpu(device):
        return None
    resources, options = faiss.StandardGpuResources(), faiss.GpuClonerOptions()
    resources.setTempMemory(scratch)
    options.useFloat16 = half
    try:
        return resources, faiss.index_cpu_to_gpu(resources, device.index or 0, index, options)
    except RuntimeError as error:
        log.warning("the index stays in the memory of the node, a GPU cannot hold it: %s", str(error).splitlines()[0])
        return None
