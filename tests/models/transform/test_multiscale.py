"""The mean over scales against cirtorch and dirtorch, and the network at several scales against itself at each."""

import numpy as np
import pytest
import torch

from largescale.models.build import build_network
from largescale.models.config import ModelConfig, Pooling
from largescale.models.transform.multiscale import AtScales, merge_scales, resize
from largescale.settings import UserError
from tests.evaluation.small import tiny_network
from tests.goldens import Golden, goldens


@pytest.mark.parametrize("case", goldens("expansion", "extract_ms"))
def test_mean_over_scales_is_that_of_cirtorch(case: Golden) -> None:
    arrays = case.arrays()
    ours = merge_scales(torch.tensor(arrays["in_vectors"])[:, None], case.args["msp"])[0]
    if "_signed_" in case.id and case.args["msp"] == 2:  # its square forgets the sign
        assert arrays["out_aggregated"].min() >= 0
        assert ours.min() < 0
    else:
        case.compare("aggregated", ours)


@pytest.mark.parametrize("case", goldens("expansion", "naver_pool_scales"))
def test_mean_over_scales_is_that_of_dirtorch(case: Golden) -> None:
    exponent = case.args["gemp"] if case.args["pooling"] == "gem" else 1
    case.compare("normalised", merge_scales(torch.tensor(case.arrays()["in_vectors"]).double()[:, None], exponent))


@pytest.mark.slow
def test_network_at_scales() -> None:
    network, images = tiny_network().eval(), torch.randn(2, 3, 64, 48, generator=torch.Generator().manual_seed(0))
    scales = (2**0.5, 1.0, 2**-0.5)
    with torch.no_grad():
        found = AtScales([network] * 3, scales)(images)
        for number, scale in enumerate(scales):
            np.testing.assert_array_equal(found[:, number], network(resize(images, scale)))
    assert found.shape == (2, 3, 24)


@pytest.mark.slow
def test_several_poolings_of_one_backbone() -> None:
    network, images = build_network(ModelConfig(backbone="squeezenet1_1", gem_p=2.5)).eval(), torch.randn(2, 3, 64, 48)
    poolings: tuple[Pooling, ...] = ("gem", "mac", "spoc", "rmac")
    networks = [network.pooled(pooling) for pooling in poolings]
    seen: list[torch.Tensor] = []
    network.backbone.register_forward_hook(lambda *_: seen.append(images))
    with torch.no_grad():
        found = AtScales(networks * 2, [scale for scale in (1.0, 0.5**0.5) for _ in poolings])(images)
        assert len(seen) == 2
        np.testing.assert_array_equal(found[:, 0], network(images))
        for number, pooled in enumerate(networks * 2):
            np.testing.assert_array_equal(found[:, number], pooled(images if number < 4 else resize(images, 0.5**0.5)))
    assert len(np.unique(found[0].numpy(), axis=0)) == 8
    with pytest.raises(UserError, match="no other pooling"):
        network.pooled("class_token")
