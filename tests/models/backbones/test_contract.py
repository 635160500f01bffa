"""What a backbone asks of images: from its publisher, through the weights file, to the reader."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from largescale.corpus.config import AugmentConfig, ImagesConfig
from largescale.corpus.images import center_crop, target_shapes
from largescale.models import backbone
from largescale.models.backbones.contract import Contract
from largescale.models.backbones.probe import borne
from largescale.models.build import build_network, load_network
from largescale.models.config import ModelConfig
from largescale.models.weights import save_weights
from largescale.program.inputs import seen_by, stated, trained_on
from largescale.settings import UserError


def _contract(name: str) -> Contract:
    return build_network(ModelConfig(backbone=name)).contract


@pytest.mark.slow
def test_published_numbers() -> None:
    import timm

    for name in ("test_vit", "test_resnet"):
        published, found = timm.get_pretrained_cfg(name), _contract(f"timm:{name}")
        assert (found.mean, found.std, found.size) == (published.mean, published.std, published.input_size[1])
        assert found.interpolation == published.interpolation
    assert _contract("squeezenet1_1") == Contract(least=17, channels=512)


@pytest.mark.slow
def test_sizes_that_are_borne() -> None:
    convolutions, patches, windows = (_contract(f"timm:test_{name}") for name in ("resnet", "vit", "maxvit"))
    assert (convolutions.multiple, convolutions.least, convolutions.fixed) == (1, 1, False)
    assert (patches.multiple, patches.least, patches.prefix) == (16, 16, 1)
    assert (windows.fixed, windows.fit) == (True, "squash")
    assert [patches.borne(side) for side in (1, 16, 23, 25, 362)] == [16, 16, 16, 32, 368]
    assert windows.borne(362) == windows.size


class _Deep(nn.Sequential):
    """Makes nothing of less than 20 pixels."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 5, 20))


@pytest.mark.slow
def test_least_side() -> None:
    found = borne(_Deep(), Contract(), "deep")
    assert (found.least, found.multiple, found.channels) == (20, 1, 5)
    with pytest.raises(UserError, match="flat makes no feature map"):
        borne(nn.Sequential(_Deep(), nn.Flatten()), Contract(), "flat")


def test_images_as_the_network_wants_them() -> None:
    patches = Contract(multiple=14, least=14, size=518, interpolation="bicubic", mean=(0.5, 0.5, 0.5))
    seen = seen_by(patches, ImagesConfig())
    assert (seen.size, seen.fit, seen.interpolation) == (518, "inside", "bicubic")
    asked = seen_by(patches, ImagesConfig(size=362, fit="crop", interpolation="bilinear", augment=AugmentConfig()))
    assert (asked.size, asked.fit, asked.interpolation, asked.augment) == (364, "crop", "bilinear", AugmentConfig())
    assert seen_by(patches, asked) == asked
    cropped = seen_by(Contract(crop_share=0.9), ImagesConfig(size=64, fit="crop"))
    assert center_crop((10, 0, 110, 200), cropped) == (15, 55, 105, 145)
    assert center_crop((0, 0, 256, 128), ImagesConfig(size=64, fit="squash_crop", crop_share=0.875)) == (16, 8, 240, 120)
    assert "longest side 364 (not 362, which the network does not bear)" in stated(patches, ImagesConfig(size=362))
    assert seen_by(Contract(fixed=True, size=224, multiple=224, least=224), ImagesConfig(size=362)).fit == "squash"


def test_images_are_larger_after_training_by_the_scale_of_its_crops() -> None:
    images = ImagesConfig(size=100, augment=AugmentConfig(crop_scale=(0.6, 1.0), test_scale=1.25))
    after = images.after_training()
    assert (after.size, after.augment, after.after_training()) == (125, None, after)
    assert trained_on(Contract(), images).size == 125
    assert trained_on(Contract(multiple=14, least=14), images).size == 126  # 1.25 x 98
    assert trained_on(Contract(size=90), ImagesConfig(augment=AugmentConfig(test_scale=1.25))).size == 112
    assert trained_on(Contract(fixed=True, size=224), images).size == 224
    assert trained_on(Contract(), images.model_copy(update={"augment": None})).size == 100


def test_shapes_are_multiples_and_no_side_is_too_short() -> None:
    width, height = np.array([1000, 900, 2, 20]), np.array([750, 12, 400, 20])
    images = seen_by(Contract(multiple=14, least=28), ImagesConfig(size=224))
    assert target_shapes(width, height, images).tolist() == [[168, 224], [28, 224], [224, 28], [28, 28]]


@pytest.mark.slow
def test_weights_file_keeps_the_contract(tmp_path: Path) -> None:
    net = build_network(ModelConfig(backbone="timm:test_vit", pooling="class_mean"))
    net.contract = trained_on(net.contract, ImagesConfig(size=90, fit="crop"))
    save_weights(net, tmp_path / "net.safetensors", {})
    again, _ = load_network(tmp_path / "net.safetensors")
    assert again.contract == net.contract
    assert (again.contract.size, again.contract.fit) == (96, "crop")


@backbone
def plugged() -> nn.Module:
    module = nn.Sequential(nn.Conv2d(3, 6, 8, 8), nn.ReLU())
    module.contract = replace(Contract(), mean=(0.1, 0.2, 0.3))
    return module


def unmarked() -> nn.Module:
    raise AssertionError("called")


@pytest.mark.slow
def test_backbone_of_ones_own(tmp_path: Path) -> None:
    net = build_network(ModelConfig(backbone=f"{__name__}:plugged")).eval()
    assert (net.dim, net.contract.mean, net.contract.least) == (6, (0.1, 0.2, 0.3), 8)
    save_weights(net, tmp_path / "own.safetensors", {})
    again, images = load_network(tmp_path / "own.safetensors")[0].eval(), torch.randn(2, 3, 20, 16)
    assert again(images).equal(net(images))
    for name, message in {"unmarked": "not marked", "absent": "no attribute"}.items():
        with pytest.raises(UserError, match=message):
            build_network(ModelConfig(backbone=f"{__name__}:{name}"))
    with pytest.raises(UserError, match="pooling=class_token needs a transformer"):
        build_network(ModelConfig(backbone=f"{__name__}:plugged", pooling="class_token"))


@pytest.mark.slow
def test_poolings_of_tokens() -> None:
    images = torch.randn(2, 3, 48, 64)
    for pooling, dim in {"class_token": 64, "class_mean": 128, "spoc": 64, "own": 64}.items():
        net = build_network(ModelConfig(backbone="timm:test_vit", pooling=pooling)).eval()
        with torch.no_grad():
            assert net(images).shape == (2, dim) == (2, net.dim)
            tokens = net.backbone.model.forward_features(images)
            expected = {
                "class_token": tokens[:, 0],
                "class_mean": torch.cat([tokens[:, 0], tokens[:, 1:].mean(1)], 1),
                "spoc": tokens[:, 1:].mean(1),
                "own": net.backbone.model.forward_head(tokens, pre_logits=True),
            }[pooling]
            torch.testing.assert_close(net(images), nn.functional.normalize(expected), atol=1e-5, rtol=1e-4)
