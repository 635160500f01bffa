"""Every loss also of the first dimensions: the plain mean, over labels, tuples and a memory."""

import pytest
import torch
from torch.nn.functional import normalize

from largescale.losses import ContrastiveLoss, CrossBatchMemory, RoadmapLoss
from largescale.losses.build import LOSSES, build_loss
from largescale.losses.labels.base import Gallery
from largescale.losses.labels.margin_softmax import ArcFaceLoss
from largescale.losses.matryoshka import Matryoshka, first
from largescale.losses.settings.base import LossSettings
from largescale.losses.settings.labels import ArcFaceConfig, ClassAnchorConfig
from largescale.losses.settings.ranking import RoadmapConfig
from largescale.losses.settings.tuples import ContrastiveConfig, InfoNCEConfig, LRMLConfig
from largescale.settings import UserError
from largescale.testing.loss_laws import Case, batch, check_degenerate, check_faults_show, check_order, tuples


def test_mean_of_the_parts() -> None:
    loss, (x, labels) = build_loss(RoadmapConfig(matryoshka=(2, 3)), 8, 6), batch()
    parts = [RoadmapLoss()(normalize(x[:, :dim], dim=1), labels) for dim in (2, 3, 6)]
    torch.testing.assert_close(loss(x, labels), torch.stack(parts).mean())
    loss, (q, p, n) = build_loss(ContrastiveConfig(matryoshka=(4,), reduction="sum"), 8, 6), tuples()
    assert loss.reduction == "sum"
    parts = [ContrastiveLoss(reduction="sum")(*(normalize(y[..., :dim], dim=-1) for y in (q, p, n))) for dim in (4, 6)]
    torch.testing.assert_close(loss(q, p, n), torch.stack(parts).mean())


def test_lengths_are_kept() -> None:
    x = torch.tensor([[3.0, 0.0, 4.0], [0.0, 0.0, 2.0]])
    torch.testing.assert_close(first(x, 2), torch.tensor([[5.0, 0.0], [0.0, 0.0]]))


def test_a_loss_for_each_length_where_it_learns_of_classes() -> None:
    loss = build_loss(ArcFaceConfig(matryoshka=(2,)), 8, 6)
    assert [part.centers.shape for part in loss.losses if isinstance(part, ArcFaceLoss)] == [(8, 2), (8, 6)]


def test_with_a_memory() -> None:
    loss, (x, labels) = build_loss(RoadmapConfig(matryoshka=(3,), memory=20), 8, 6), batch()
    assert isinstance(loss, CrossBatchMemory)
    first_value = loss(x, labels)
    assert loss(x, labels) > first_value
    assert loss.degenerate == 0


def _make() -> Matryoshka:
    loss = build_loss(RoadmapConfig(matryoshka=(3,)), 8, 6)
    assert isinstance(loss, Matryoshka)
    return loss.double()


@pytest.mark.slow
def test_laws() -> None:
    case = Case("matryoshka", "labels", _make)
    check_order(case)
    check_degenerate(case, torch.float64)
    check_faults_show(case)


def test_dimensions_that_are_not_there() -> None:
    with pytest.raises(UserError, match="6 of 6 dimensions"):
        build_loss(RoadmapConfig(matryoshka=(2, 6)), 8, 6)
    with pytest.raises(ValueError, match="smallest first"):
        RoadmapConfig(matryoshka=(4, 2))


def _data(config: LossSettings) -> tuple[tuple[torch.Tensor, ...], dict[str, torch.Tensor]]:
    """What a run gives a loss."""
    if config.kind == "labels":
        return batch(), {}
    q, p, n = tuples()
    if isinstance(config, InfoNCEConfig):
        return (q, p, n), {"others": torch.cat([q, p]), "allowed": torch.ones(5, 10, dtype=torch.bool)}
    # as many negatives as the descriptor has dimensions, so that the teacher's distances have the shape of descriptors
    n = torch.cat([n, n.flip(1)], 1)
    return (q, p, n), {"distances": torch.rand(5, 6)} if isinstance(config, LRMLConfig) else {}


@pytest.mark.parametrize("kind", LOSSES, ids=lambda kind: kind.model_fields["name"].default)
def test_around_each_loss(kind: type[LossSettings]) -> None:
    start = {"init": "gaussian"} if kind is ClassAnchorConfig else {}
    loss = build_loss(kind.model_validate({"matryoshka": [3], **start}), 8, 6)
    assert isinstance(loss, Matryoshka)
    inputs, extra = _data(kind())
    of_three, whole = loss.losses
    cut = [first(x, 3) for x in inputs]
    named = {name: first(x, 3) if name == "others" else x for name, x in extra.items()}
    torch.manual_seed(0)
    expected = (of_three(*cut, **named) + whole(*inputs, **extra)) / 2
    torch.manual_seed(0)
    torch.testing.assert_close(loss(*inputs, **extra), expected)


def test_a_gallery_by_its_name() -> None:
    loss, (x, labels) = build_loss(RoadmapConfig(matryoshka=(3,)), 8, 6), batch()
    gallery = Gallery(x, labels)
    torch.testing.assert_close(loss(x, labels, gallery=gallery), loss(x, labels, gallery))
