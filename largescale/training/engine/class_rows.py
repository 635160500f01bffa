"""What a loss learns of each class, shared among the ranks: each holds, and updates, some classes. C classes, D dimensions."""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from largescale.distributed import World
from largescale.losses.build import Objective
from largescale.losses.build import build_loss as build_whole
from largescale.losses.labels.class_rows import ClassRowsLoss, blocks
from largescale.losses.settings.base import LossSettings
from largescale.training.engine.optim import build_optimizer, set_rates
from largescale.training.engine.optimizer_state import Tensors, WholeMoments, part
from largescale.training.settings.config import OptimConfig

BLOCK = 8192
"""Rows that are sent at a time when all are collected."""
STEPPED = 1024
"""Sampled rows that are updated at a time: beside them, a step needs no memory."""


class Ranks:
    """The ranks as holders of rows that lie as `World.share` cuts them."""

    def __init__(self, world: World, count: int) -> None:
        self.world, self.count = world, count
        self.own = world.share(count)

    def of_labels(self, rows: Tensor, labels: Tensor) -> Tensor:
        own = (labels >= self.own.start) & (labels < self.own.stop)
        found = rows.new_zeros(len(labels), rows.shape[1])
        found[own] = rows[labels[own] - self.own.start]
        return self.sum(found)

    def others(self, rows: Tensor, size: int) -> Iterator[Tensor]:
        return (block for rank, _, block in self._blocks(rows, size) if rank != self.world.rank)

    def sum(self, value: Tensor) -> Tensor:
        dist.all_reduce(value)
        return value

    def max(self, value: Tensor) -> Tensor:
        dist.all_reduce(value, dist.ReduceOp.MAX)
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


def build_loss(config: LossSettings, num_classes: int, dim: int, world: World) -> Objective:
    """The loss of a training run; what it learns of each class is shared among its ranks.

    The shares are hidden from the engines, which take parameters for copies of each other.
    """
    loss = build_whole(config, num_classes, dim, partial(Ranks, world))
    for module in _shared(loss).values():
        rows = getattr(module, module.rows).detach().to(world.device)
        delattr(module, module.rows)
        module.__dict__[module.rows] = nn.Parameter(rows)
    return loss


def learns(loss: nn.Module) -> bool:
    """Whether it has weights of its own, on whichever ranks."""
    return bool(_shared(loss)) or any(parameter.requires_grad for parameter in loss.parameters())


def _shared(loss: nn.Module) -> dict[str, ClassRowsLoss]:
    """The losses whose rows are shared, by the name of their rows."""
    parts = loss.named_modules(prefix="loss")
    return {f"{name}.{m.rows}": m for name, m in parts if isinstance(m, ClassRowsLoss) and isinstance(m.holders, Ranks)}


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


class RowsShare:
    """The rows that a rank holds, and their optimizer. Where a step sampled some of them, the others and their averages stay."""

    def __init__(self, losses: Mapping[str, ClassRowsLoss], optim: OptimConfig) -> None:
        self.rows: dict[str, nn.Parameter] = {name: getattr(loss, loss.rows) for name, loss in losses.items()}
        self.ranks = {name: loss.holders for name, loss in losses.items() if isinstance(loss.holders, Ranks)}
        module = _named(self.rows)
        self.optimizer = build_optimizer(module, optim)
        self.moments = WholeMoments(module, self.optimizer)

    def step(self, factor: float) -> None:
        set_rates(self.optimizer, factor)
        if any(rows.grad is not None and rows.grad.is_sparse for rows in self.rows.values()):
            self._step_sampled()
        else:
            self.optimizer.step()

    def _step_sampled(self) -> None:
        """The optimizer sees the sampled rows, some at a time, as a parameter of their own with their part of its averages."""
        [group] = self.optimizer.param_groups
        whole, state = group["params"], self.optimizer.state
        for rows in whole:
            if rows not in state:
                state[rows] = _no_averages(self.optimizer, rows)
            averages = state[rows]
            steps: Tensors = {}
            for some in _sampled(rows, averages):
                group["params"] = [some.few]
                state[some.few] = some.averages()
                self.optimizer.step()
                steps = some.put_back(state.pop(some.few))
            averages |= steps
        group["params"] = whole

    def zero(self) -> None:
        self.optimizer.zero_grad()

    def state(self) -> Tensors:
        own = {f"model.{name}": rows.detach() for name, rows in self.rows.items()}
        own |= {f"optimizer.{name}": rows for name, rows in self.moments.read().items()}
        return {name: self.ranks[self._rows_of(name)].whole(rows) for name, rows in own.items()}

    def load(self, state: Mapping[str, Tensor]) -> Tensors:
        own = {name: tensor for name, tensor in state.items() if self._rows_of(name)}
        shares = {name: tensor[self.ranks[self._rows_of(name)].own] for name, tensor in own.items()}
        with torch.no_grad():
            for name, rows in self.rows.items():
                rows.copy_(shares[f"model.{name}"])
        self.moments.write(part(shares, "optimizer."), int(state["updates"]))
        return {name: tensor for name, tensor in state.items() if name not in own}

    def _rows_of(self, name: str) -> str:
        """Which rows an entry of the state belongs to; empty: none."""
        return next((rows for rows in self.rows if f".{rows}." in f".{name}."), "")


class _Sampled:
    """Some rows of a parameter as a parameter of their own; the averages of an optimizer are of the parameter's shape."""

    def __init__(self, whole: nn.Parameter, places: Tensor, gradient: Tensor, state: Tensors) -> None:
        self.whole, self.places, self.state = whole, places, state
        self.few = nn.Parameter(whole.detach()[places])
        self.few.grad = gradient

    def averages(self) -> Tensors:
        return {
            key: value[self.places] if value.shape == self.whole.shape else value.clone() for key, value in self.state.items()
        }

    def put_back(self, averages: Mapping[str, Tensor]) -> Tensors:
        """What is of all rows, as the number of steps, is returned."""
        with torch.no_grad():
            self.whole[self.places] = self.few
            for key, value in averages.items():
                if value.shape == self.few.shape:
                    self.state[key][self.places] = value
        return {key: value for key, value in averages.items() if value.shape != self.few.shape}


def _sampled(whole: nn.Parameter, state: Tensors) -> Iterator[_Sampled]:
    """The rows that have a gradient, STEPPED at a time."""
    assert whole.grad is not None
    places, gradient = whole.grad._indices()[0], whole.grad._values()  # different and in order, which the tensor does not know
    for some in blocks(len(places), STEPPED) or [slice(0, 0)]:
        yield _Sampled(whole, places[some], gradient[some], state)


def _no_averages(optimizer: torch.optim.Optimizer, rows: Tensor) -> Tensors:
    """The state of an optimizer before its first step."""
    if isinstance(optimizer, torch.optim.SGD):
        return {"momentum_buffer": torch.zeros_like(rows)} if optimizer.defaults["momentum"] else {}
    return {"step": torch.tensor(0.0), "exp_avg": torch.zeros_like(rows), "exp_avg_sq": torch.zeros_like(rows)}


def _named(parameters: Mapping[str, nn.Parameter]) -> nn.Module:
    """A module in which the parameters have their names."""
    root = nn.Module()
    for name, parameter in parameters.items():
        *path, leaf = name.split(".")
        module = root
        for place in path:
            if place not in module._modules:
                module.add_module(place, nn.Module())
            module = module.get_submodule(place)
        module.register_parameter(leaf, parameter)
    return root


def build_share(loss: nn.Module, optim: OptimConfig) -> Share:
    shared = _shared(loss)
    return RowsShare(shared, optim) if shared else NoShare()
