"""From image ids to tensors of equal shape.

n images of a step, b images of a group, h, w pixels. Groups are views of one piece of memory, (b, h, w, 3) in memory and
(b, 3, h, w) in shape (channels last): libjpeg-turbo writes into it, and nothing is copied on the way to the consumer.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from largescale.corpus.batches.buffers import Buffers, Lent
from largescale.corpus.batches.grouping import Encoded, Most, Shape, as_completed, batches_of, by_shape
from largescale.corpus.config import ImagesConfig
from largescale.corpus.corpus import Corpus
from largescale.corpus.images import BadImageError, decode_into, random_draws, target_shapes
from largescale.settings import UserError

REPLACEMENTS = 16


@dataclass(frozen=True)
class BadImage:
    """An image that could not be used."""

    key: str
    shard: str
    error: str


@dataclass(frozen=True)
class Step:
    """The images of one step, in groups of equal shape."""

    groups: list[Tensor]
    """uint8 `(b, 3, h, w)` each, channels last."""
    places: list[Tensor]
    """int64 `(b,)` each: the position in `ids` of every row."""
    ids: np.ndarray
    """`(n,)` image ids as the plan asked for them."""
    used: np.ndarray
    """`(n,)` image ids as they were read: another image of the label where one was bad."""
    bad: list[BadImage]


@dataclass(frozen=True)
class Group:
    """Images of equal shape from a pass; none where all of a group were bad."""

    images: Tensor
    """uint8 `(b, 3, h, w)`, channels last."""
    ids: np.ndarray
    """`(b,)` image ids."""
    bad: list[BadImage]


@dataclass(frozen=True)
class Packed:
    """What travels between processes: the pixels of some groups in one piece of memory."""

    lent: Lent
    shapes: list[Shape]
    """(b, h, w) of each group."""
    order: np.ndarray
    """`(n,)` position in `used` of every row, group after group."""
    used: np.ndarray
    bad: list[BadImage]

    def step(self, pixels: Tensor, ids: np.ndarray) -> Step:
        places = torch.from_numpy(self.order).split([b for b, _, _ in self.shapes])
        return Step(groups_of(pixels, self.shapes), list(places), ids, self.used, self.bad)

    def groups(self, pixels: Tensor) -> Iterator[Group]:
        """Each group by itself; what was bad in any of them comes with the first."""
        ids = np.split(self.used, np.cumsum([b for b, _, _ in self.shapes])[:-1])
        for number, images in enumerate(groups_of(pixels, self.shapes)):
            yield Group(images, ids[number], [] if number else self.bad)


def bytes_of(shapes: list[Shape]) -> int:
    return sum(b * h * w * 3 for b, h, w in shapes)


def groups_of(pixels: Tensor, shapes: list[Shape]) -> list[Tensor]:
    """Bytes of groups, one after another -> `(b, 3, h, w)` each."""
    starts = itertools.accumulate((b * h * w * 3 for b, h, w in shapes), initial=int(pixels.storage_offset()))
    return [
        pixels.as_strided((b, 3, h, w), (h * w * 3, 1, w * 3, 3), start) for start, (b, h, w) in zip(starts, shapes, strict=False)
    ]


def rows_of(pixels: Tensor, shapes: list[Shape]) -> Iterator[np.ndarray]:
    """Bytes of groups, one after another -> (h, w, 3) of each image."""
    start, memory = 0, pixels.numpy()
    for b, h, w in shapes:
        end = start + b * h * w * 3
        yield from memory[start:end].reshape(b, h, w, 3)
        start = end


@dataclass(frozen=True)
class Decoder:
    """Decodes images of a corpus; `seed` and `epoch` are those of the augmentation."""

    corpus: Corpus
    images: ImagesConfig
    buffers: Buffers
    seed: int = 0
    epoch: int = 0

    def step(self, ids: np.ndarray) -> Packed:
        """All images of a step; a bad one is replaced by the next of its label, or of the corpus if it has none."""
        used, bad = ids.copy(), dict[int, BadImage]()
        for _ in range(REPLACEMENTS):
            order, shapes = by_shape(self.shapes(used))
            pixels, lent = self.buffers.take(bytes_of(shapes))
            ids = used[order]
            draws = random_draws(self.seed, self.epoch, ids) if self.images.augment else itertools.repeat(None, len(ids))
            images = zip(rows_of(pixels, shapes), ids.tolist(), self.corpus.each(ids), draws, strict=True)
            faults = {id: self._into(row, id, data, draws=own) for row, id, data, own in images}
            found = {id: fault for id, fault in faults.items() if fault}
            if not found:
                return Packed(lent, shapes, order, used, list(bad.values()))
            self.buffers.free(lent)
            bad |= found
            used = np.array([self.corpus.replacement(id, bad) if id in bad else id for id in used.tolist()])
        worst = next(iter(bad.values()))
        where = f"{worst.key} of {worst.shard}: {worst.error}"
        raise UserError(f"{len(bad)} images in a row are bad, the first is {where}; run make verify-shards")

    def read(self, ids: np.ndarray, boxes: np.ndarray | None, most: Most) -> Iterator[Encoded]:
        """Groups of sorted images of one shard, each as soon as the stream has brought the last of it."""
        shapes, shard = self.shapes(ids, boxes), int(self.corpus.manifest.shard[ids[0]])
        stream = (data for _, data in self.corpus.stream(shard, ids))
        for positions, data in as_completed(batches_of(shapes, most), stream):
            h, w = shapes[positions[0]].tolist()
            yield Encoded(ids[positions], (len(positions), h, w), None if boxes is None else boxes[positions], data)

    def groups(self, bundle: list[Encoded]) -> Packed:
        """Groups decoded into one piece of memory; bad images are left out."""
        pixels, lent = self.buffers.take(bytes_of([group.shape for group in bundle]))
        filled, used, bad = list[Shape](), list[int](), list[BadImage]()
        for group in bundle:
            (b, h, w), start = group.shape, bytes_of(filled)
            good, faults = self._fill(pixels[start : start + b * h * w * 3].view(b, h, w, 3).numpy(), group)
            filled.append((len(good), h, w))
            used += good
            bad += faults
        return Packed(lent, filled, np.arange(len(used)), np.array(used, np.int64), bad)

    def group(self, encoded: Encoded) -> Group:
        """A group, decoded in this thread and for it."""
        packed = self.groups([encoded])
        return next(packed.groups(self.buffers.view(packed.lent)))

    def shapes(self, ids: np.ndarray, boxes: np.ndarray | None = None) -> np.ndarray:
        """`(n, 2)` heights and widths."""
        manifest = self.corpus.manifest
        return target_shapes(manifest.width[ids], manifest.height[ids], self.images, boxes)

    def _fill(self, rows: np.ndarray, group: Encoded) -> tuple[list[int], list[BadImage]]:
        """Decode the images of a group into its first rows; the images that are there, and those that are not."""
        good, bad = list[int](), list[BadImage]()
        for i, (id, data) in enumerate(zip(group.ids.tolist(), group.data, strict=True)):
            fault = self._into(rows[len(good)], id, data, None if group.boxes is None else group.boxes[i])
            if fault:
                bad.append(fault)
            else:
                good.append(id)
        return good, bad

    def _into(
        self, out: np.ndarray, id: int, data: bytes, box: np.ndarray | None = None, draws: np.ndarray | None = None
    ) -> BadImage | None:
        manifest = self.corpus.manifest
        stored = int(manifest.width[id]), int(manifest.height[id])
        region = None if box is None else tuple(box.tolist())
        try:
            decode_into(out, data, self.images, stored, region, draws)
        except BadImageError as error:
            return BadImage(manifest.keys[id].as_py(), manifest.shards[manifest.shard[id]].name, str(error))
        return None
