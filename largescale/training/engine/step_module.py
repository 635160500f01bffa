"""The network and its loss as one module: a rank's part of a step goes in, its part of the objective comes out.

R ranks, T tuples of a rank, N negatives, K stored negatives, M stored descriptors, B images, D dimensions.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from largescale.corpus.batches.batches import Step
from largescale.distributed import World, gather_with_gradient
from largescale.losses.build import Objective
from largescale.models.backbones.contract import Contract
from largescale.models.backbones.stochastic_depth import drawn_for
from largescale.precision import Resolved, autocast
from largescale.training.engine.batch_statistics import BATCH_NORM, learning_layers, run_together
from largescale.training.engine.optim import ONE_LAYER, Layers


@dataclass(frozen=True)
class Batch:
    """What one forward and backward pass of a rank sees."""

    groups: tuple[Tensor, ...]
    """uint8 `(b, 3, h, w)`, each of one shape."""
    places: tuple[Tensor, ...]
    """int64 `(b,)`: the row of each image in the order of the plan."""
    ids: tuple[Tensor, ...]
    """int64 `(b,)`, always on the CPU: the number of each image in the corpus, by which stochastic depth draws."""
    seed: int
    """Of the random numbers in this step; the same on every rank."""
    tuples: int = 0
    """Tuples in this batch."""
    total: int = 0
    """Tuples in the whole step, over all ranks and parts."""
    extra: Mapping[str, Tensor] = field(default_factory=dict)
    """What else the loss is told of the tuples, `(tuples, ...)` each."""
    first: int = 0
    """Place of the first tuple of this batch in the step."""
    classes: Tensor | None = None
    """int64 `(total, 2 + N)`: the clusters of the images of the whole step, for losses that compare with other tuples."""
    stored: Tensor | None = None
    """`(M, D)` descriptors, where tuples have further negatives than their images."""
    further: Tensor | None = None
    """int64 `(tuples, K)`: rows of `stored` that are further negatives of each tuple."""
    labels: Tensor | None = None
    """int64 `(B,)` of the whole step, over all ranks in the order of ranks; None when the loss works on tuples."""
    passes: int = 0
    """How often the network runs at least; where there are fewer groups, an image is repeated without any effect."""
    known: Tensor | None = None
    """`(B_r, D)` in the order of the plan: descriptors of the images of this rank that are not in this batch."""
    pull: Tensor | None = None
    """`(b, D)`, where the loss has run already: the gradient of the step with respect to these images' descriptors."""
    describe: bool = False
    """The descriptors are asked for, not the objective."""

    @staticmethod
    def of_tuples(images: Step, tuples: int, total: int, seed: int, extra: Mapping[str, Tensor] | None = None) -> "Batch":
        return Batch(*_images(images), seed, tuples=tuples, total=total, extra=extra or {})

    @staticmethod
    def of_labels(images: Step, labels: Tensor, seed: int) -> "Batch":
        return Batch(*_images(images), seed, labels=labels)

    def split(self, parts: int) -> list["Batch"]:
        """The same tuples in `parts` batches; their gradients add up to that of the whole."""
        if parts == 1:
            return [self]
        width = len(self) // self.tuples
        edges = [self.tuples * part // parts for part in range(parts + 1)]
        return [self._tuples(low, high, width) for low, high in itertools.pairwise(edges)]

    def _tuples(self, low: int, high: int, width: int) -> "Batch":
        inside = [(places >= low * width) & (places < high * width) for places in self.places]
        chosen = [index for index, mask in enumerate(inside) if mask.any()]
        groups = tuple(self.groups[index][inside[index]] for index in chosen)
        places = tuple(self.places[index][inside[index]] - low * width for index in chosen)
        ids = tuple(self.ids[index][inside[index]] for index in chosen)
        extra = {name: values[low:high] for name, values in self.extra.items()}
        further = None if self.further is None else self.further[low:high]
        return replace(self, groups=groups, places=places, ids=ids, tuples=high - low, extra=extra, further=further)

    def chunks(self, count: int) -> list["Batch"]:
        """The same images in `count` batches of nearly equal size, each with random numbers of its own."""
        edges = [len(self) * part // count for part in range(count + 1)]
        return [self._chunk(part, low, high) for part, (low, high) in enumerate(itertools.pairwise(edges))]

    def _chunk(self, part: int, low: int, high: int) -> "Batch":
        starts = itertools.accumulate((len(group) for group in self.groups), initial=0)
        inside = [slice(max(low - start, 0), max(high - start, 0)) for start, _ in zip(starts, self.groups, strict=False)]
        every = zip(self.groups, self.places, self.ids, inside, strict=True)
        cut = [(group[own], places[own], ids[own]) for group, places, ids, own in every]
        # without an image of its own, a chunk has one without a place: the network runs, to no effect
        cut = [parts for parts in cut if len(parts[0])] or [(self.groups[0][:1], self.places[0][:0], self.ids[0][:1])]
        groups, places, ids = zip(*cut, strict=True)
        return replace(self, groups=groups, places=places, ids=ids, seed=self.seed + (part << 32))

    def __len__(self) -> int:
        """Images of this rank."""
        return sum(len(places) for places in self.places)

    @property
    def rows(self) -> Tensor:
        """The places of the images in the order in which they are embedded."""
        return torch.cat(self.places).sort().values

    def to(self, device: torch.device) -> "Batch":
        groups, places = self._moved(self.groups, device), self._moved(self.places, device)
        labels, classes = (None if x is None else x.to(device, non_blocking=True) for x in (self.labels, self.classes))
        return replace(self, groups=groups, places=places, labels=labels, classes=classes)

    @staticmethod
    def _moved(tensors: Sequence[Tensor], device: torch.device) -> tuple[Tensor, ...]:
        return tuple(tensor.to(device, non_blocking=True) for tensor in tensors)


def _images(images: Step) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], tuple[Tensor, ...]]:
    ids = torch.from_numpy(images.ids)
    return tuple(images.groups), tuple(images.places), tuple(ids[places] for places in images.places)


