"""Class anchors shared among the ranks: each holds, and updates, the anchors of some classes. C classes, D dimensions."""

from collections.abc import Iterator, Mapping
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from largescale.distributed import World
from largescale.losses.class_anchor import ClassAnchorLoss, blocks
from largescale.losses.config_base import LossSettings, Objective
from largescale.losses.config_labels import ClassAnchorConfig
from largescale.training.config import OptimConfig
from largescale.training.engine.optim import build_optimizer, set_rates
from largescale.training.engine.optimizer_state import Tensors, WholeMoments, part

NAME = "loss.anchors"
BLOCK = 8192
"""Rows that are sent at a time when all anchors are collected."""


class Ranks:
    """The ranks as holders of rows that lie as `World.share` cuts them."""

    def __init__(self, world: World, count: int) -> None:
        self.world, self.count = world, count
        self.own = world.share(count)
        self.first = self.own.start

    def of_labels(self, anchors: Tensor, labels: Tensor) -> Tensor:
        own = (labels >= self.own.start) & (labels < self.own.stop)
        found = anchors.new_zeros(len(labels), anchors.shape[1])
        found[own] = anchors[labels[own] - self.first]
        return self.sum(found)

    def others(self, anchors: Tensor, size: int) -> Iterator[Tensor]:
        return (block for rank, _, block in self._blocks(anchors, size) if rank != self.world.rank)

    def sum(self, value: Tensor) -> Tensor:
        dist.all_reduce(value)
        return value

    def whole(self, rows: Tensor) -> Tensor:
        """All rows, `(C, D)` on the CPU of every rank."""
        everyone = torch.empty(self.count, rows.shape[1], dtype=rows.dtype)
        for _, places, block in self._blocks(rows, BLOCK):
            everyone[places] = block.cpu()
        return everyone

    def _blocks(self, rows: Tensor, size: int) -> Iterator[tuple[int, slice, Tensor]]:
        """(rank, which of all rows, the rows) of every rank."""
        for rank in range(self.world.size):
            share = self.world.share(self.count, rank)
            for inside in blocks(share.stop - share.start, size):
                block = rows[inside].contiguous() if rank == self.world.rank else rows.new_empty(_length(inside), rows.shape[1])
                dist.broadcast(block, src=rank)
                yield rank, slice(share.start + inside.start, share.start + inside.stop), block


def _length(rows: slice) -> int:
    return rows.stop - rows.start


class SharedAnchorLoss(ClassAnchorLoss):
    """The class anchor loss with this rank's share of the anchors; value and gradients are those of one process with all.

    The share is hidden from the engines, which take parameters for copies of each other.
    """

    def __init__(self, config: ClassAnchorConfig, num_classes: int, dim: int, world: World) -> None:
        super().__init__(
            num_classes, dim, config.radius, config.min_norm, config.init, config.scale, rows=world.share(num_classes)
        )
        self.holders = Ranks(world, num_classes)
        anchors = self.anchors.detach().to(world.device)
        del self.anchors
        self.__dict__["anchors"] = nn.Parameter(anchors)


def build_loss(config: LossSettings, num_classes: int, dim: int, world: World) -> Objective:
    """The loss of a training run; class anchors that learn are shared among its ranks."""
    if isinstance(config, ClassAnchorConfig) and config.learned:
        return SharedAnchorLoss(config, num_classes, dim, world)
    return config.build(num_classes, dim)


class Share(Protocol):
    """What a rank holds beside the parameters that an engine takes care of."""

    def step(self, factor: float) -> None:
        """Update with `factor` times the base learning rate."""
        ...

    def zero(self) -> None:
        """Forget the gradient."""
        ...

    def state(self) -> Tensors:
        """What all ranks hold, whole and on the CPU, named as in an engine that holds everything."""
        ...

    def load(self, state: Mapping[str, Tensor]) -> Tensors:
        """Take over what `state` gave, in whichever world; the rest of the state."""
        ...


class NoShare:
    """Nothing."""

    def step(self, factor: float) -> None: ...

    def zero(self) -> None: ...

    def state(self) -> Tensors:
        return {}

    def load(self, state: Mapping[str, Tensor]) -> Tensors:
        return dict(state)


class AnchorShare:
    """The anchors that a rank holds, and their optimizer."""

    def __init__(self, loss: SharedAnchorLoss, optim: OptimConfig) -> None:
        assert isinstance(loss.holders, Ranks)
        assert isinstance(loss.anchors, nn.Parameter)
        self.anchors, self.ranks = loss.anchors, loss.holders
        module = nn.Module()  # in which the anchors have their name
        module.loss = nn.Module()
        module.loss.register_parameter("anchors", loss.anchors)
        self.optimizer = build_optimizer(module, optim)
        self.moments = WholeMoments(module, self.optimizer)

    def step(self, factor: float) -> None:
        set_rates(self.optimizer, factor)
        self.optimizer.step()

    def zero(self) -> None:
        self.optimizer.zero_grad()

    def state(self) -> Tensors:
        own = {f"optimizer.{name}": rows for name, rows in self.moments.read().items()}
        return {name: self.ranks.whole(rows) for name, rows in ({f"model.{NAME}": self.anchors.detach()} | own).items()}

    def load(self, state: Mapping[str, Tensor]) -> Tensors:
        own = {name: tensor[self.ranks.own] for name, tensor in state.items() if f"{NAME}." in f"{name}."}
        with torch.no_grad():
            self.anchors.copy_(own[f"model.{NAME}"])
        self.moments.write(part(own, "optimizer."), int(state["updates"]))
        return {name: tensor for name, tensor in state.items() if name not in own}


def build_share(loss: nn.Module, optim: OptimConfig) -> Share:
    return AnchorShare(loss, optim) if isinstance(loss, SharedAnchorLoss) else NoShare()
