"""Looks for runs that go wrong while they seem to run: descriptors that collapse, gradients that explode, classes never drawn.

B images of a step, D dimensions.
"""

import logging
import math
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from largescale.losses.labels.base import same_and_different, unit_rows
from largescale.training.callbacks.base import Callback

if TYPE_CHECKING:
    from largescale.corpus.loading import Step
    from largescale.training.progress import Outcome
    from largescale.training.settings.recipe import TroubleConfig

LOOKED_AT = 256
"""Images of a step that are looked at, at most."""
PATIENCE = 10
"""Steps in a row that must look collapsed."""
SPREAD, FALL = 0.05, 3.0
"""A collapse: the mean similarity is above 1 - SPREAD, and its distance to 1 has fallen by FALL since the first step."""
TIED, MOSTLY = 0.01, 0.5
"""Difference of distances below which a triplet teaches nothing about which is nearer. Where labels are known, so many of the
hardest triplets are such in a collapse, or descriptors are left with few of their dimensions: losses with a small margin draw
descriptors together and still tell them apart."""
FLAT = 4.0
"""Where labels are known, a collapse: the effective rank has fallen by so much since the first step. In trainings that collapsed
it fell by 4 to 10, in one that learned while everything drew together by 2 (docs/results/default-recipe.md)."""
HISTORY, LEAST, EXPLOSIONS, TIMES = 100, 20, 5, 10.0
"""Gradients: so many steps are remembered, and judged from so many on, of which so many are so many times larger than their
median."""
UNSEEN, ROOM = 0.05, 3
"""Share of classes that may be without an image after EPOCHS in which there was ROOM for each of them, so many times."""
EPOCHS = 3


