"""Recipes of today's networks: they fit together, and the networks are as timm publishes them."""

from pathlib import Path

import pytest
import timm
import torch

from largescale.config import load
from largescale.models.backbones.timm_backbones import timm_backbone
from largescale.models.backbones.tokens import Tokens
from largescale.training.settings.recipe import TrainConfig

MODERN = Path(__file__).parents[2] / "configs/modern"
RECIPES = [*sorted(MODERN.glob("*.yaml")), MODERN.parent / "labels.yaml"]
TOKENS: dict[str, Tokens] = {"class_token": "class_token", "own": "own", "gem": "map"}
FACTS = {
    "convnext-b": (224, None, 0),
    "dinov2-b": (518, 14, 5),
    "dinov3-b": (256, 16, 5),
    "dinov3-l": (256, 16, 5),
    "dinov3-s": (256, 16, 5),
    "siglip2-b": (224, 16, 0),
}
"""Pixels of a side as published, of a patch, and the tokens before those of the patches (class token, registers)."""


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_each_network_fits_each_recipe(recipe: Path) -> None:
    for name, (_, patch, _) in FACTS.items():
        config = load(TrainConfig, [str(recipe), str(MODERN / f"networks/{name}.yaml")])
        assert config.model.weights == "imagenet"
        assert config.images.size is not None
        assert config.images.size % (patch or 1) == 0


def test_landmarks_have_three_centers_that_the_processes_share() -> None:
    config = load(TrainConfig, [str(MODERN / "gldv2.yaml")])
    assert config.loss.name == "arcface"
    assert config.loss.sub_centers == 3
    assert config.loss.sample_rate == 0.1
    assert "gldv2" in config.evaluate


@pytest.mark.parametrize("data", ["cars", "cub", "inat", "sop"])
def test_mined_negatives_for_each_set_of_classes(data: str) -> None:
    config, other = (load(TrainConfig, [str(MODERN / f"{name}.yaml")]) for name in (f"{data}-infonce", data))
    assert config.loss.name == "infonce"
    assert config.mining is not None
    assert config.mining.negatives == 5
    assert (config.corpus, config.epochs, config.model, config.images) == (
        other.corpus,
        other.epochs,
        other.model,
        other.images,
    )
    assert (config.evaluation, config.evaluate) == (other.evaluation, other.evaluate)


@pytest.mark.slow
@pytest.mark.parametrize("name", FACTS)
def test_networks_are_as_published(name: str) -> None:
    config = load(TrainConfig, [str(RECIPES[0]), str(MODERN / f"networks/{name}.yaml")]).model
    published = timm.get_pretrained_cfg(config.backbone.removeprefix("timm:"), allow_unregistered=False)
    with torch.device("meta"):  # of its size, without its numbers
        pooling = str(config.pooling)
        backbone, found = timm_backbone(config.backbone.removeprefix("timm:"), TOKENS[pooling], config.drop_path)
    assert (found.mean, found.std, found.interpolation) == (published.mean, published.std, published.interpolation)
    patch = getattr(backbone.model, "patch_embed", None)
    assert (found.size, patch and patch.patch_size[0], found.prefix) == FACTS[name]


def test_every_network_is_checked() -> None:
    assert {path.stem for path in (MODERN / "networks").glob("*.yaml")} == set(FACTS)
