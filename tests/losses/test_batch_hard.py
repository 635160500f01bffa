"""Batch-hard triplets and MSML: worked numbers, and pytorch-metric-learning's."""

import pytest
import torch

from largescale.losses.labels.base import Gallery
from largescale.losses.labels.batch_hard import BatchHardTripletLoss, MSMLLoss
from largescale.testing.loss_laws import batch
from tests.goldens import PRECISIONS, Golden, goldens

LABELS = torch.tensor([0, 0, 1, 1])
B1 = torch.tensor([[1, 0], [0.9, 0.436], [0.5, 0.866], [0.2, 0.98]], dtype=torch.float64)
ANGLES = torch.deg2rad(torch.tensor([0.0, 50, 20, 80], dtype=torch.float64))
B2 = torch.stack([ANGLES.cos(), ANGLES.sin()], 1)


def test_worked_examples() -> None:
    assert BatchHardTripletLoss(0.6)(B1, LABELS).item() == pytest.approx(0.218866, abs=1e-6)
    assert BatchHardTripletLoss(0.6)(B2, LABELS).item() == pytest.approx(
        sum((1.097940, 0.927598, 1.252704, 1.082362)) / 4, abs=1e-6
    )
    assert MSMLLoss(0.6)(B1, LABELS).item() == pytest.approx(0.460036, abs=1e-6)
    assert MSMLLoss(0.6)(B2, LABELS).item() == pytest.approx(1.252704, abs=1e-6)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("case", goldens("losses_pml", "TripletMarginLoss_batch_hard"))
def test_equals_the_library(case: Golden, precision: str) -> None:
    arrays = case.arrays()
    x = torch.tensor(arrays["in_embeddings"], dtype=getattr(torch, precision), requires_grad=True)
    value = BatchHardTripletLoss(case.args["margin"], "nonzero")(x, torch.tensor(arrays["in_labels"]))
    value.backward()
    case.compare("loss", value.detach(), precision)
    case.compare("grad", x.grad, precision)


def test_in_a_gallery_an_image_may_meet_itself() -> None:
    """Its farthest match is another one, so that nothing changes."""
    x, labels = batch()
    loss = BatchHardTripletLoss(0.6)
    assert loss(x[:1], labels[:1], Gallery(x, labels)) == loss(x[:1], labels[:1], Gallery(x[1:], labels[1:])) > 0


def test_degenerate_batches_are_counted() -> None:
    x, labels = batch()
    for loss in (BatchHardTripletLoss(), MSMLLoss()):
        loss(x, labels)
        assert loss.degenerate == 0
        assert loss(x, torch.arange(len(x))) == loss(x, labels * 0) == 0
        assert loss.degenerate == 2
