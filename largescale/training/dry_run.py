"""`--dry-run`: one synthetic step on every rank, and what the run would do."""

import math
import resource
import time

import numpy as np
import torch

from largescale.corpus.batches.batches import Step
from largescale.corpus.config import ImagesConfig
from largescale.corpus.images import too_thin
from largescale.corpus.manifest import Manifest
from largescale.program.inputs import stated
from largescale.settings import UserError
from largescale.training.preflight import GIB, checkpoint_bytes
from largescale.training.trainer import Trainer

SHOWN = 10
"""Thin images that are named."""


def rehearse(trainer: Trainer) -> None:
    """Run a step of random images on every rank and print the plan; nothing is written."""
    world, config = trainer.world, trainer.config
    assert config.images.size is not None
    plan = trainer.planner.sample(trainer.evaluated_model().dim)
    batch = plan.batch(_noise(plan.columns[0], config.images.size), 0, config.seed)
    began = time.monotonic()
    loss = float(trainer.engine.backward(batch.split(config.engine.gradient_accumulation)))
    trainer.engine.step(0.0)
    seconds, memory = world.max(time.monotonic() - began, _memory(world.device) / GIB)
    if not math.isfinite(loss):
        raise UserError(
            f"the loss of random images is {loss}: the first step of the run would not be finite either; look at the margin and "
            "weights of loss.*, at optim.lr, and at model.weights"
        )
    if world.is_first:
        print(_table(describe(trainer) | {"step tried": f"{seconds:.2f} s, loss {loss:.4f}, {memory:.2f} GiB at most"}))


def describe(trainer: Trainer) -> dict[str, str]:
    """What a run does, reads and writes."""
    config, world, planner = trainer.config, trainer.world, trainer.planner
    network = trainer.evaluated_model()
    parameters = sum(parameter.numel() for parameter in trainer.engine.module.net.parameters())
    save = checkpoint_bytes(parameters) / GIB
    return {
        "run": str(config.directory),
        "corpus": _describe_corpus(trainer.corpus.manifest),
        "network": f"{config.model.backbone}, {network.config.pooling}, {parameters:,} parameters; loss {config.loss.name}",
        "sees": stated(network.contract, config.images),
        "processes": f"{world.size} on {world.size // world.local_size} nodes, {world.device.type}, engine {config.engine.kind}",
        "steps": f"{planner.steps:,} in each of {config.epochs} epochs: {trainer.total_steps:,}",
        "images": f"{planner.images} in a step, {planner.images * trainer.total_steps:,} in the run",
        **_thin_images(trainer.corpus.manifest, config.images),
        "files": f"{config.checkpoint.keep + 1} checkpoints of {save:.2f} GiB, as many weights of {save / 3:.2f} GiB, log.jsonl",
    }


def _table(rows: dict[str, str]) -> str:
    return "\n".join(f"  {name:12}{text}" for name, text in rows.items())


def _describe_corpus(manifest: Manifest) -> str:
    counts = f"{len(manifest):,} images, {len(manifest.label_names):,} labels, {len(manifest.shards):,} shards"
    return f"{manifest.storage.location}: {counts}"


def _thin_images(manifest: Manifest, images: ImagesConfig) -> dict[str, str]:
    """Those that are stretched, because the network sees nothing on a shorter side."""
    thin = np.flatnonzero(too_thin(manifest.width, manifest.height, images))
    if not len(thin):
        return {}
    keys = ", ".join(manifest.keys[i].as_py() for i in thin[:SHOWN].tolist()) + (", ..." if len(thin) > SHOWN else "")
    return {"thin": f"{len(thin):,} images are stretched to {images.least} pixels, the least that the network bears: {keys}"}


def _noise(ids: np.ndarray, size: int) -> Step:
    """Random images of the largest shape."""
    pixels = torch.randint(256, (len(ids), 3, size, size), dtype=torch.uint8)
    return Step([pixels], [torch.arange(len(ids))], ids, ids, [])


def _memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
