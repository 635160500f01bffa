"""Memory and time of a step of resnet101 at 362 pixels, as it is, with blocks computed again, and with GradCache.

`python -m tests.benchmarks.bench_memory [IMAGES]`: 16 images take 7 GB, 64 take 28 GB. Each way has a process of its own, which
takes the same steps; seconds are those of the processor.
"""

import resource
import sys
import time
from collections.abc import Iterator
from multiprocessing import get_context
from typing import Any

import numpy as np
import torch

from largescale.corpus.batches.batches import Step
from largescale.cpu import own_cores
from largescale.distributed import World
from largescale.losses.tuples.contrastive import ContrastiveLoss
from largescale.models.build import build_network
from largescale.models.config import ModelConfig
from largescale.training.engine.build import build_engine
from largescale.training.engine.recompute import recompute
from largescale.training.engine.step_module import Batch, StepModule
from largescale.training.settings.config import EngineConfig, OptimConfig
from tests.benchmarks.table import Row, report

SIDES, TUPLES, STEPS, CHUNK = (362, 272), 2, 2, 8
WAYS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "engine.recompute": {"recompute": True},
    f"engine.gradcache_chunk={CHUNK}": {"gradcache_chunk": CHUNK},
    "both": {"recompute": True, "gradcache_chunk": CHUNK},
}


def step_of(settings: dict[str, Any], images: int) -> tuple[float, float, float]:
    """MB beyond those of the network alone, seconds of the faster step, and the loss of the last one."""
    torch.manual_seed(0)
    torch.set_num_threads(own_cores())
    config = EngineConfig(**settings)
    pixels = torch.randint(0, 256, (images, *SIDES[::-1], 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    ids = np.arange(images)
    batch = Batch.of_tuples(Step([pixels], [torch.from_numpy(ids)], ids, ids, []), TUPLES, TUPLES, seed=0)
    with World.start() as world:
        network = build_network(ModelConfig(backbone="resnet101")).train()
        if config.recompute:
            recompute(network.backbone)
        module = StepModule(network, ContrastiveLoss(0.7), world, "fp32")
        engine, before, times, loss = build_engine(config, OptimConfig(), module), _peak(), list[float](), 0.0
        for _ in range(STEPS):
            start = time.process_time()
            loss = float(engine.backward(batch.split(1)))
            engine.step(1.0)
            times.append(time.process_time() - start)
    return _peak() - before, min(times), loss


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def rows(images: int) -> Iterator[Row]:
    found = {}
    for name, settings in WAYS.items():
        with get_context("spawn").Pool(1) as pool:
            found[name] = pool.apply(step_of, (settings, images))
    memory, seconds, loss = found.pop("as it is")
    for name, (held, taken, same) in found.items():
        assert abs(same - loss) <= 1e-3 * abs(loss), (name, same, loss)
        yield Row(f"resnet101, {images} images of {SIDES[0]} px, {name}: MB of a step", held, memory, 0.5, smaller_is_better=True)
        yield Row(f"resnet101, {images} images of {SIDES[0]} px, {name}: CPU s", taken, seconds, 1.35, smaller_is_better=True)


if __name__ == "__main__":
    sys.exit(not report(rows(int(sys.argv[1]) if sys.argv[1:] else 16)))
