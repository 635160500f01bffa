"""The class anchor loss: its worked number, its blocks, its first anchors."""

import numpy as np
import pytest
import torch

from largescale.losses.labels import class_anchor
from largescale.losses.labels.base import Gallery
from largescale.losses.labels.class_anchor import ClassAnchorLoss, initial_anchors
from largescale.settings import UserError

ANCHORS = torch.tensor([[1.0, 0], [0, 1], [-0.5, 0]], dtype=torch.float64)
EMBEDDINGS = torch.tensor([[0.8, 0.2], [0.1, 0.7], [-0.6, 0.3]], dtype=torch.float64)
LABELS = torch.tensor([0, 1, 2])


def _loss(anchors: torch.Tensor) -> ClassAnchorLoss:
    loss = ClassAnchorLoss(*anchors.shape, init="gaussian").to(anchors.dtype)
    loss.load_state_dict({"anchors": anchors})
    return loss


@pytest.mark.parametrize("block", [1, 2, 2048])
def test_worked_example(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(class_anchor.BLOCK, "cpu", block)
    loss, x = _loss(ANCHORS), EMBEDDINGS.clone().requires_grad_()
    value = loss(x, LABELS)
    value.backward()
    assert value.item() == pytest.approx(0.046667 + 1.371010 + 0.125, abs=2e-6)
    expected = np.array([[-1.761760, 0.761760], [0.006239, -2.306136], [2.322188, 1.477709]])
    np.testing.assert_allclose(loss.anchors.grad, expected, atol=1e-6)
    np.testing.assert_allclose(x.grad, (EMBEDDINGS - ANCHORS) / 3, atol=1e-12)


def test_first_anchors_are_apart() -> None:
    for count in (3, 8):
        loss = ClassAnchorLoss(count, 8)
        assert loss(loss.anchors.detach().clone(), torch.arange(count)).item() == pytest.approx(0, abs=1e-10)


def test_more_classes_than_dimensions() -> None:
    anchors = initial_anchors(60, 6, "base")
    assert len(anchors.unique(dim=0)) == len(anchors) == 60
    assert anchors.sum(1).tolist() == sorted(anchors.sum(1).tolist())
    with pytest.raises(UserError, match="gaussian"):
        initial_anchors(64, 6, "base")


@pytest.mark.parametrize("init", ["gaussian", "uniform"])
def test_random_anchors_have_the_scale(init: class_anchor.AnchorInit) -> None:
    norms = ClassAnchorLoss(400, 64, init=init, scale=2.0).anchors.norm(dim=1)
    assert norms.mean().item() == pytest.approx(2.0, rel=0.05)


@pytest.mark.parametrize("init", ["base", "gaussian", "uniform"])
def test_parts_are_rows_of_the_whole(init: class_anchor.AnchorInit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(class_anchor.BLOCK, "cpu", 7)
    parts = []
    for rows in (None, slice(0, 10), slice(10, 30), slice(30, 30), slice(30, 40)):
        torch.manual_seed(4)
        parts.append(initial_anchors(40, 6, init, rows))
    torch.testing.assert_close(torch.cat(parts[1:]), parts[0])


def test_frozen_anchors() -> None:
    loss = ClassAnchorLoss(3, 4, learned=False)
    assert not list(loss.parameters())
    assert "anchors" in loss.state_dict()
    x = torch.randn(5, 4, requires_grad=True)
    loss(x, torch.tensor([0, 1, 2, 0, 1])).backward()
    assert x.grad is not None


def test_coincident_and_zero_anchors_are_finite() -> None:
    loss = _loss(torch.tensor([[0.0, 0], [0, 0], [0.3, 0.1], [0.3, 0.1]]))
    loss(torch.zeros(2, 2), torch.tensor([0, 2])).backward()
    assert loss.anchors.grad is not None
    assert loss.anchors.grad.isfinite().all()


def test_no_memory() -> None:
    with pytest.raises(UserError, match="not with other images"):
        _loss(ANCHORS)(EMBEDDINGS, LABELS, Gallery(EMBEDDINGS, LABELS))
