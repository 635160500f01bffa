"""Time and memory of a training step with most of the network frozen, or with adapters, against full fine-tuning."""

import gc
import resource
import sys
import time
from collections.abc import Iterator
from multiprocessing import get_context
from typing import Any

import torch

from largescale.losses.tuples.contrastive import ContrastiveLoss
from largescale.models.build import build_network
from largescale.models.config import ModelConfig
from largescale.models.layers import freeze_idle
from largescale.training.engine.optim import build_optimizer
from largescale.training.settings.config import OptimConfig
from tests.benchmarks.table import Row, report

IMAGES, SIDE, STEPS = 6, 224, 3
KINDS: dict[str, dict[str, Any]] = {
    "full": {},
    "frozen": {"freeze": -1, "projection": 256},
    "adapters": {"freeze": 7, "lora": {"rank": 16}},
}


def measured(kind: str) -> tuple[float, float]:
    """Seconds of the fastest step, and MB beyond those before the network was built; in a process of its own."""
    before = _peak()
    torch.manual_seed(0)
    net = build_network(ModelConfig(backbone="vit_b_16", pooling="class_token", **KINDS[kind]))
    freeze_idle(net)
    optimizer, loss = build_optimizer(net, OptimConfig()), ContrastiveLoss(0.7)
    images, times = torch.randn(IMAGES, 3, SIDE, SIDE), []
    for _ in range(STEPS):
        start = time.perf_counter()
        x = net(images).reshape(IMAGES // 3, 3, -1)
        loss(x[:, 0], x[:, 1], x[:, 2:]).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)
        times.append(time.perf_counter() - start)
        gc.collect()
    return min(times), _peak() - before


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def rows() -> Iterator[Row]:
    with get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        found = {kind: pool.apply(measured, (kind,)) for kind in KINDS}
    for kind in list(KINDS)[1:]:
        yield Row(f"vit_b_16, {kind}, s per step: full fine-tuning", found[kind][0], found["full"][0], 0.6, True)
        yield Row(f"vit_b_16, {kind}, MB: full fine-tuning", found[kind][1], found["full"][1], 0.5, True)


if __name__ == "__main__":
    sys.exit(not report(rows()))