class Trouble(Callback):
    """Each kind of trouble is named once, in the log and on the console, with what to do; a collapse may end the run."""

    def __init__(self, config: "TroubleConfig") -> None:
        self.config = config
        self.first_spread: float | None = None
        self.first_rank = 0.0
        self.collapsed = 0
        self.norms: deque[float] = deque(maxlen=HISTORY)
        self.said: list[str] = []
        self.drawn: set[int] = set()

    @property
    def has_collapsed(self) -> bool:
        """The descriptors of the last steps look so."""
        return self.collapsed >= PATIENCE

    def start(self) -> None:
        if self.has_collapsed:
            self._heed_collapse()

    def votes(self, images: "Step") -> Mapping[str, float]:
        module, size = self.trainer.engine.module, self.trainer.world.size
        if module.seen is None:
            return {"similarity": math.nan, "tied": math.nan, "rank": math.nan}
        x = unit_rows(module.seen[:LOOKED_AT].float())
        similarity, tied, rank = mean_similarity(x), math.nan, math.nan
        if module.seen_labels is not None:
            tied = share_tied(x, module.seen_labels[:LOOKED_AT])
            rank = effective_rank(x) if self.first_spread is None or self._fallen(1 - similarity) else math.nan
        return {"similarity": similarity / size, "tied": tied / size, "rank": rank / size}

    def after_step(self, images: "Step", outcome: "Outcome") -> None:
        trainer, similarity, tied = self.trainer, outcome.votes["similarity"], outcome.votes["tied"]
        self._see_classes()
        if outcome.update.skipped or not math.isfinite(similarity):
            return
        trainer.tracker.record("train/mean_similarity", similarity)
        if math.isfinite(tied):
            trainer.tracker.record("train/triplets_at_margin", tied)
        self._look_for_collapse(1 - similarity, tied, outcome.votes["rank"])
        self.norms.append(outcome.update.norm)
        if trainer.progress.step > trainer.config.schedule.warmup_steps:  # before, gradients change with the rate
            self._look_for_explosion()

    def before_line(self) -> None:
        seen = self.trainer.engine.module.seen
        if seen is not None and bool(seen.isfinite().all()):
            self.trainer.tracker.record("train/effective_rank", effective_rank(unit_rows(seen[:LOOKED_AT].float())))

    def _fallen(self, spread: float) -> bool:
        return self.first_spread is not None and spread < min(SPREAD, self.first_spread / FALL)

    def _look_for_collapse(self, spread: float, tied: float, rank: float) -> None:
        if self.first_spread is None:
            self.first_spread, self.first_rank = spread, rank if math.isfinite(rank) else 0.0
        flat = rank < self.first_rank / FLAT
        self.collapsed = self.collapsed + 1 if self._fallen(spread) and (flat or not tied < MOSTLY) else 0
        if self.has_collapsed:
            margin = f", {tied:.0%} of its hardest triplets stand at the margin" if math.isfinite(tied) else ""
            margin += f", and they differ in {rank:.1f} dimensions ({self.first_rank:.1f} at first)" if flat else ""
            self.say(
                "collapse",
                f"descriptors have collapsed: the mean similarity of a step's images is {1 - spread:.3f} since step "
                f"{self._since} ({1 - self.first_spread:.3f} at first){margin}. What is learned from here on is of little "
                f"use{self._remedy}",
            )
            self._heed_collapse()

    def _heed_collapse(self) -> None:
        if self.config.on_collapse == "stop":
            self.trainer.fail(
                "the collapse of its descriptors",
                f"the descriptors of {self.trainer.config.directory} have collapsed since step {self._since}, and the run has "
                f"ended, its state saved (trouble.on_collapse=stop){self._remedy}, under another name; "
                "trouble.on_collapse=warn goes on with it",
            )

    @property
    def _since(self) -> int:
        """The first of the steps that look collapsed."""
        return self.trainer.progress.step - self.collapsed + 1

    @property
    def _remedy(self) -> str:
        """Where the rate grows by itself, there is no lower one to name."""
        optim, schedule = self.trainer.config.optim, self.trainer.config.schedule
        if schedule.name == "range":
            return ""
        return f": begin again with a lower rate (optim.lr={optim.lr / 3:.1e}) or with loss.name=roadmap"

    def _look_for_explosion(self) -> None:
        norm, median = self.norms[-1], float(np.median(self.norms))
        large = sum(value > TIMES * median for value in self.norms)
        if len(self.norms) >= LEAST and large >= EXPLOSIONS and norm > TIMES * median:
            self.say(
                "gradient",
                f"the norm of the gradient is {norm:.3g}, and was more than {TIMES:.0f} times its median ({median:.3g}) at "
                f"{large} of the last {len(self.norms)} steps: set engine.max_grad_norm={3 * median:.2g}, or lower optim.lr",
            )

    def _see_classes(self) -> None:
        labels = self.trainer.engine.module.seen_labels
        if labels is not None:
            self.drawn.update(labels.unique().tolist())

    def at_epoch_boundary(self) -> None:
        trainer = self.trainer
        batches = trainer.config.batches
        if batches is None or trainer.progress.epoch != min(EPOCHS, trainer.config.epochs):
            return
        label = trainer.corpus.manifest.label
        classes, counts = np.unique(label[label >= 0], return_counts=True)
        unseen = np.setdiff1d(classes, sorted(self.drawn))
        room = trainer.progress.step * batches.classes_per_batch
        if len(unseen) > UNSEEN * len(classes) and room >= ROOM * len(classes):
            single = int((counts[np.isin(classes, unseen)] < 2).sum())
            names = ", ".join(trainer.corpus.manifest.label_names[c].as_py() for c in unseen[:3].tolist())
            self.say(
                "classes never drawn",
                f"{len(unseen):,} of {len(classes):,} classes were in no batch of {trainer.progress.epoch} epochs "
                f"({names}, ...): "
                f"{single:,} of them have a single image, which no pair can be made of; the others need more batches "
                "(batches.per_epoch, epochs), or batches.balance=labels",
            )

    def say(self, name: str, text: str) -> None:
        """Once for each name."""
        if name in self.said:
            return
        self.said.append(name)
        self.trainer.log({f"trouble/{name}": text})
        if self.trainer.world.is_first:
            logging.getLogger(__name__).warning("%s: %s", name, text)

    def state(self) -> dict[str, Any]:
        return {
            "first_spread": self.first_spread,
            "first_rank": self.first_rank,
            "collapsed": self.collapsed,
            "norms": list(self.norms),
            "said": self.said,
            "drawn": sorted(self.drawn),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.first_spread, self.first_rank, self.collapsed = (state[name] for name in ("first_spread", "first_rank", "collapsed"))
        self.norms.extend(state["norms"])
        self.said, self.drawn = list(state["said"]), set(state["drawn"])


def mean_similarity(x: Tensor) -> float:
    """Of pairs of different rows `(B, D)`, unit vectors."""
    count = len(x)
    return float((x.sum(0).square().sum() - x.square().sum()) / max(count * (count - 1), 1))


def effective_rank(x: Tensor) -> float:
    """How many dimensions rows `(B, D)` spread over: e to the entropy of the shares of their variance (Roy 2007)."""
    values = torch.linalg.svdvals((x - x.mean(0)).cpu()).square()
    shares = values / values.sum().clamp(min=1e-30)
    return float((-(shares * shares.clamp(min=1e-30).log()).sum()).exp())


def share_tied(x: Tensor, labels: Tensor) -> float:
    """Share of images of which the farthest match and the nearest other are equally far: a triplet loss stands at its margin."""
    same, different = same_and_different(labels, None)
    distances = torch.cdist(x, x)
    farthest = distances.masked_fill(~same, -torch.inf).amax(1)
    nearest = distances.masked_fill(~different, torch.inf).amin(1)
    usable = same.any(1) & different.any(1)
    return float((((farthest - nearest).abs() < TIED) & usable).sum() / usable.sum().clamp(min=1))
