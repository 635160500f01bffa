"""Softmax with a margin: against pytorch-metric-learning, sampled classes, and the nearest of several centers."""

import pytest
import torch
from pytorch_metric_learning import losses as library

from largescale.losses.labels import margin_softmax
from largescale.losses.labels.margin_softmax import ArcFaceLoss, CosFaceLoss, MarginSoftmaxLoss, sample
from largescale.testing.loss_laws import batch

SIZES = {"num_classes": 8, "embedding_size": 6}


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (lambda: ArcFaceLoss(8, 6, 16, 0.5), lambda: library.ArcFaceLoss(**SIZES, scale=16, margin=28.6478897565412)),
        (lambda: CosFaceLoss(8, 6, 16, 0.3), lambda: library.CosFaceLoss(**SIZES, scale=16, margin=0.3)),
        (
            lambda: ArcFaceLoss(8, 6, 16, 0.5, sub_centers=3),
            lambda: library.SubCenterArcFaceLoss(**SIZES, scale=16, margin=28.6478897565412, sub_centers=3),
        ),
    ],
)
def test_as_the_library(ours: type[MarginSoftmaxLoss], theirs: type, monkeypatch: pytest.MonkeyPatch) -> None:
    """Value and gradients, in blocks of three classes."""
    monkeypatch.setitem(margin_softmax.BLOCK, "cpu", 3)
    (x, labels), loss, other = batch(seed=4), ours().double(), theirs().double()
    other.W.data = loss.centers.detach().unflatten(1, (loss.sub_centers, -1)).flatten(0, 1).T.clone()
    own, their = x.clone().requires_grad_(), x.clone().requires_grad_()
    value, expected = loss(own, labels), other(their, labels)
    torch.testing.assert_close(value, expected)
    value.backward()
    expected.backward()
    torch.testing.assert_close(own.grad, their.grad)
    torch.testing.assert_close(loss.centers.grad.unflatten(1, (loss.sub_centers, -1)).flatten(0, 1), other.W.grad.T)


@pytest.mark.slow
def test_sampled_classes_are_compared_with_alone() -> None:
    (x, labels), loss = batch(), CosFaceLoss(40, 6, sample_rate=0.2).double()
    torch.manual_seed(3)
    value = loss(x, labels)
    value.backward()
    assert loss.sampled is not None
    assert {*labels.tolist()} < {*loss.sampled.tolist()}
    few = CosFaceLoss(len(loss.sampled), 6).double()
    few.centers.data = loss.centers.detach()[loss.sampled]
    torch.testing.assert_close(value, few(x, torch.searchsorted(loss.sampled, labels)))
    assert loss.centers.grad.is_sparse
    assert loss.centers.grad.coalesce().indices()[0].tolist() == loss.sampled.tolist()
    loss.eval()
    loss(x, labels)
    assert loss.sampled is None


@pytest.mark.slow
def test_every_class_is_drawn_as_often() -> None:
    none, counts = torch.empty(0, dtype=torch.int64), torch.zeros(10)
    torch.manual_seed(0)
    for _ in range(2000):
        counts[sample(10, 0.3, none, slice(0, 10))] += 1
    torch.testing.assert_close(counts / 2000, torch.full((10,), 0.3), atol=0.05, rtol=0)


def test_parts_draw_what_the_whole_draws() -> None:
    labels, found = torch.tensor([4, 17, 4]), []
    for own in (slice(0, 20), slice(0, 7), slice(7, 20)):
        torch.manual_seed(5)
        found.append((sample(20, 0.25, labels, own) + own.start).tolist())
    assert found[0] == found[1] + found[2]
    assert {4, 17} <= {*found[0]}


@pytest.mark.slow
def test_more_images_than_dimensions() -> None:
    loss = CosFaceLoss(5, 3).double()
    x = torch.randn(7, 3, dtype=torch.float64, requires_grad=True)
    labels = torch.arange(7) % 5
    assert torch.autograd.gradcheck(lambda x: loss(x, labels), (x,))
