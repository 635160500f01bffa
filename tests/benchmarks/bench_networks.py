"""Time and memory of a training step with most of the network frozen, or with adapters, against full fine-tuning."""

import gc
import resource
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from typing import Any

import peft  # noqa: F401, so that it is no part of what a network takes
import torch

from largescale.losses.tuples.contrastive import ContrastiveLoss
from largescale.models.build import build_network
from largescale.models.config import ModelConfig
from largescale.models.layers import freeze_idle
from largescale.training.engine.optim import build_optimizer
from largescale.training.settings.config import OptimConfig
from tests.benchmarks.table import Row, report

IMAGES, SIDE, STEPS = 3, 224, 2
KINDS: dict[str, dict[str, Any]] = {
    "full": {},
    "frozen": {"freeze": -1, "projection": 256},
    "adapters": {"freeze": 7, "lora": {"rank": 16}},
}


def memory(kind: str) -> float:
    """MB beyond those before the network was built; in a process of its own."""
    before, step = _peak(), training(kind)
    for _ in range(STEPS):
        step()
        gc.collect()
    return _peak() - before


def seconds() -> dict[str, float]:
    """Of the processor, the fastest step of each; in turns, so that what else the machine does meets all of them."""
    steps = {kind: training(kind) for kind in KINDS}
    times: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for _ in range(STEPS):
        for kind, step in steps.items():
            start = time.process_time()
            step()
            times[kind].append(time.process_time() - start)
    return {kind: min(taken) for kind, taken in times.items()}


def training(kind: str) -> Callable[[], None]:
    """A step."""
    torch.manual_seed(0)
    net = build_network(ModelConfig(backbone="vit_b_16", pooling="class_token", **KINDS[kind]))
    freeze_idle(net)
    optimizer, loss = build_optimizer(net, OptimConfig()), ContrastiveLoss(0.7)
    images = torch.randn(IMAGES, 3, SIDE, SIDE)

    def step() -> None:
        x = net(images).reshape(IMAGES // 3, 3, -1)
        loss(x[:, 0], x[:, 1], x[:, 2:]).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)

    return step


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def rows() -> Iterator[Row]:
    with get_context("spawn").Pool(1, maxtasksperchild=1) as pool:  # before this process has a peak, which others would inherit
        held = {kind: pool.apply(memory, (kind,)) for kind in KINDS}
    for kind in list(KINDS)[1:]:
        yield Row(f"vit_b_16, {kind}, MB: full fine-tuning", held[kind], held["full"], 0.5, True)
    times = seconds()
    for kind in list(KINDS)[1:]:
        yield Row(f"vit_b_16, {kind}, s per step: full fine-tuning", times[kind], times["full"], 0.6, True)


if __name__ == "__main__":
    sys.exit(not report(rows()))
