"""The whole network against cirtorch's, on the same weights."""

import functools
import io

import numpy as np
import pytest
import torch

from largescale.losses import ContrastiveLoss
from largescale.models.backbones.contract import Contract
from largescale.models.build import build_network
from largescale.models.config import ModelConfig
from largescale.models.network import RetrievalNet
from largescale.models.transform.multiscale import merge_scales, resize
from tests.goldens import PRECISIONS, Golden, goldens, read


@functools.cache
def _weights() -> dict[str, torch.Tensor]:
    """ResNet-18 with random weights, stored in 8 bits."""
    with np.load(io.BytesIO(read("network", "weights_resnet18.npz"))) as file:
        values = {name.removeprefix("value:"): file[name] for name in file if name.startswith("value:")}
        for name in file:
            if name.startswith("level:"):
                values[name.removeprefix("level:")] = file[name].astype(np.float32) * file["scale:" + name.removeprefix("level:")]
    return {name: torch.tensor(value) for name, value in values.items()}


def _network(case: Golden, dtype: torch.dtype) -> RetrievalNet:
    projection = 512 if case.args.get("whitening") else None
    net = build_network(ModelConfig(pooling=case.args["pooling"], projection=projection))
    weights = _weights()
    state = net.state_dict()
    for name in state:
        published = name.removeprefix("backbone.").replace("projection", "whiten")
        if not name.endswith("num_batches_tracked"):
            state[name] = weights[published]
    net.load_state_dict(state)
    return net.to(dtype)


def _images(case: Golden, dtype: torch.dtype) -> torch.Tensor:
    """Normalized in float32 also for float64, step by step as the peer's were."""
    return _as_torchvision(torch.tensor(case.arrays()["in_images"]).permute(0, 3, 1, 2)).to(dtype)


