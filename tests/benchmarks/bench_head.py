"""The shared softmax head against insightface's PartialFC written plainly.

`python -m tests.benchmarks.bench_head [CLASSES [DIM [RATE]]]`

C classes over the ranks, of which a rank holds C_r and compares with n_r, B images, D dimensions.
"""

import sys
import time
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import linear, normalize

from largescale.distributed import World
from largescale.losses.settings.labels import CosFaceConfig
from largescale.training.engine.class_rows import build_loss, build_share
from largescale.training.settings.config import OptimConfig
from tests.benchmarks.bench_losses import extra_memory
from tests.benchmarks.table import Row, report
from tests.world import run_world

BATCH, RANKS, STEPS = 256, 2, 3
SCALE, MARGIN = 64.0, 0.35
SGD: dict[str, Any] = {"name": "sgd", "momentum": 0.9, "lr": 0.1}


class CrossEntropy(torch.autograd.Function):
    """Of logits `(B, n_r)` over all ranks, in place, as PartialFC has it."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, places: Tensor) -> Tensor:
        largest = logits.max(dim=1, keepdim=True).values
        dist.all_reduce(largest, dist.ReduceOp.MAX)
        logits.sub_(largest).exp_()
        total = logits.sum(dim=1, keepdim=True)
        dist.all_reduce(total)
        logits.div_(total)
        here = torch.where(places >= 0)[0]
        right = logits.new_zeros(len(logits), 1)
        right[here, 0] = logits[here, places[here]]
        dist.all_reduce(right)
        ctx.save_for_backward(here, logits, places)
        return right.clamp_min_(1e-30).log_().mean() * -1

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor, None]:
        here, logits, places = ctx.saved_tensors
        logits[here, places[here]] -= 1
        return logits.div_(len(logits)).mul_(outputs[0]), None


class PartialFC(nn.Module):
    """The published formula: normalized copies of the sampled rows, clamped cosines, the margin, the shared cross entropy."""

    def __init__(self, world: World, classes: int, dim: int, rate: float) -> None:
        super().__init__()
        self.own, self.rate = world.share(classes), rate
        count = self.own.stop - self.own.start
        self.weight = nn.Parameter(0.01 * torch.randn(count, dim))
        self.momentum = torch.zeros(count, dim)

    def step(self, x: Tensor, labels: Tensor) -> None:
        places = torch.where((labels >= self.own.start) & (labels < self.own.stop), labels - self.own.start, -1)
        index, places = self._sampled(places)
        rows = self.weight if index is None else nn.Parameter(self.weight.detach()[index])
        x = x.requires_grad_()
        logits = linear(normalize(x), normalize(rows)).clamp(-1, 1)
        here = torch.where(places >= 0)[0]
        logits[here, places[here]] -= MARGIN
        CrossEntropy.apply(logits * SCALE, places).backward()
        dist.all_reduce(x.grad)
        self._update(rows, index)

    def _sampled(self, places: Tensor) -> tuple[Tensor | None, Tensor]:
        if self.rate == 1:
            return None, places
        positive = places[places >= 0].unique()
        drawn = torch.rand(len(self.weight))
        drawn[positive] = 2.0
        index = torch.topk(drawn, max(len(positive), int(self.rate * len(self.weight)))).indices.sort().values
        return index, torch.where(places >= 0, torch.searchsorted(index, places), -1)

    @torch.no_grad()
    def _update(self, rows: Tensor, index: Tensor | None) -> None:
        momentum = self.momentum if index is None else self.momentum[index]
        momentum.mul_(0.9).add_(rows.grad)
        rows.sub_(momentum, alpha=0.1)
        rows.grad = None
        if index is not None:
            self.weight[index], self.momentum[index] = rows, momentum


def _inputs(classes: int, dim: int, step: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(step)
    return torch.randn(BATCH, dim), torch.randint(classes, (BATCH,))


def _ours(world: World, classes: int, dim: int, rate: float) -> tuple[float, float]:
    """Seconds of a step, and the megabytes of everything."""

    def run(count: int) -> float:
        loss = build_loss(CosFaceConfig(margin=MARGIN, scale=SCALE, sample_rate=rate), count, dim, world)
        share = build_share(loss, OptimConfig(**SGD))

        def step(number: int) -> None:
            x, labels = _inputs(count, dim, number)
            loss(x.requires_grad_(), labels).backward()
            share.step(1.0)
            share.zero()

        return fastest(step)

    return _measured(run, classes)


def _theirs(world: World, classes: int, dim: int, rate: float) -> tuple[float, float]:
    def run(count: int) -> float:
        head = PartialFC(world, count, dim, rate)
        return fastest(lambda number: head.step(*_inputs(count, dim, number)))

    return _measured(run, classes)


def _measured(run: Any, classes: int) -> tuple[float, float]:
    run(1000)
    times: list[float] = []
    memory = extra_memory(lambda: times.append(run(classes)))
    return times[0], memory


def fastest(step: Any) -> float:
    times = []
    for number in range(STEPS):
        began = time.perf_counter()
        step(number)
        times.append(time.perf_counter() - began)
    return min(times)


def head(classes: int = 1_000_000, dim: int = 512, *rates: float) -> Iterator[Row]:
    for rate in rates or (1.0, 0.1):
        ours, theirs = (run_world(RANKS, work, classes, dim, rate, timeout_s=1800) for work in (_ours, _theirs))
        seconds = [max(answer[0] for answer in answers) for answers in (ours, theirs)]
        memory = [max(answer[1] for answer in answers) for answers in (ours, theirs)]
        what = f"CosFace, {classes:,} x {dim}, batch {BATCH}, {RANKS} processes, rate {rate:g}"
        mega = 4 * classes / RANKS * dim / 2**20
        yield Row(f"{what} (s a step), PartialFC", *seconds, 0.8 if rate == 1 else 1.0, True)
        yield Row(f"{what} (MB), PartialFC", *memory, 1, True)
        yield Row(f"{what} (MB), weights, momentum, gradient", memory[0], (2 + rate) * mega, 1.1, True)
        yield Row(f"{what} (microseconds a class)", 1e6 * seconds[0] / classes, 1e6 * seconds[1] / classes, 0.8, True)


def main() -> None:
    given = [kind(value) for kind, value in zip((int, int, float), sys.argv[1:], strict=False)]
    sys.exit(not report(head(*given)))


if __name__ == "__main__":
    main()
