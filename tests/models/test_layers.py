"""Layers of a backbone, in the order in which images pass them."""

import pytest
import torch

from largescale.models.backbones.backbones import build_backbone
from largescale.models.layers import layers_of


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "timm:test_vit", "timm:poolformer_s12"])
def test_layers_follow_each_other(name: str) -> None:
    """By timm's grouping and, where it has none (MetaFormer), by the names of the parameters."""
    with torch.device("meta"):
        backbone = build_backbone(name)[0]
    numbers = layers_of(backbone)
    assert numbers.keys() == dict(backbone.named_parameters()).keys()
    assert sorted(set(numbers.values())) == list(range(max(numbers.values()) + 1))
    assert max(numbers.values()) > 3
    assert next(iter(numbers.values())) == 0
