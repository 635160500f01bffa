"""Scores some training images before the first step and a few times after it: a run worse than no training should say so.

n images, D dimensions.
"""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from largescale.embedding import Embedder, gather_by_id
from largescale.program.cli import for_torchrun
from largescale.training.callbacks.base import Callback
from largescale.training.callbacks.health.trouble import Trouble

if TYPE_CHECKING:
    from largescale.corpus.loading import Step
    from largescale.training.progress import Outcome

AT_ONCE = 64
PER_LABEL = 8
LOOKS = (0.05, 0.1, 0.25, 0.5)
"""Shares of the run after which they are scored again. The first alone would tell many that do well later, as losses whose
proxies are still random: what was worse then is said at the second, where it has not risen since."""
ERRORS = 3.0
"""Standard errors by which the score must be lower, query by query."""
EARLY_LOSS = 0.2
"""Share of its first value that the score must have lost before the last look: of runs that lost an eighth by a quarter of their
steps some end above their start, of those that lost a quarter by then none did (docs/results/default-recipe.md)."""


class QuickScore(Callback):
    """`eval/quick/*`: recall at 1 and mAP@R among some images of some labels, as they are, each leaving itself out."""

    def __init__(self, trouble: Trouble) -> None:
        self.trouble = trouble
        self.before: list[float] | None = None
        self.last = -math.inf
        """mAP@R at the last look; nothing is said at the first one."""

    def at_epoch_boundary(self) -> None:
        if self.trainer.progress.step == 0 and self.trouble.config.quick_images and not self.trainer.stopping:
            self.before = self._score()

    def after_step(self, images: "Step", outcome: "Outcome") -> None:
        trainer = self.trainer
        if self.before is None or trainer.progress.step not in {math.ceil(share * trainer.total_steps) for share in LOOKS}:
            return
        after = self._score()
        if after is not None:
            self._compare(np.array(self.before), np.array(after))

    def _compare(self, before: np.ndarray, after: np.ndarray) -> None:
        trainer = self.trainer
        early = trainer.progress.step < LOOKS[-1] * trainer.total_steps
        if self.is_worse(before, after, early) and trainer.progress.step > trainer.config.schedule.warmup_steps:
            self.trouble.say(
                "worse than before training",
                f"mAP@R of {len(before)} training images was {before.mean():.2%} before training and is {after.mean():.2%} after "
                f"step {trainer.progress.step}: lower optim.lr (now {trainer.config.optim.lr:.1e}), lengthen "
                f"schedule.warmup_steps, or take loss.name=roadmap; torchrun {for_torchrun('rates')} finds a rate",
            )

    def is_worse(self, before: np.ndarray, after: np.ndarray, early: bool) -> bool:
        """Whether the queries' scores `(n,)` at one more look are lower than before training, and no higher than at the last.

        Args:
            early: it is not the last look, so that a fifth must be lost.
        """
        change, earlier = after - before, self.last
        self.last = float(after.mean())
        lost = max(ERRORS * change.std() / math.sqrt(len(change)), EARLY_LOSS * before.mean() if early else 0.0)
        return bool(-change.mean() > lost and self.last <= earlier)

    def _score(self) -> list[float] | None:
        """mAP@R of each query; None after a stop signal, or where no label has two images."""
        trainer, world = self.trainer, self.trainer.world
        label = trainer.corpus.manifest.label
        ids = chosen(label, self.trouble.config.quick_images)
        if not len(ids):
            return None
        config = trainer.config
        embedder = Embedder.in_world(world, config.images, AT_ONCE, config.loader, config.precision)
        own = embedder.embed(trainer.evaluated_model(), trainer.corpus, ids)
        found, rows = gather_by_id(own, world)
        recall, precision = leave_one_out(torch.from_numpy(rows), torch.from_numpy(label[found]))
        trainer.log({"eval/quick/recall_at_1": float(recall.mean()), "eval/quick/map_at_r": float(precision.mean())})
        return precision.tolist()

    def state(self) -> dict[str, Any]:
        return {"before": self.before, "last": self.last}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.before, self.last = state["before"], state["last"]


def chosen(label: np.ndarray, images: int) -> np.ndarray:
    """Sorted ids of about so many images: the first ones of labels spread over all that have two or more."""
    labels, first, counts = np.unique(label, return_index=True, return_counts=True)
    first, counts = (column[(labels >= 0) & (counts >= 2)] for column in (first, counts))
    wanted = max(2, images // PER_LABEL)
    some = np.unique(np.linspace(0, len(first) - 1, min(wanted, len(first))).astype(int))
    return np.sort(np.concatenate([np.empty(0, int), *(first[i] + np.arange(min(counts[i], PER_LABEL)) for i in some)]))


def leave_one_out(x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Descriptors `(n, D)` and labels `(n,)` -> recall at 1 and mAP@R of each image, `(n,)`, without itself."""
    x = torch.nn.functional.normalize(x.float())
    order = (x @ x.T).fill_diagonal_(-torch.inf).argsort(dim=1, descending=True)[:, :-1]
    hits = (labels[order] == labels[:, None]).float()
    positives = hits.sum(1)
    places = torch.arange(1, hits.shape[1] + 1)
    precision = hits.cumsum(1) / places * hits * (places <= positives[:, None])
    return hits[:, 0], precision.sum(1) / positives.clamp(min=1)
