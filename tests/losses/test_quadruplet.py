"""The quadruplet loss: its worked number, and that it is a triplet loss for one negative."""

import pytest
import torch

from largescale.losses.tuples.quadruplet import QuadrupletLoss
from largescale.testing.loss_laws import tuples


def test_worked_example() -> None:
    a, p, n1, n2 = torch.tensor([[1, 0], [0.9, 0.43589], [0.5, 0.86603], [-0.2, 0.97980]])
    value = QuadrupletLoss(1.0, 0.5)(a[None], p[None], torch.stack([n1, n2])[None])
    assert value.item() == pytest.approx(0.685242, abs=1e-5)


def test_one_negative_has_no_pair() -> None:
    queries, positives, negatives = tuples(negatives=1)
    distances = (queries - positives).norm(dim=1) - (queries - negatives[:, 0]).norm(dim=1)
    value = QuadrupletLoss(0.2, 100.0)(queries, positives, negatives)
    torch.testing.assert_close(value, (distances + 0.2).clamp(min=0).mean(), atol=1e-5, rtol=0)
