"""What the descriptors of a step look like: distances at the end of an epoch, the hardest tuples, the exponent of GeM.

B images of a step, b images of this rank in its last pass, T tuples, N negatives, D dimensions.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from largescale.corpus.loading import Step
from largescale.evaluation.report.strips import framed
from largescale.losses.labels.base import same_and_different
from largescale.models.pooling import GeM
from largescale.tracking import histogram
from largescale.training.callbacks.base import Callback
from largescale.training.progress import Outcome

BINS = 40
LOOKED_AT = 1024
"""Images of a step that are compared with each other, at most."""
SHOWN = 5
"""Negatives of a picture, for losses over labels."""


class Descriptors(Callback):
    """`train/positive_distances`, `train/negative_distances`: histograms over all ranks; `pictures/hardest`: of rank 0.

    Args:
        rows: tuples of the table of pictures.
    """

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def before_line(self) -> None:
        pool = getattr(self.trainer.engine.module.net, "pool", None)
        if isinstance(pool, GeM) and pool.p.numel():  # a rank may hold no part of it
            self.trainer.tracker.record("train/gem_exponent", float(pool.p.detach().double().mean()))

    def after_step(self, images: Step, outcome: Outcome) -> None:
        trainer = self.trainer
        module = trainer.engine.module
        if trainer.progress.done or outcome.update.skipped or module.seen is None:
            return
        x = module.seen.float().cpu()
        labels = None if module.seen_labels is None else module.seen_labels.cpu()
        self._count(x, labels)
        if trainer.tracker.shows_pictures and self.rows:
            trainer.tracker.table("pictures/hardest", list(self._hardest(images, x, labels)))

    def _count(self, x: Tensor, labels: Tensor | None) -> None:
        world, config = self.trainer.world, self.trainer.config
        if labels is not None:
            found = of_labels(x[:LOOKED_AT], labels[:LOOKED_AT])
            found = found if world.is_first else (found[0][:0], found[1][:0])  # every rank sees the same
        else:
            assert config.mining is not None
            positives, negatives = of_tuples(x, config.mining.negatives)
            found = positives, negatives.flatten()
        (high,) = world.max(max((float(part.max()) for part in found if len(part)), default=0.0))
        high = max(high, 2.0) if config.model.metric == "cosine" else high or 1.0
        counts = world.sum(*(float(count) for part in found for count in torch.histc(part, BINS, 0, high)))
        values = {"train/positive_distances": counts[:BINS], "train/negative_distances": counts[BINS:]}
        self.trainer.log({name: histogram(part, 0.0, high) for name, part in values.items()})

    def _hardest(self, images: Step, x: Tensor, labels: Tensor | None) -> Iterator[Mapping[str, Any]]:
        """The query, its positive and its negatives as one picture, with their distances; the hardest first."""
        mining = self.trainer.config.mining
        if labels is None:
            assert mining is not None
            rows = torch.arange(len(x)).reshape(-1, 2 + mining.negatives)
        else:
            x = x[: len(images.ids)]
            rows = tuples_of_labels(x, labels[: len(x)])
        if not len(rows) or rows.shape[1] < 3:
            return
        distances = torch.linalg.vector_norm(x[rows[:, 1:]] - x[rows[:, :1]], dim=-1)  # (T, 1 + N)
        margins = distances[:, 1:].amin(1) - distances[:, 0]
        pictures, first = _pictures(images), len(images.ids) - len(x)
        keys = self.trainer.corpus.manifest.keys
        for place in margins.argsort()[: self.rows].tolist():
            chosen, (positive, *negatives) = (rows[place] + first).tolist(), distances[place].tolist()
            yield {
                "query": keys[int(images.used[chosen[0]])].as_py(),
                "positive": positive,
                "nearest negative": min(negatives),
                "negatives": ", ".join(f"{distance:.3f}" for distance in negatives),
                "strip": framed([pictures[row] for row in chosen], ["right", *["wrong"] * len(negatives)], len(chosen)),
            }


def of_tuples(x: Tensor, negatives: int) -> tuple[Tensor, Tensor]:
    """Descriptors `(T * (2 + N), D)` -> distances of each query from its positive, `(T,)`, and from its negatives, `(T, N)`."""
    x = x.reshape(-1, 2 + negatives, x.shape[-1])
    distances = torch.linalg.vector_norm(x[:, 1:] - x[:, :1], dim=-1)
    return distances[:, 0], distances[:, 1:]


def of_labels(x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Descriptors `(B, D)` and labels `(B,)` -> the distances of all pairs that match, and of all that do not."""
    same, different = (mask.triu(1) for mask in same_and_different(labels, None))
    distances = torch.cdist(x, x)
    return distances[same], distances[different]


def tuples_of_labels(x: Tensor, labels: Tensor) -> Tensor:
    """Descriptors `(b, D)` and labels `(b,)` -> `(T, 2 + N)` rows: an image, its farthest match and its nearest others."""
    same, different = same_and_different(labels, None)
    distances = torch.cdist(x, x)
    usable = same.any(1) & different.any(1)
    farthest = distances.masked_fill(~same, -torch.inf).argmax(1)
    others = min(SHOWN, int(different.sum(1)[usable].min())) if usable.any() else 0
    nearest = distances.masked_fill(~different, torch.inf).topk(others, largest=False).indices
    return torch.cat([torch.arange(len(x))[:, None], farthest[:, None], nearest], 1)[usable]


def _pictures(images: Step) -> dict[int, Image.Image]:
    """The images of a step as the network saw them, by their row in the plan."""
    return {
        int(row): Image.fromarray(image.permute(1, 2, 0).numpy())
        for group, places in zip(images.groups, images.places, strict=True)
        for row, image in zip(places, group.cpu(), strict=True)
    }
