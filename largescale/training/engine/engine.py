"""Who averages gradients over ranks and updates the weights: one small protocol, two engines with the same results."""

import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import NamedTuple, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from largescale.training.engine.class_rows import build_share
from largescale.training.engine.gradcache import passes
from largescale.training.engine.optim import build_optimizer, set_rates
from largescale.training.engine.optimizer_state import OptimizerMoments, Tensors, WholeMoments, copied, part
from largescale.training.engine.step_module import Batch, StepModule
from largescale.training.settings.config import EngineConfig, OptimConfig

STRIDES = "Grad strides do not match bucket view strides"
"""What torch says of class tokens, whose first dimensions are 1 so that any stride fits; nobody can do anything about it."""


class Update(NamedTuple):
    """What `Engine.step` did; the same on every rank."""

    norm: float
    """L2 norm of the gradient of the step before clipping."""
    skipped: bool
    """The loss or the gradient was not finite on some rank, and no rank changed its weights."""


class Engine(Protocol):
    """A step is `backward` then `step`; every method is called by all ranks together."""

    module: StepModule

    def backward(self, batches: Sequence[Batch]) -> Tensor:
        """Accumulate the gradient of a step, given in `accumulation` batches; its objective, the same on every rank."""
        ...

    def step(self, factor: float) -> Update:
        """Update the weights with `factor` times the base learning rates, or skip when the gradient is not finite."""
        ...

    def network(self) -> nn.Module:
        """The descriptor network with whole weights on every rank, for embedding and export; to be read only."""
        ...

    def state(self) -> Tensors:
        """Copies on the CPU of weights and optimizer state under the names of the bare module; the same for every engine."""
        ...

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` gave, in whichever engine and world."""
        ...


def shared_objective(objective: Tensor) -> Tensor:
    """Mean over ranks of each one's part of the objective: the value of the whole step."""
    total = objective.detach().clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()


def poisoned(objective: Tensor, shared: Tensor) -> Tensor:
    """The objective, with a gradient that is not finite when the loss was not, so that one test finds both."""
    return objective * (1 + 0 * shared)


def gradient_norm(module: nn.Module) -> Tensor:
    return torch.nn.utils.get_total_norm([p.grad for p in module.parameters() if p.grad is not None])


class DDPEngine:
    """torch's DistributedDataParallel: weights and optimizer state whole on every rank."""

    def __init__(self, module: StepModule, config: EngineConfig, optim: OptimConfig) -> None:
        self.module, self.clip, self.chunk, self.updates = (
            module.to(module.world.device),
            config.max_grad_norm,
            config.gradcache_chunk,
            0,
        )
        self.optimizer = build_optimizer(module, optim, module.layers)
        self.moments = WholeMoments(module, self.optimizer)
        self.share = build_share(module.loss, optim)
        warnings.filterwarnings("ignore", STRIDES, UserWarning)
        averages = any(parameter.requires_grad for parameter in module.parameters())  # else only rows that the ranks share learn
        self.wrapped = (
            DistributedDataParallel(module, forward_sync_buffers=False, gradient_as_bucket_view=True) if averages else module
        )
        self.settled = not averages
        self.objective = torch.zeros(())

    def backward(self, batches: Sequence[Batch]) -> Tensor:
        if not self.settled:
            self._settle(batches[0])
        self.module.hold_statistics(self.updates)
        totals = []
        for batch, last in passes(self.wrapped, self.module.world, batches, self.chunk, self._prepare):
            with nullcontext() if last or not isinstance(self.wrapped, DistributedDataParallel) else self.wrapped.no_sync():
                objective = self.wrapped(batch)
                if batch.pull is None:
                    totals.append(shared_objective(objective))
                else:
                    objective = self._with_loss(objective)
                if objective.requires_grad:
                    poisoned(objective, totals[-1]).backward()
        self.objective = torch.stack(totals).sum()
        return self.objective

    def _prepare(self, batch: Batch) -> Batch:
        return batch.to(self.module.world.device)

    def _with_loss(self, product: Tensor) -> Tensor:
        """DDP waits for every parameter, also for those of the loss, whose gradient an earlier pass has left."""
        learning = [parameter for parameter in self.module.loss.parameters() if parameter.requires_grad]
        return product + sum(0 * parameter.sum() for parameter in learning)

    def _settle(self, batch: Batch) -> None:
        """A pass that is thrown away: DDP orders its buckets after the first one, and sums over ranks round by that order.

        So the steps of a resumed run are those of an uninterrupted one to the last bit.
        """
        self.module.eval()
        image = self._prepare(batch.chunks(len(batch))[0])
        self._with_loss(self.wrapped(replace(image, pull=torch.zeros((), device=self.module.world.device)))).backward()
        self.module.train()
        self.optimizer.zero_grad(set_to_none=False)
        self.settled = True

    def step(self, factor: float) -> Update:
        # every rank holds the same averaged gradient: the norm and the decision are the same without asking
        norm = gradient_norm(self.module) + 0 * self.objective
        finite = bool(norm.isfinite())
        if finite:
            self._update(norm, factor)
        self.optimizer.zero_grad(set_to_none=False)
        self.share.zero()
        return Update(float(norm), not finite)

    def _update(self, norm: Tensor, factor: float) -> None:
        if self.clip is not None:
            torch.nn.utils.clip_grads_with_norm_(self.module.parameters(), self.clip, norm)
        set_rates(self.optimizer, factor, self.updates)
        self.optimizer.step()
        self.share.step(factor)
        self.updates += 1

    def network(self) -> nn.Module:
        return self.module.net

    def state(self) -> Tensors:
        return packed(self.module.state_dict(), self.moments, self.updates) | self.share.state()

    def load(self, state: Mapping[str, Tensor]) -> None:
        state = self.share.load(state)
        self.module.load_state_dict(part(state, "model."))
        self.updates = int(state["updates"])
        self.moments.write(part(state, "optimizer."), self.updates)


def packed(weights: Mapping[str, Tensor], moments: OptimizerMoments, updates: int) -> Tensors:
    """The state of an engine as one flat dictionary."""
    state = {f"model.{name}": copied(tensor) for name, tensor in weights.items()}
    state |= {f"optimizer.{name}": tensor for name, tensor in moments.read().items()}
    return state | {"updates": torch.tensor(updates)}