class StepModule(nn.Module):
    """The objective of a step is the mean over ranks of what each rank's `forward` returns.

    So averaging gradients over ranks, as DDP and DeepSpeed do, gives the gradient of the whole step for every number of
    ranks and every split into shares.
    """

    def __init__(
        self, net: nn.Module, loss: Objective, world: World, precision: Resolved = "fp32", layers: Layers = ONE_LAYER
    ) -> None:
        super().__init__()
        self.net, self.contract = net, cast(Contract, net.contract)
        self.loss, self.layers = loss, layers
        self.world = world
        self.precision = precision
        self.seen: Tensor | None = None
        """`(B, D)` the descriptors that the last loss was of."""
        self.seen_labels: Tensor | None = None
        """`(B,)` their labels; None: they are of tuples."""

    def hold_statistics(self, updates: int) -> None:
        """Batch normalization of layers that learn later keeps its running statistics until then.

        Args:
            updates: of the weights so far.
        """
        if self.layers.first_update:
            self.train()
            for name, layer in self.named_modules():
                if isinstance(layer, BATCH_NORM) and self.layers.starts(f"{name}.weight") > updates:
                    layer.eval()

    def forward(self, batch: Batch) -> Tensor:
        """This rank's part of the objective; of a batch with a `pull`, a product whose gradient is that of the objective.

        With `describe`, descriptors `(B_r, D)`.
        """
        x = self.embed(batch)  # (B_r, D)
        if batch.describe:
            return x
        if batch.pull is not None:
            return (x * batch.pull).sum()
        if batch.known is not None:
            x = batch.known.index_copy(0, batch.rows, x)
        if batch.labels is None:
            self.seen, self.seen_labels = x.detach(), None
            return self._tuple_objective(x, batch)
        everyone = gather_with_gradient(x)  # (B, D)
        self.seen, self.seen_labels = everyone.detach(), batch.labels
        # a loss that draws samples draws the same on every rank
        self._draw_from(batch.seed)
        return self.loss(everyone, batch.labels)

    def embed(self, batch: Batch) -> Tensor:
        """Descriptors `(B_r, D)` in fp32, in the order of the plan; again the same, where layers draw random numbers."""
        self._draw_from(batch.seed + self.world.rank)
        groups = list(zip(batch.groups, batch.ids, strict=True))
        repeated = [(batch.groups[0][:1], batch.ids[0][:1])] * (batch.passes - len(groups))
        learning = learning_layers(self.net)
        runs = [partial(self._run, *group, batch.seed % 2**32) for group in (groups if learning else groups + repeated)]
        rows = run_together(runs, learning, self.world.device) if learning else [run() for run in runs]
        return torch.cat(rows)[torch.cat(batch.places).argsort()]

    def _draw_from(self, seed: int) -> None:
        """`torch.manual_seed` of this rank's devices: for any other that a build knows, it writes down a stack at each call."""
        torch.default_generator.manual_seed(seed)
        if self.world.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def _run(self, images: Tensor, ids: Tensor, seed: int) -> Tensor:
        with drawn_for(self.net, ids, seed), autocast(self.precision, self.world.device):
            return self.net(self.contract.normalize(images)).float()

    def _others(self, x: Tensor, batch: Batch) -> dict[str, Tensor]:
        """The images of the whole step, `(M, D)`, and which of them are negatives of each tuple, `(T, M)`."""
        assert batch.classes is not None
        others, classes = gather_with_gradient(x.flatten(0, 1)), batch.classes.flatten()
        own = batch.classes[batch.first :][: batch.tuples, :2, None]  # of query and positive, (T, 2, 1)
        tuple_of = torch.arange(len(classes), device=x.device) // batch.classes.shape[1]
        apart = tuple_of != batch.first + torch.arange(batch.tuples, device=x.device)[:, None]
        return {"others": others, "allowed": apart & (own != classes).all(1)}

    def _tuple_objective(self, x: Tensor, batch: Batch) -> Tensor:
        x = x.reshape(batch.tuples, -1, x.shape[-1])  # (T, 2 + N, D)
        negatives = x[:, 2:]
        if batch.stored is not None:
            negatives = torch.cat([negatives, batch.stored[batch.further].to(x)], 1)  # (T, N + K, D)
        further = self._others(x, batch) if batch.classes is not None else {}
        loss = self.loss(x[:, 0], x[:, 1], negatives, **batch.extra, **further)
        part = batch.tuples / batch.total if self.loss.reduction == "mean" else 1.0
        return self.world.size * part * loss
