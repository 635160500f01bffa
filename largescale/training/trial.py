"""A few steps of any network on all processes, and what its file gives again: of the table of families, and of tests."""

from pathlib import Path

import torch

from largescale.distributed import World
from largescale.losses.tuples.contrastive import ContrastiveLoss
from largescale.models.build import load_network
from largescale.models.network import RetrievalNet
from largescale.models.weights import save_weights
from largescale.training.build import layers_in
from largescale.training.engine.build import build_engine
from largescale.training.engine.engine import Engine
from largescale.training.engine.step_module import Batch, StepModule
from largescale.training.settings.config import EngineConfig, OptimConfig


def trial_engine(net: RetrievalNet, world: World) -> Engine:
    module = StepModule(net, ContrastiveLoss(0.9), world, layers=layers_in(net))
    return build_engine(EngineConfig(), OptimConfig(lr=1e-3, layer_decay=0.7), module)


def trial_batch(net: RetrievalNet, world: World, step: int) -> Batch:
    """A tuple of a query, a positive and two negatives on each rank, of two shapes where the network bears them."""
    contract, random = net.contract, torch.Generator().manual_seed(10 * step + world.rank)
    side = contract.borne(32)
    shapes = [(side, side), (side, side + contract.multiple)] if not contract.fixed else [(side, side)] * 2
    groups = tuple(torch.randint(256, (2, 3, *shape), generator=random, dtype=torch.uint8) for shape in shapes)
    places = (torch.tensor([0, 2]), torch.tensor([1, 3]))
    return Batch(groups, places, tuple(4 * world.rank + place for place in places), step, tuples=1, total=world.size)


@torch.no_grad()
def reload_difference(net: RetrievalNet, path: Path, images: torch.Tensor) -> float:
    """Between descriptors of images `(n, 3, h, w)` uint8 by the network and by the file that is written: the largest."""
    save_weights(net, path, {})
    again, pixels = load_network(path)[0], net.contract.normalize(images)
    assert again.config.lora is None
    return float((again.eval()(pixels) - net.eval()(pixels)).abs().max())
