"""A frozen network that orders the negatives of a tuple (LRML §4.1.3). T tuples of a rank, N negatives, D dimensions."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from largescale.commit import array_fault, read_array, write_array
from largescale.corpus.batches.batches import Step
from largescale.corpus.corpus import Corpus
from largescale.describing.model import load
from largescale.distributed import World
from largescale.evaluation.descriptors.store import WAIT_S
from largescale.evaluation.protocol.relevance import GalleryRows
from largescale.evaluation.search.expansion import combine
from largescale.evaluation.search.neighbors import nearest
from largescale.losses.tuples.lrml import Ranking, sequence
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

    def prepare(self, queries: np.ndarray) -> None:
        """Before an epoch with these queries."""

    @torch.no_grad()
    def distances(self, images: Step, tuples: int) -> Tensor:
        """`(T, N)` from each query to its negatives."""
        rows = torch.cat([self._describe(group) for group in images.groups])
        x = rows[torch.cat(images.places).argsort().to(self.device)].unflatten(0, (tuples, -1))  # (T, 2 + N, D)
        return sequence(x[:, 0], x[:, 2:], self.ranking)

    def _describe(self, group: Tensor) -> Tensor:
        with autocast(self.precision, self.device):
            return self.network(self.network.contract.normalize(group.to(self.device, non_blocking=True))).float()


class PublishedTeacher:
    """A model with all that belongs to its descriptors, as the paper has it: learned whitening, and average query expansion.

    It describes the whole corpus once, into `store`; what is there is not described again. The images of a step are not run
    through it: their descriptors are looked up, without augmentation.

    Args:
        folder: a model folder.
        neighbors: nearest images of the corpus that are added to a query; 0: none.

    Raises:
        UserError: no model folder.
    """

    def __init__(
        self, folder: Path, neighbors: int, ranking: Ranking, world: World, corpus: Corpus, store: Path, precision: Resolved
    ) -> None:
        model = load(folder, world.device)
        self.model = model.computing_in(precision) if model.settings.precision == "auto" else model
        self.neighbors, self.ranking = neighbors, ranking
        rows = f"{corpus.manifest.fingerprint}-{model.digest[:16]}-{self.model.precision}"
        self.world, self.corpus, self.store = world, corpus, store / rows
        self._rows: np.ndarray | None = None
        self._asked: dict[int, int] = {}
        self._expanded = np.empty((0, self.model.dim), np.float32)

    def prepare(self, queries: np.ndarray) -> None:
        """Before an epoch with these queries: describe the corpus, unless that is done, and expand the queries."""
        rows = self._described()
        known = np.isfinite(rows).all(1)
        gallery = GalleryRows([np.where(known[:, None], rows, 0)], np.where(known, 0, -1).astype(np.int8))
        asked = np.unique(queries)
        own = gallery.take(asked)
        near = nearest(own, gallery, self.neighbors, asked)[0] if self.neighbors else np.empty((len(asked), 0), np.int64)
        self._expanded = combine(own, gallery, near, alpha=0.0)
        self._asked = {int(query): place for place, query in enumerate(asked)}

    def distances(self, images: Step, tuples: int) -> Tensor:
        """`(T, N)` from each query to its negatives; an image without a descriptor is as far as can be."""
        queries, used = images.ids.reshape(tuples, -1)[:, 0], images.used.reshape(tuples, -1)
        asked = self._expanded[[self._asked[int(query)] for query in queries]]
        negatives = torch.from_numpy(self._described()[used[:, 2:]])
        return sequence(torch.from_numpy(asked), negatives, self.ranking).nan_to_num(2.0).to(self.world.device)

    def _described(self) -> np.ndarray:
        """`(images, D)` of the whole corpus; NaN for images without a descriptor."""
        if self._rows is None:
            files = list(self._files())
            missing = self.world.decide(
                lambda: [number for number, file in enumerate(files) if not file.exists() or array_fault(file)]
            )
            for number in missing[self.world.share(len(missing))]:
                write_array(files[number], self._shard(number))
            self.world.barrier(WAIT_S)
            self._rows = np.concatenate([read_array(file) for file in files])
        return self._rows

    def _files(self) -> Iterator[Path]:
        return (self.store / f"shard-{number:05d}.npy" for number in range(len(self.corpus.manifest.shards)))

    def _shard(self, number: int) -> np.ndarray:
        start, stop = self.corpus.manifest.shard_start[number : number + 2]
        rows = np.full((stop - start, self.model.dim), np.nan, np.float32)
        for group in self.model.describe(self.corpus, np.arange(start, stop)):
            rows[group.ids - start] = group.rows
        return rows
