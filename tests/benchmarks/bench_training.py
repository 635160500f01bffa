"""The training step against a bare loop with the same parts: `python -m tests.benchmarks.bench_training`."""

import statistics
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from largescale.corpus.batches.batches import Step
from largescale.distributed import World
from largescale.losses.tuples.contrastive import ContrastiveLoss
from largescale.models.backbones.contract import Contract
from largescale.models.build import build_network
from largescale.models.config import ModelConfig
from largescale.precision import autocast, resolve
from largescale.training.engine.build import build_engine
from largescale.training.engine.optim import build_optimizer
from largescale.training.engine.step_module import Batch, StepModule
from largescale.training.settings.config import EngineConfig, OptimConfig
from tests.benchmarks.table import Row, report

TUPLES, WIDTH, SIDE, ROUNDS = 6, 7, 160, 12


def _build(world: World) -> StepModule:
    torch.manual_seed(0)
    config = ModelConfig(backbone="squeezenet1_1" if world.device.type == "cpu" else "resnet50")
    return StepModule(build_network(config).to(world.device), ContrastiveLoss(0.7), world, resolve("auto", world.device))


def _bare_step(module: StepModule, pixels: Tensor) -> Callable[[], None]:
    """Forward, loss, backward, update on images that are normalized already."""
    optimizer = build_optimizer(module, OptimConfig())
    images = Contract().normalize(pixels).contiguous(memory_format=torch.channels_last)

    def step() -> None:
        with autocast(module.precision, module.world.device):
            x = module.net(images)
        tuples = x.float().reshape(TUPLES, WIDTH, -1)
        module.loss(tuples[:, 0], tuples[:, 1], tuples[:, 2:]).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def _our_step(module: StepModule, pixels: Tensor) -> Callable[[], None]:
    """What the trainer does with the images of a step."""
    engine = build_engine(EngineConfig(), OptimConfig(), module)
    ids = np.arange(len(pixels))
    images = Step([pixels], [torch.from_numpy(ids)], ids, ids, [])

    def step() -> None:
        loss = engine.backward(Batch.of_tuples(images, TUPLES, TUPLES, seed=0).split(1))
        float(loss)
        engine.step(1.0)

    return step


def _seconds(step: Callable[[], None], device: torch.device) -> float:
    start = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def rows() -> Iterator[Row]:
    with World.start() as world:
        pixels = torch.randint(0, 256, (TUPLES * WIDTH, 3, SIDE, SIDE), dtype=torch.uint8, device=world.device)
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        ours, bare = _our_step(_build(world), pixels), _bare_step(_build(world), pixels)
        # in turn, so that what else the machine does meets both
        pairs = [(_seconds(ours, world.device), _seconds(bare, world.device)) for _ in range(ROUNDS)][2:]
        speeds = [len(pixels) / statistics.median(times) for times in zip(*pairs, strict=True)]
        yield Row("training step / bare loop on ready tensors [images/s]", *speeds, goal=0.95)


if __name__ == "__main__":
    raise SystemExit(0 if report(rows()) else 1)
