"""RDE: worked numbers, properties, and each switch of its register."""

from typing import Any

import numpy as np
import pytest
import torch

from largescale.losses import ContrastiveLoss, RDEContrastiveLoss, RDEDistance, RDETripletLoss
from largescale.losses.tuples.rde import histograms, rde, rde_distance, relative_entropy
from largescale.testing.loss_laws import tuples

TOY = torch.tensor([[1, 1, 1, 1, 0, 0, 0, 0], [2, 1, 1, 0, 0, 0, 0, 1], [3, 0, 0, 0, 0, 0, 0, 0.5]], dtype=torch.float64)
QUERY, POSITIVE, NEGATIVE = (row[None, None] / row.norm() for row in TOY)


def _rde(samples: torch.Tensor, **settings: Any) -> float:
    return rde(QUERY, samples, RDEDistance(**{"bins": 4, "range": "unit"} | settings)).item()


def test_relative_entropy() -> None:
    p, q = torch.tensor([0.6, 0.3, 0.1]), torch.tensor([0.3, 0.3, 0.4])
    assert relative_entropy(p, q).item() == pytest.approx(0.277259, abs=1e-6)
    assert relative_entropy(q, p).item() == pytest.approx(0.346574, abs=1e-6)


def test_worked_examples() -> None:
    assert (QUERY - POSITIVE).norm().item() == pytest.approx(0.698672, abs=1e-6)
    values = {"add_one": 0.497312, 1e-3: 3.091388, 1e-6: 6.561145, "skip": 0.0}
    for smoothing, expected in values.items():
        assert _rde(POSITIVE, smoothing=smoothing) == pytest.approx(expected, abs=1e-6)
    for smoothing, expected in {"add_one": 0.417002, 1e-6: 6.281351, "skip": -0.279808}.items():
        assert _rde(NEGATIVE, smoothing=smoothing) == pytest.approx(expected, abs=1e-6)
    distance = rde_distance(QUERY, POSITIVE, RDEDistance(bins=4, range="unit"))
    assert distance.item() == pytest.approx(0.698672 + 0.9 * 0.497312, abs=1e-5)


def test_losses_of_the_distances() -> None:
    """D' = 0.545 and 0.835."""
    query, positive, negatives = torch.zeros(1, 2), torch.tensor([[0.545, 0]]), torch.tensor([[[0.835, 0]]])
    plain = RDEDistance(alpha=0)
    assert RDEContrastiveLoss(0.9, plain)(query, positive, negatives).item() == pytest.approx(0.148513 + 0.002113, abs=1e-5)
    assert RDETripletLoss(0.5, False, plain)(query, positive, negatives).item() == pytest.approx(0.21, abs=1e-5)
    assert RDETripletLoss(0.5, True, plain)(query, positive, negatives).item() == pytest.approx(0.0998, abs=1e-5)


def test_without_entropy_it_is_contrastive() -> None:
    data = tuples()
    torch.testing.assert_close(RDEContrastiveLoss(0.7, RDEDistance(alpha=0))(*data), ContrastiveLoss(0.7)(*data))
    convex = RDEDistance(alpha=1, sum="convex")
    torch.testing.assert_close(RDEContrastiveLoss(0.7, convex)(*data), ContrastiveLoss(0.7)(*data))


@pytest.mark.parametrize("settings", [{}, {"range": "own"}, {"range": "joint"}, {"soft": True}, {"direction": "both"}], ids=str)
def test_a_divergence(settings: dict[str, Any]) -> None:
    queries, _, negatives = tuples()
    both = RDEDistance(**{"bins": 5, "range": "unit"} | settings)
    values = rde(queries[:, None], negatives, both)
    assert (values >= 0).all()
    assert values.max() > 0
    assert rde(queries[:, None], queries[:, None], both).abs().max() < 1e-12
    order = torch.randperm(queries.shape[1])
    torch.testing.assert_close(rde(queries[:, None, order], negatives, both), values)


def test_directions() -> None:
    there, back, both = (_rde(POSITIVE, direction=direction) for direction in ("query", "sample", "both"))
    assert there + back == pytest.approx(both)
    assert there != pytest.approx(back)
    assert rde(POSITIVE, QUERY, RDEDistance(bins=4, range="unit")).item() == pytest.approx(back)


@pytest.mark.parametrize("ends", ["unit", "signed", "own", "joint"])
def test_ranges(ends: Any) -> None:
    queries, _, negatives = tuples(negatives=1, dim=40)
    got = rde(queries[:, None], negatives, RDEDistance(bins=7, range=ends))[:, 0]
    for query, negative, value in zip(queries, negatives[:, 0], got, strict=True):
        own = [(float(x.min()), float(x.max())) for x in (query, negative)]
        joint = (min(own[0][0], own[1][0]), max(own[0][1], own[1][1]))
        limits = {"unit": [(0, 1)] * 2, "signed": [(-1, 1)] * 2, "own": own, "joint": [joint] * 2}[ends]
        counts = [
            np.histogram(np.clip(x.numpy(), *limit), 7, limit)[0] for x, limit in zip((query, negative), limits, strict=True)
        ]
        p, q = ((count + 1) / 47 for count in counts)
        assert value.item() == pytest.approx((p * np.log(p / q)).sum())


def test_soft_bins_are_triangles() -> None:
    x = torch.tensor([[0.0, 0.125, 0.2, 0.5, 0.99]])
    shares = histograms(x, torch.zeros(1), torch.ones(1), 4, soft=True)[0] * 5
    np.testing.assert_allclose(shares, [1 + 1 + 0.7, 0.3 + 0.5, 0.5, 1], atol=1e-6)


def test_hard_bins_have_no_gradient_and_soft_ones_have() -> None:
    for soft, has in ((False, False), (True, True)):
        queries = tuples()[0].requires_grad_()
        assert rde(queries[:, None], tuples()[2], RDEDistance(soft=soft)).requires_grad is has
