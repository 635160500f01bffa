"""Where the descriptors of a rank stand: one row per image, in the order of the ids, whenever they arrive.

Letters: n images, b images of a group, D dimensions.
"""

import numpy as np
import torch
from torch import Tensor

from largescale.mining.search.select import usable

_ROWS = 2**15


class EmbeddingBuffer:
    """Room for the descriptors of some images, made once, so that memory holds them once.

    Args:
        ids: `(n,)` sorted image ids.
        width: columns of a row, the first D of which are filled; None: D.
        zero: whether a descriptor of zeros is one.
    """

    def __init__(
        self,
        ids: np.ndarray,
        dim: int,
        kind: torch.dtype,
        device: torch.device,
        width: int | None = None,
        zero: bool = False,
    ) -> None:
        self.ids, self.dim, self.zero = ids, dim, zero
        self.rows = torch.zeros((len(ids), width or dim), dtype=kind, device=device)
        """`(n, width)`."""
        self._filled = np.zeros(len(ids), bool)

    def put(self, ids: np.ndarray, descriptors: Tensor) -> None:
        """Store `(b, D)` descriptors; images that have no place here are left out."""
        places = np.searchsorted(self.ids, ids)
        found = np.flatnonzero(np.append(self.ids, -1)[places] == ids)
        self._filled[places[found]] = True
        self.rows[torch.from_numpy(places[found]), : self.dim] = descriptors[torch.from_numpy(found)].to(self.rows)

    def close_up(self) -> np.ndarray:
        """Drop the images without a descriptor, and those whose descriptor is not usable; returns the ids of the latter."""
        usable_rows = [usable(part[:, : self.dim], self.zero).cpu() for part in self.rows.split(_ROWS)]
        good = torch.cat(usable_rows).numpy() & self._filled
        unusable, kept = self.ids[self._filled & ~good], np.flatnonzero(good)
        if len(kept) < len(self.ids):
            for start in range(0, len(kept), _ROWS):  # rows move towards the front only, so they can move in place
                part = torch.from_numpy(kept[start : start + _ROWS])
                self.rows[start : start + len(part)] = self.rows[part]
        self.ids, self.rows, self._filled = self.ids[kept], self.rows[: len(kept)], self._filled[kept]
        return unusable

    def take(self, ids: np.ndarray) -> Tensor:
        """`(b,)` ids that are on the buffer -> `(b, D)`."""
        return self.rows[torch.from_numpy(np.searchsorted(self.ids, ids))]
