"""One setting with one meaning."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

import largescale.precision
from largescale.distributed import World
from largescale.models.build import build_network
from largescale.models.config import ModelConfig
from largescale.models.whitening import PCAWhitening
from largescale.precision import Precision, agreed, autocast, resolve
from tests.world import run_world

CPU = torch.device("cpu")


def agreed_where_some_are_fast(world: World, precision: Precision, fast: set[int]) -> str:
    largescale.precision._fast_on_cpu = lambda: world.rank in fast
    return agreed(precision, world)


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize(
    ("precision", "fast", "expected"),
    [("auto", {0}, "fp32"), ("auto", {0, 1}, "bf16"), ("bf16", {0}, "bf16"), ("fp32", {0, 1}, "fp32")],
)
def test_ranks_compute_in_the_same_numbers(precision: Precision, fast: set[int], expected: str) -> None:
    assert run_world(2, agreed_where_some_are_fast, precision, fast) == [expected] * 2


def test_auto_is_what_the_processor_has_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    for fast, expected in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr(largescale.precision, "_fast_on_cpu", lambda fast=fast: fast)
        assert resolve("auto", CPU) == expected
        assert resolve("fp32", CPU) == "fp32"


def in_bf16(action: Callable[[], Any]) -> Any:
    with torch.inference_mode(), autocast("bf16", CPU):
        return action()


def test_whitening_is_fp32_within_an_autocast() -> None:
    x = torch.nn.functional.normalize(torch.randn(64, 16))
    whitening = PCAWhitening.fit(x)
    assert torch.equal(in_bf16(lambda: whitening.apply(x)), whitening.apply(x))


@pytest.mark.parametrize("backbone", ["test_resnet.r160_in1k", "test_vit3"])
def test_a_networks_own_pooling_is_fp32(backbone: str) -> None:
    """An average, and an attention pool."""
    network = build_network(ModelConfig(backbone=f"timm:{backbone}", pooling="own")).eval()
    model, images = network.backbone.model, torch.randn(1, 3, 160, 160)
    given: list[torch.Tensor] = []
    pool = model.attn_pool if getattr(model, "attn_pool", None) is not None else model.global_pool
    pool.register_forward_hook(lambda layer, args, out: given.extend((args[0], out)))
    in_bf16(lambda: network(images))
    assert [x.dtype for x in given] == [torch.float32] * 2
