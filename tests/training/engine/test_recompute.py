"""What is computed again changes no gradient: alone, in chunks, in every engine, in every precision."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from largescale.config import load
from largescale.corpus.batches.batches import Step
from largescale.distributed import World
from largescale.losses.tuples.contrastive import ContrastiveLoss
from largescale.models.backbones.torchvision_backbones import torchvision_model
from largescale.models.build import build_network
from largescale.models.config import ModelConfig
from largescale.models.layers import freeze_idle
from largescale.precision import Resolved, autocast
from largescale.settings import UserError
from largescale.training.engine.build import build_engine
from largescale.training.engine.recompute import blocks_of, recompute
from largescale.training.engine.step_module import Batch, StepModule
from largescale.training.settings.config import EngineConfig, OptimConfig
from largescale.training.settings.recipe import TrainConfig
from tests.laws import same
from tests.training.small import SHORT_VIT
from tests.world import run_world

VIT = ModelConfig(backbone=SHORT_VIT, weights="none", pooling="class_token", drop_path=0.1)
"""It holds a parameter itself, its class token, and leaves branches out."""
CHUNK, ROUNDING = 3, {"fp32": 1e-6, "bf16": 2e-4}
"""Images of a chunk; most that a weight may differ after two steps of another engine, or in chunks."""

Outcome = tuple[list[float], dict[str, np.ndarray]]
"""Losses and norms; weights, because tensors do not travel between processes."""


def step(network: nn.Module, images: Tensor) -> tuple[list[Tensor], int]:
    """Gradients, and the bytes that the forward pass keeps for them."""
    kept = dict[int, int]()

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    network.zero_grad()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = network(images)[:, :3].square().sum()
    loss.backward()
    own = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    return [p.grad.clone() for p in network.parameters() if p.grad is not None], sum(n for p, n in kept.items() if p not in own)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("backbone", "share"), [("resnet18", 0.6), ("squeezenet1_1", 0.75), ("timm:test_vit", 0.6)])
def test_the_same_gradient_with_less_memory(backbone: str, share: float, precision: Resolved) -> None:
    torch.manual_seed(0)
    pooling = "class_token" if "vit" in backbone else "gem"
    plain = build_network(ModelConfig(backbone=backbone, weights="none", pooling=pooling))
    saving, images = copy.deepcopy(plain), torch.randn(2, 3, 160, 160)
    names = list(plain.state_dict())
    recompute(saving.backbone)
    assert list(saving.state_dict()) == names
    with autocast(precision, images.device):
        (expected, whole), (found, less) = step(plain, images), step(copy.deepcopy(saving), images)
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
    assert less < share * whole


def outcome(world: World, precision: Resolved, again: bool, **engine: Any) -> Outcome:
    """Of two steps of eight images."""
    torch.manual_seed(0)
    network = build_network(VIT)
    freeze_idle(network)
    if again:
        recompute(network.backbone)
    module = StepModule(network, ContrastiveLoss(0.7), world, precision)
    engine, numbers = build_engine(EngineConfig(**engine), OptimConfig(name="sgd", lr=1e-2), module), list[float]()
    for number in range(2):
        numbers += [float(engine.backward([two_tuples(world, number)])), engine.step(1.0).norm]
    return numbers, {name: x.numpy() for name, x in engine.state().items() if name.startswith("model.")}


def two_tuples(world: World, number: int) -> Batch:
    """This rank's share of two tuples of four images."""
    own = world.share(2)
    pixels = torch.randint(0, 256, (2, 4, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(number))
    ids = np.arange(8).reshape(2, 4)[own].ravel()
    return Batch.of_tuples(Step([pixels[own].flatten(0, 1)], [torch.arange(len(ids))], ids, ids, []), len(ids) // 4, 2, number)


def assert_near(found: Outcome, expected: Outcome, precision: Resolved) -> None:
    np.testing.assert_allclose(found[0], expected[0], rtol=1e3 * ROUNDING[precision])
    for name, value in expected[1].items():
        np.testing.assert_allclose(found[1][name], value, rtol=0, atol=ROUNDING[precision], err_msg=name)


def _with_ddp(world: World) -> None:
    for precision in ROUNDING:
        plain, chunked = (outcome(world, precision, False, gradcache_chunk=chunk) for chunk in (None, CHUNK))
        assert same(outcome(world, precision, True), plain)
        assert same(outcome(world, precision, True, gradcache_chunk=CHUNK), chunked)
        assert_near(chunked, plain, precision)


@pytest.mark.slow
@pytest.mark.distributed
def test_ddp_computes_again_the_same_with_and_without_chunks() -> None:
    run_world(2, _with_ddp)


def assert_stage_3_equal(world: World, file: Path) -> None:
    """Weights are collected also for descriptors without a graph, and for what is computed again."""
    sharded = {"kind": "deepspeed", "zero_stage": 3, "deepspeed_config": file}
    for precision in ROUNDING:
        found = outcome(world, precision, True, gradcache_chunk=CHUNK, **sharded)
        assert_near(found, outcome(world, precision, False, gradcache_chunk=CHUNK), precision)


@pytest.mark.slow
def test_blocks_are_not_cut() -> None:
    blocks = list(blocks_of(build_network(ModelConfig(backbone="resnet18", weights="none")).backbone))
    assert [type(block).__name__ for block in blocks] == ["BasicBlock"] * 8


@pytest.mark.parametrize("backbone", ["alexnet", "vgg16"])
def test_a_backbone_without_blocks_is_an_error(backbone: str) -> None:
    with torch.device("meta"), pytest.raises(UserError, match="no sequence of blocks, so nothing would be computed again"):
        recompute(torchvision_model(backbone).features)


def test_statistics_are_not_learned_twice() -> None:
    with pytest.raises(UserError, match="would see each image twice"):
        load(TrainConfig, ["engine.recompute=true", "model.freeze_batchnorm=false"])
