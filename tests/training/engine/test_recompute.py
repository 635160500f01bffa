import copy

import pytest
import torch
from torch import Tensor, nn

from largescale.config import load
from largescale.models.build import build_network
from largescale.models.config import ModelConfig
from largescale.settings import UserError
from largescale.training.engine.recompute import blocks_of, recompute
from largescale.training.settings.recipe import TrainConfig


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
@pytest.mark.parametrize(("backbone", "share"), [("resnet18", 0.6), ("squeezenet1_1", 0.75), ("timm:test_vit", 0.6)])
def test_the_same_gradient_with_less_memory(backbone: str, share: float) -> None:
    torch.manual_seed(0)
    pooling = "class_token" if "vit" in backbone else "gem"
    plain = build_network(ModelConfig(backbone=backbone, weights="none", pooling=pooling))
    saving, images = copy.deepcopy(plain), torch.randn(2, 3, 160, 160)
    names = list(plain.state_dict())
    recompute(saving.backbone)
    assert list(saving.state_dict()) == names
    (expected, whole), (found, less) = step(plain, images), step(copy.deepcopy(saving), images)
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
    assert less < share * whole


@pytest.mark.slow
def test_blocks_are_not_cut() -> None:
    blocks = list(blocks_of(build_network(ModelConfig(backbone="resnet18", weights="none")).backbone))
    assert [type(block).__name__ for block in blocks] == ["BasicBlock"] * 8


def test_statistics_are_not_learned_twice() -> None:
    with pytest.raises(UserError, match="would see each image twice"):
        load(TrainConfig, ["engine.recompute=true", "model.freeze_batchnorm=false"])
