"""The mean over scales against cirtorch and dirtorch, and the network at several scales against itself at each."""

import numpy as np
import pytest
import torch

from largescale.models.multiscale import AtScales, merge_scales, resize
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


def test_network_at_scales() -> None:
    network, images = tiny_network().eval(), torch.randn(2, 3, 64, 48, generator=torch.Generator().manual_seed(0))
    scales = (2**0.5, 1.0, 2**-0.5)
    with torch.no_grad():
        found = AtScales(network, scales)(images)
        for number, scale in enumerate(scales):
            np.testing.assert_array_equal(found[:, number], network(resize(images, scale)))
    assert found.shape == (2, 3, 24)
