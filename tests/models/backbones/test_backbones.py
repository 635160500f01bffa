"""Backbones of torchvision and timm."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import VisionTransformer

from largescale.models.backbones.backbones import build_backbone, source_keys
from largescale.models.backbones.torchvision_backbones import TorchvisionTransformer
from largescale.models.build import build_network
from largescale.models.config import TORCHVISION, ModelConfig
from largescale.settings import UserError

TRUNKS = {
    "alexnet": (256, (4, 7)),
    "vgg16": (512, (5, 8)),
    "vgg19": (512, (5, 8)),
    "resnet18": (512, (3, 5)),
    "resnet50": (2048, (3, 5)),
    "resnet101": (2048, (3, 5)),
    "squeezenet1_1": (512, (5, 8)),
    "mobilenet_v2": (1280, (3, 5)),
    "swin_t": (768, (3, 4)),
    "vit_b_16": (768, (5, 8)),
    "timm:test_resnet": (96, (3, 5)),
    "timm:test_convnext": (64, (2, 4)),
    "timm:test_vit": (64, (5, 8)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TRUNKS)
def test_a_map_at_any_size(name: str) -> None:
    channels, (height, width) = TRUNKS[name]
    with torch.device("meta"):
        backbone, contract = build_backbone(name)
        features = backbone.eval()(torch.randn(2, 3, 80, 128) if "vit" in name else torch.randn(2, 3, 85, 131))
    assert tuple(features.shape) == (2, channels, height, width)
    assert contract.prefix == (1 if "vit" in name else 0)


def test_every_torchvision_name_is_tested() -> None:
    assert set(TORCHVISION) <= set(TRUNKS)


def _small_transformer() -> VisionTransformer:
    torch.manual_seed(0)
    whole = VisionTransformer(image_size=32, patch_size=8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32).eval()
    whole.heads = nn.Identity()
    return whole


def test_transformer_of_torchvision_is_torchvisions() -> None:
    whole, images = _small_transformer(), torch.randn(2, 3, 32, 32)
    names = set(whole.state_dict())
    with torch.no_grad():
        expected = whole(images)
        backbone = TorchvisionTransformer(whole, "class_token")
        torch.testing.assert_close(backbone(images)[:, :, 0, 0], expected)
        assert TorchvisionTransformer(_small_transformer(), "map")(torch.randn(2, 3, 50, 27)).shape == (2, 16, 6, 3)
    assert set(backbone.state_dict()) == names


def test_frozen_weights_are_multiplied_with_all_images_at_once() -> None:
    backbone = TorchvisionTransformer(_small_transformer(), "class_token").requires_grad_(False).train()
    with FlopCounterMode(display=False) as counter:
        backbone(torch.randn(3, 3, 32, 32))
    assert torch.ops.aten.bmm not in counter.get_flop_counts()["Global"]


@pytest.mark.slow
def test_tokens_of_timm_keep_their_places() -> None:
    backbone, _ = build_backbone("timm:test_vit")
    images = torch.randn(1, 3, 160, 160)
    with torch.no_grad():
        tokens = backbone.eval().model.forward_features(images)
        features, token = backbone(images), build_backbone("timm:test_vit", "class_token")[0]
        token.load_state_dict(backbone.state_dict())
        torch.testing.assert_close(token.eval()(images)[:, :, 0, 0], tokens[:, 0])
    assert features[0, :, 2, 3].equal(tokens[0, 1 + 2 * 10 + 3])


@pytest.mark.slow
def test_maps_of_timm_with_channels_last() -> None:
    with torch.device("meta"):
        backbone, _ = build_backbone("timm:swin_tiny_patch4_window7_224")
        assert backbone.eval()(torch.randn(1, 3, 64, 96)).shape == (1, 768, 2, 3)


@pytest.mark.slow
def test_class_token_needs_one() -> None:
    for name in ("resnet18", "timm:test_resnet"):
        with pytest.raises(UserError, match="no class token"):
            build_backbone(name, "class_token")
    net = build_network(ModelConfig(backbone="timm:test_vit", pooling="class_token"))
    assert net.eval()(torch.randn(2, 3, 48, 64)).shape == (2, 64)


@pytest.mark.slow
def test_a_recipe_with_an_exponent_takes_transformers_too() -> None:
    assert build_network(ModelConfig(backbone="timm:test_vit", gem_p=1.5)).config.pooling == "own"
    with pytest.raises(UserError, match="half of the numbers in the tokens of a transformer are negative"):
        build_network(ModelConfig(backbone="timm:test_vit", pooling="gem"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "pooling"),
    [
        *((name, "gem") for name in ("alexnet", "resnet18", "squeezenet1_1", "mobilenet_v2", "timm:test_resnet")),
        *((f"timm:test_{name}", "spoc") for name in ("convnext", "efficientnet", "nfnet", "maxvit", "coatnet", "mambaout")),
        ("swin_t", "spoc"),
    ],
)
def test_maps_with_negative_numbers_are_not_pooled_by_gem_unless_it_is_named(
    name: str, pooling: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "largescale")
    state = torch.get_rng_state()
    assert build_network(ModelConfig(backbone=name)).config.pooling == pooling
    if pooling == "gem":
        assert not caplog.text
        after = torch.get_rng_state()
        torch.set_rng_state(state)
        build_backbone(name)
        assert torch.get_rng_state().equal(after)
    else:
        assert f"pooling={pooling} of {name}" in caplog.text
        assert build_network(ModelConfig(backbone=name, pooling="gem")).config.pooling == "gem"
        assert f"pooling=gem of {name}" in caplog.text


def test_unknown_names() -> None:
    with pytest.raises(UserError, match="resnet50"):
        build_backbone("timm:resnett50")
    with pytest.raises(UserError, match=r"no weights .foo. of test_vit; there are test_vit\."):
        build_backbone("timm:test_vit.foo")
    with pytest.raises(ValueError, match="the nearest is squeezenet1_1"):
        ModelConfig(backbone="squeezenet1")


@pytest.mark.slow
def test_names_are_those_of_the_source() -> None:
    for name, head in (("resnet18", {"fc.weight", "fc.bias"}), ("squeezenet1_1", {"classifier.1.weight", "classifier.1.bias"})):
        assert source_keys(name) - set(build_backbone(name)[0].state_dict()) == head


@pytest.mark.slow
@pytest.mark.parametrize("name", ["swin_t", "timm:swin_tiny_patch4_window7_224"])
def test_nothing_is_dropped_at_random_unless_asked_for(name: str) -> None:
    """These do by default, and what a step learned depended on how many processes shared its images."""
    layers = list(build_backbone(name)[0].modules())
    assert not [layer for layer in layers if getattr(layer, "drop_prob", 0) or getattr(layer, "p", 0)]


@pytest.mark.slow
def test_several_maps_are_put_together_by_their_own_head() -> None:
    net = build_network(ModelConfig(backbone="timm:crossvit_tiny_240", weights="none"))
    assert (net.config.pooling, net.dim) == ("own", 96 + 192)
    assert net(torch.zeros(2, 3, 240, 240)).shape == (2, 288)
    with pytest.raises(UserError, match="several maps of an image, which its own head puts together; use pooling=own"):
        build_network(ModelConfig(backbone="timm:crossvit_tiny_240", weights="none", pooling="spoc"))
