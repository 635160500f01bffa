"""Poolings against cirtorch, and the laws that its numbers do not show."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from largescale.models.pooling import MAC, RMAC, GeM, SPoC, l2_normalize, rmac_regions
from tests.goldens import PRECISIONS, Golden, goldens

POOLS: dict[str, Callable[[dict], nn.Module]] = {
    "mac": lambda args: MAC(),
    "spoc": lambda args: SPoC(),
    "gem": lambda args: GeM(args["p"], learned=False),
    "rmac": lambda args: RMAC(args["L"]),
}


def _check(case: Golden, pool: Callable[[torch.Tensor], torch.Tensor], precision: str) -> None:
    arrays = case.arrays()
    x = torch.tensor(arrays["in_x"], dtype=getattr(torch, precision), requires_grad=True)
    value = pool(x)
    (value.reshape(arrays["in_w"].shape) * torch.tensor(arrays["in_w"])).sum().backward()
    case.compare("value", value.detach(), precision)
    case.compare("grad_x", x.grad, precision)


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("case", goldens("pooling", *POOLS))
def test_equals_cirtorch(case: Golden, precision: str) -> None:
    _check(case, POOLS[case.facts["group"]](case.args), precision)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("case", goldens("pooling", "gem_learned", "gemmp"))
def test_learned_exponent_equals_cirtorch(case: Golden, precision: str) -> None:
    exponent = torch.tensor(case.arrays()["in_p"], dtype=getattr(torch, precision))
    pool = GeM(channels=len(exponent)).to(exponent.dtype)
    pool.load_state_dict({"p": exponent})
    _check(case, pool, precision)
    case.compare("grad_p", pool.p.grad, precision)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("case", goldens("pooling", "l2n"))
def test_normalization_equals_cirtorch(case: Golden, precision: str) -> None:
    _check(case, l2_normalize, precision)


@pytest.mark.parametrize("case", goldens("pooling", "rmac_regions"))
def test_regions_equal_cirtorch(case: Golden) -> None:
    height, width = case.arrays()["in_HW"].tolist()
    case.compare("regions", rmac_regions(height, width, case.args["L"]))


@pytest.mark.parametrize("shape", [(11, 3), (2, 32), (2, 63), (40, 25), (1, 9)])
def test_regions_of_each_size_reach_both_ends(shape: tuple[int, int]) -> None:
    """cirtorch's float32 arithmetic rounds some last starts down (2 x 32, level 2), so that its regions miss the boundary."""
    boxes = np.array(rmac_regions(*shape, levels=3)[1:])
    for side in np.unique(boxes[:, 2]):
        same = boxes[boxes[:, 2] == side]
        assert same[:, :2].min(0).tolist() == [0, 0]
        assert (same[:, :2] + side).max(0).tolist() == list(shape)


def test_worked_example() -> None:
    x = torch.tensor([[0.0, 1], [2, 3]])[None, None]
    assert MAC()(x).item() == 3
    assert SPoC()(x).item() == 1.5
    assert GeM(2.32)(x).item() == pytest.approx(1.947808, abs=1e-6)
    assert GeM(3)(x).item() == pytest.approx(2.080084, abs=1e-6)


def test_fixed_exponent_is_no_parameter() -> None:
    assert not list(GeM(learned=False).parameters())
    assert [tuple(p.shape) for p in GeM(channels=8).parameters()] == [(8,)]


@pytest.mark.slow
@pytest.mark.parametrize("pool", [MAC(), SPoC(), GeM(), RMAC()], ids=lambda pool: type(pool).__name__)
def test_gradient(pool: nn.Module) -> None:
    torch.manual_seed(0)
    x = torch.rand(2, 3, 5, 7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(pool.double(), (x,))
