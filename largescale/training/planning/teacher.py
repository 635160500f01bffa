"""A frozen network that orders the negatives of a tuple (LRML §4.1.3). T tuples of a rank, N negatives, D dimensions."""

from pathlib import Path

import torch
from torch import Tensor

from largescale.corpus.batches import Step
from largescale.distributed import World
from largescale.losses.lrml import Ranking, sequence
from largescale.models.build import load_network
from largescale.precision import Resolved, autocast


class Teacher:
    """Sees the images of a step as the network in training does, augmentation included, and learns nothing.

    Args:
        weights: the weights file of a run.

    Raises:
        UserError: there is no such file, or it is no weights file.
    """

    def __init__(self, weights: Path, ranking: Ranking, world: World, precision: Resolved) -> None:
        self.network = load_network(weights)[0].to(world.device).eval().requires_grad_(False)
        self.ranking, self.device, self.precision = ranking, world.device, precision

    @torch.no_grad()
    def distances(self, images: Step, tuples: int) -> Tensor:
        """`(T, N)` from each query to its negatives."""
        rows = torch.cat([self._describe(group) for group in images.groups])
        x = rows[torch.cat(images.places).argsort().to(self.device)].unflatten(0, (tuples, -1))  # (T, 2 + N, D)
        return sequence(x[:, 0], x[:, 2:], self.ranking)

    def _describe(self, group: Tensor) -> Tensor:
        with autocast(self.precision, self.device):
            return self.network(self.network.contract.normalize(group.to(self.device, non_blocking=True))).float()