def _as_torchvision(images: torch.Tensor) -> torch.Tensor:
    """ToTensor and Normalize."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (Contract.mean, Contract.std))
    return images.float().div(255).sub(mean).div(std)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_pixels_become_the_floats_of_torchvision(memory_format: torch.memory_format) -> None:
    every = torch.arange(256, dtype=torch.uint8).repeat(3, 1).T.reshape(2, 8, 16, 3).permute(0, 3, 1, 2)
    images = every.contiguous(memory_format=memory_format)
    floats = Contract().normalize(images)
    torch.testing.assert_close(floats, _as_torchvision(images), rtol=0, atol=5e-7)
    assert floats.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.slow
@pytest.mark.parametrize("case", goldens("network", "network"))
def test_descriptors_equal_cirtorch(case: Golden) -> None:
    with torch.no_grad():
        case.compare("descriptors", _network(case, torch.float64)(_images(case, torch.float64)).T, "float64")


@pytest.mark.slow
@pytest.mark.parametrize("case", goldens("network", "network_multiscale"))
def test_scales_equal_cirtorch(case: Golden) -> None:
    net, images = _network(case, torch.float32), _images(case, torch.float32)
    with torch.no_grad():
        per_scale = torch.stack([net(resize(images, scale)) for scale in case.args["scales"]])  # (S, 1, D)
    assert net.scale_exponent == pytest.approx(case.args["msp"])
    case.compare("per_scale", per_scale[:, 0].T)
    case.compare("descriptor", merge_scales(per_scale, net.scale_exponent)[0])


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("case", goldens("network", "network_training_step"))
def test_training_step_equals_cirtorch(case: Golden, precision: str) -> None:
    """In training mode: frozen batch normalization is what cirtorch does by evaluation mode."""
    dtype = getattr(torch, precision)
    net = _network(case, dtype).train()
    x = net(_images(case, dtype))
    loss = ContrastiveLoss(case.args["margin"], "sum")(x[:1], x[1:2], x[None, 2:])
    loss.backward()
    case.compare("descriptors", x.detach().T, precision)
    case.compare("loss", loss.detach(), precision)
    gradients = {name.removeprefix("backbone.").replace("projection", "whiten"): p.grad for name, p in net.named_parameters()}
    case.compare("grad_norms", [gradients[name].norm().item() for name in case.args["grad_norm_names"]], precision)
    case.compare("grad_p", gradients["pool.p"], precision)
    case.compare("grad_conv1_filters8", gradients["conv1.weight"][:8], precision)
    if case.args.get("whitening"):
        case.compare("grad_whiten_bias", gradients["whiten.bias"], precision)
        case.compare("grad_whiten_weight_rows8", gradients["whiten.weight"][:8], precision)


def test_merged_scales() -> None:
    rows = torch.tensor([[[1.0, 0, 1]], [[1, 1, 0]]]) / 2**0.5
    np.testing.assert_allclose(merge_scales(rows), [[0.816497, 0.408248, 0.408248]], atol=1e-6)
    np.testing.assert_allclose(merge_scales(rows, 3), [[0.665202, 0.527971, 0.527971]], atol=1e-6)
    assert merge_scales(torch.tensor([[[-0.6, 0.8]], [[0.6, 0.8]]]), 3).isfinite().all()


@pytest.mark.slow
def test_batch_normalization_is_frozen_or_not() -> None:
    images = torch.randn(2, 3, 32, 32)
    frozen, free = build_network(ModelConfig()), build_network(ModelConfig(freeze_batchnorm=False))
    before = frozen.backbone.bn1.running_mean.clone()
    frozen(images).sum().backward()
    assert frozen.backbone.bn1.running_mean.equal(before)
    assert frozen.backbone.bn1.weight.grad is not None
    assert frozen.train().training
    free(images)
    assert not free.backbone.bn1.running_mean.equal(before)


@pytest.mark.slow
def test_frozen_layers_keep_their_statistics() -> None:
    net = build_network(ModelConfig(freeze=1, freeze_batchnorm=False))
    before = {name: x.clone() for name, x in net.backbone.named_buffers() if x.is_floating_point()}
    net(torch.randn(2, 3, 32, 32))
    kept = {name for name, x in net.backbone.named_buffers() if name in before and x.equal(before[name])}
    assert kept == {"bn1.running_mean", "bn1.running_var"}


@pytest.mark.slow
def test_low_precision_stays_in_the_backbone() -> None:
    torch.manual_seed(0)
    net = build_network(ModelConfig(backbone="squeezenet1_1", projection=32)).eval()
    images = torch.randn(2, 3, 64, 48)
    with torch.no_grad():
        exact = net(images)
        with torch.autocast("cpu", torch.bfloat16):
            seen: list[torch.dtype] = []
            net.backbone.register_forward_hook(lambda module, args, features: seen.append(features.dtype))
            rough = net(images)
    assert seen == [torch.bfloat16]
    assert exact.dtype == rough.dtype == torch.float32
    torch.testing.assert_close(rough.norm(dim=1), torch.ones(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(rough, exact, atol=0.02, rtol=0)


@pytest.mark.slow
def test_descriptors_as_they_are() -> None:
    torch.manual_seed(0)
    images = torch.randn(2, 3, 48, 48)
    raw, unit = (build_network(ModelConfig(backbone="squeezenet1_1", normalize=normalize)).eval() for normalize in (False, True))
    unit.load_state_dict(raw.state_dict())
    with torch.no_grad():
        x = raw(images)
        torch.testing.assert_close(x / x.norm(dim=1, keepdim=True), unit(images), atol=1e-5, rtol=0)
    assert not x.norm(dim=1).allclose(torch.ones(2), atol=0.01)


def test_normalize() -> None:
    black, white = torch.zeros(1, 3, 1, 1, dtype=torch.uint8), torch.full((1, 3, 1, 1), 255, dtype=torch.uint8)
    np.testing.assert_allclose(Contract().normalize(black).flatten(), [-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225], rtol=1e-6)
    np.testing.assert_allclose(Contract().normalize(white).flatten(), [0.515 / 0.229, 0.544 / 0.224, 0.594 / 0.225], rtol=1e-6)


@pytest.mark.slow
def test_memory_format_changes_nothing() -> None:
    torch.manual_seed(0)
    last = build_network(ModelConfig(channels_last=True)).eval()
    first = build_network(ModelConfig(channels_last=False)).eval()
    first.load_state_dict(last.state_dict())
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(last(images), first(images), atol=1e-6, rtol=1e-5)


def test_channels_come_first_where_the_gradient_of_torch_fails() -> None:
    """FastViT's stem takes every second pixel by itself; the process would end."""
    skipping, plain = (torch.nn.Conv2d(3, 48, side, stride=2, bias=False) for side in (1, 3))
    nets = [RetrievalNet(ModelConfig(), layer, Contract(channels=48)) for layer in (skipping, plain)]
    assert [net.memory_format for net in nets] == [torch.contiguous_format, torch.channels_last]
    nets[0](torch.randn(1, 3, 96, 96)).sum().backward()
    assert skipping.weight.grad is not None


class _Volumes(torch.nn.Module):
    """A layer whose weights have five dimensions, as timm's lambda networks have them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = torch.nn.Conv2d(3, 4, 3), torch.nn.Conv3d(1, 5, (1, 3, 3))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(images)[:, None]).mean(2)


def test_weights_of_five_dimensions() -> None:
    net = RetrievalNet(ModelConfig(pooling="spoc"), _Volumes(), Contract(channels=5))
    assert net.backbone.first.weight.is_contiguous(memory_format=torch.channels_last)
    net(torch.rand(2, 3, 8, 8)).sum().backward()
    assert net.backbone.second.weight.grad is not None
