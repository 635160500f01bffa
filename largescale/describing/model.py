"""A trained network at work: pictures to descriptors.

n pictures, D dimensions.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from largescale.corpus.batches.batches import BadImage
from largescale.corpus.config import ImagesConfig, LoaderConfig
from largescale.corpus.corpus import Corpus
from largescale.corpus.decoding.pictures import Picture, given
from largescale.corpus.decoding.pixels import BadImageError
from largescale.corpus.images import decode_into, target_shape, target_shapes
from largescale.embedding import Embedder
from largescale.models.sharing.folder import Contents, DescriptorConfig
from largescale.models.sharing.sources import Source, open_contents
from largescale.models.sizes import least_side
from largescale.models.transform.fused import Network, as_computed
from largescale.models.transform.multiscale import AtScales
from largescale.precision import Resolved, resolve
from largescale.program.inputs import seen_by
from largescale.settings import UserError

SHOWN = 20


class PictureRows(NamedTuple):
    """Descriptors of some pictures."""

    ids: np.ndarray
    """`(b,)`."""
    rows: np.ndarray
    """`(b, D)` float32."""
    bad: list[BadImage]
    """Pictures that have none."""


@dataclass(frozen=True)
class Model:
    """A network with all that its descriptors depend on."""

    contents: Contents
    digest: str
    """Of everything that decides a descriptor but its precision: descriptors of models with both the same may be compared."""
    precision: Resolved
    """In which numbers the network computes."""
    location: str | None = None
    """Where it was loaded from, if that has a name."""

    @property
    def settings(self) -> DescriptorConfig:
        return self.contents.settings

    @property
    def dim(self) -> int:
        return self.settings.dim

    @property
    def metric(self) -> str:
        """cosine (unit rows) or l2."""
        return self.contents.network.metric

    @property
    def device(self) -> torch.device:
        return next(self.contents.network.parameters()).device

    def computing_in(self, precision: Resolved) -> "Model":
        """The same network in these numbers.

        Raises:
            UserError: its settings ask for others.
        """
        if self.settings.precision not in ("auto", precision):
            raise UserError(
                f"the model {self.location or self.digest} computes in {self.settings.precision}, and not in {precision}"
            )
        return replace(self, precision=precision)

    @cached_property
    def images(self) -> ImagesConfig:
        return seen_by(
            self.contents.network.contract,
            ImagesConfig(size=self.settings.size, fit=self.settings.fit, interpolation=self.settings.interpolation),
        )

    def embed(
        self, pictures: Sequence[Picture], *, boxes: Sequence[Sequence[float] | None] | None = None, batch_size: int = 64
    ) -> np.ndarray:
        """Descriptors of pictures, in their order.

        Args:
            pictures: files, encoded bytes, Pillow images, uint8 arrays (h, w, 3) or (h, w), uint8 tensors (3, h, w).
            boxes: a region (x0, y0, x1, y1) in pixels of each upright picture, or None for all of it.
            batch_size: most pictures that go through the network together; a row does not depend on it.

        Returns:
            `(n, D)` float32; unit rows where the metric is cosine.

        Raises:
            UserError: no list, or pictures that cannot be used; lists them.
        """
        if isinstance(pictures, str | bytes) or not isinstance(pictures, Sequence):
            raise UserError(f"embed takes a list of pictures, found {type(pictures).__name__}: write embed([picture])")
        corpus, faults = given(pictures)
        regions = regions_of(corpus, boxes, faults)
        ids = np.array([id for id in range(len(pictures)) if id not in faults], np.int64)
        cut = None if regions is None else regions[ids]
        faults |= self.too_small(corpus, ids, cut)
        found = np.empty((len(pictures), self.dim), np.float32)
        bad = [BadImage(corpus.manifest.keys[id].as_py(), "", fault) for id, fault in sorted(faults.items())]
        for group in () if bad else self.describe(corpus, ids, boxes=cut, embedder=self.embedder(batch_size)):
            found[group.ids] = group.rows
            bad += group.bad
        if bad:
            more = f"\n  and {len(bad) - SHOWN:,} more" if len(bad) > SHOWN else ""
            lines = "\n  ".join(f"{image.key}: {image.error}" for image in bad[:SHOWN])
            raise UserError(
                f"{len(bad):,} of {len(pictures):,} pictures cannot be used, so nothing was described:\n  {lines}{more}"
            )
        return found

    def pixels(self, pictures: Sequence[Picture]) -> Iterator[np.ndarray]:
        """What the network sees of each picture, `(h, w, 3)` uint8: what an exported file of it takes.

        Raises:
            UserError: a picture that cannot be used.
        """
        corpus, faults = given(pictures)
        for id in range(len(pictures)):
            if id in faults:
                raise UserError(f"{corpus.manifest.keys[id].as_py()}: {faults[id]}")
            yield self.seen(corpus, id)

    def seen(self, corpus: Corpus, id: int) -> np.ndarray:
        """What the network sees of an image of a corpus, `(h, w, 3)` uint8.

        Raises:
            UserError: it cannot be decoded.
        """
        stored = int(corpus.manifest.width[id]), int(corpus.manifest.height[id])
        seen = np.empty((*target_shape(*stored, self.images), 3), np.uint8)
        try:
            decode_into(seen, next(corpus.each([id])), self.images, stored)
        except BadImageError as error:
            raise UserError(f"{corpus.manifest.keys[id].as_py()}: {error}") from None
        return seen

    def embedder(
        self, batch_size: int = 64, loader: LoaderConfig | None = None, should_stop: Callable[[], bool] = lambda: False
    ) -> Embedder:
        """What runs a pass of this model, of all images in this process."""
        loader = loader or LoaderConfig()
        return Embedder(self.images, batch_size, loader, self.device, self.precision, should_stop=should_stop)

    def describe(
        self,
        corpus: Corpus,
        ids: np.ndarray,
        *,
        boxes: np.ndarray | None = None,
        embedder: Embedder | None = None,
    ) -> Iterator[PictureRows]:
        """Descriptors of images of a corpus, in groups as they come.

        Args:
            ids: `(n,)` sorted image ids.
            boxes: `(n, 4)` regions (x0, y0, x1, y1) in pixels, one for each of `ids`, that are cut out first.
            embedder: how the pass is run (see `Model.embedder`).
        """
        scales, transform, network = self.settings.scales, self.contents.transform, self.at_scales
        for group in (embedder or self.embedder()).embed(network, corpus, ids, boxes=boxes):
            rows = group.descriptors.cpu().numpy().reshape(len(group.ids), len(scales), network.dim)
            yield PictureRows(group.ids, transform([*rows.swapaxes(0, 1)]), group.bad)

    @cached_property
    def at_scales(self) -> Network:
        """As passes compute it, which each of them would make of it again."""
        network, scales = self.contents.network, self.settings.scales
        return as_computed(AtScales([network] * len(scales), scales), self.precision, self.device)

    def too_small(self, corpus: Corpus, ids: np.ndarray, boxes: np.ndarray | None = None) -> dict[int, str]:
        """Of sorted image ids, those of which the network makes no feature, and why."""
        manifest, smallest = corpus.manifest, min(self.settings.scales)
        shapes = target_shapes(manifest.width[ids], manifest.height[ids], self.images, boxes)
        sides = np.floor(shapes.min(axis=1, initial=1 << 30) * smallest).astype(int)
        least = least_side(self.contents.network, sides.tolist())
        return {
            int(ids[i]): f"{shapes[i, 1]} x {shapes[i, 0]} pixels are too few for the network (scale {smallest:.3g})"
            for i in np.flatnonzero(sides < least)
        }


def regions_of(corpus: Corpus, boxes: Sequence[Sequence[float] | None] | None, faults: dict[int, str]) -> np.ndarray | None:
    """`(n, 4)` parts of pictures, all of a picture where there is no box; None without boxes. A box that is none becomes a fault.

    Raises:
        UserError: boxes for other pictures than there are.
    """
    if boxes is None:
        return None
    width, height = corpus.manifest.width, corpus.manifest.height
    if len(boxes) != len(width):
        raise UserError(f"{len(width)} pictures and {len(boxes)} boxes: give a box, or None, for each picture")
    regions = np.stack([np.zeros_like(width), np.zeros_like(width), width, height], axis=1).astype(np.float64)
    for place, box in enumerate(boxes):
        if box is not None and place not in faults:
            try:
                regions[place] = _region(box, int(width[place]), int(height[place]))
            except UserError as error:
                faults[place] = str(error)
    return regions


def _region(box: Sequence[float], width: int, height: int) -> list[float]:
    """
    Raises:
        UserError: what is no box, or not inside a picture of so many pixels.
    """
    try:
        x0, y0, x1, y1 = found = [float(side) for side in box]
    except (TypeError, ValueError):
        raise UserError(f"a box is four numbers, x0, y0, x1, y1 in pixels; found {box!r:.80}") from None
    if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
        raise UserError(f"the box {', '.join(f'{side:g}' for side in found)} is not inside its {width} x {height} pixels")
    return found


def load(source: Source, device: str | torch.device | None = None) -> Model:
    """A model, ready to describe pictures: in evaluation mode, on a GPU where there is one.

    Args:
        source: a model folder, `hub:USER/NAME`, the folder of a run, a weights file, a checkpoint of cirtorch or dirtorch, or the
            settings of a network that was trained elsewhere (see `largescale.models.sharing.sources`).

    Raises:
        UserError: no model, one of another version, a missing or altered file.
    """
    contents, digest = open_contents(source)
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    contents.network.to(device)
    return Model(contents, digest, resolve(contents.settings.precision, device), _named(source))


def _named(source: Source) -> str | None:
    if not isinstance(source, str | Path):
        return None
    return str(Path(source).resolve()) if Path(source).exists() else str(source)
