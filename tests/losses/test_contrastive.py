"""Contrastive and triplet losses against cirtorch's, with its degenerate cases."""

import pytest
import torch

from largescale.losses.tuples.base import TupleLoss
from largescale.losses.tuples.contrastive import ContrastiveLoss
from largescale.losses.tuples.triplet import TripletLoss
from tests.goldens import PRECISIONS, Golden, goldens

LOSSES: dict[str, type[TupleLoss]] = {"contrastive": ContrastiveLoss, "triplet": TripletLoss}


def split(x: torch.Tensor, label: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """cirtorch's columns `(D, T (2 + N))` as our rows; `label` is -1 where a tuple begins."""
    rows = x.T.reshape(int((label == -1).sum()), -1, len(x))
    return rows[:, 0], rows[:, 1], rows[:, 2:]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("case", [case for case in goldens("losses_cirtorch", *LOSSES) if case.id != "contrastive_per_tuple"])
def test_equals_cirtorch(case: Golden, precision: str) -> None:
    arrays = case.arrays()
    x = torch.tensor(arrays["in_x"], dtype=getattr(torch, precision), requires_grad=True)
    value = LOSSES[case.facts["group"]](case.args["margin"], "sum")(*split(x, torch.tensor(arrays["in_label"])))
    value.backward()
    case.compare("loss", value.detach(), precision)
    case.compare("grad", x.grad, precision)


@pytest.mark.parametrize("case", goldens("losses_cirtorch", "contrastive_per_tuple"))
def test_each_tuple_equals_cirtorch(case: Golden) -> None:
    arrays = case.arrays()
    rows = split(torch.tensor(arrays["in_x"], dtype=torch.float64), torch.tensor(arrays["in_label"]))
    case.compare("loss_per_tuple", ContrastiveLoss(case.args["margin"]).per_tuple(*rows))


@pytest.mark.slow
@pytest.mark.parametrize("name", LOSSES)
def test_mean_is_the_sum_by_the_number_of_tuples(name: str) -> None:
    x = torch.randn(3, 7, 4)
    total, mean = (LOSSES[name](1.0, reduction)(x[:, 0], x[:, 1], x[:, 2:]) for reduction in ("sum", "mean"))
    torch.testing.assert_close(mean, total / 3)


def _at(distances: list[float]) -> torch.Tensor:
    """Points of the plane at these distances from the origin."""
    return torch.tensor([[d, 0.0] for d in distances], dtype=torch.float64)


def test_worked_examples() -> None:
    query, positive, negatives = _at([0.0]), _at([0.5]), _at([0.6, 0.8, 1.0, 1.1])[None]
    assert ContrastiveLoss(0.85)(query, positive, negatives).item() == pytest.approx(0.1575, abs=1e-5)
    assert TripletLoss(0.5)(query, positive, negatives).item() == pytest.approx(0.5)
