"""pytorch-metric-learning by name: what is refused, and what is guarded."""

from functools import partial
from typing import Any

import pytest
import torch
from pytorch_metric_learning import losses
from pytorch_metric_learning.distances import CosineSimilarity

from largescale import config
from largescale.losses.build import build_loss
from largescale.losses.labels.metric_learning import MetricLearningLoss
from largescale.losses.ranking.calibration import CalibrationLoss
from largescale.losses.settings.choice import LossConfig
from largescale.losses.settings.labels import MetricLearningConfig
from largescale.losses.settings.tuples import ContrastiveConfig
from largescale.settings import Settings, UserError
from largescale.testing.loss_laws import batch
from tests.goldens import PRECISIONS, Golden, goldens


class _Run(Settings):
    loss: LossConfig = ContrastiveConfig()
    """The loss."""


def _loss(name: str, arguments: dict[str, Any] | None = None, miner: str | None = None, **rest: Any) -> MetricLearningLoss:
    return MetricLearningLoss(name, arguments, miner, rest or None, num_classes=8, dim=6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"loss": "MultiSimilarityLos"}, "the nearest are MultiSimilarityLoss"),
        ({"loss": "MultiSimilarityLoss", "arguments": {"alfa": 1}}, "no argument 'alfa'; the nearest are alpha"),
        ({"loss": "ContrastiveLoss", "arguments": {"distance": "Cosine"}}, "the nearest are CosineSimilarity"),
        ({"loss": "ContrastiveLoss", "arguments": {"distance": {"LpDistance": {"pow": 2}}}}, "LpDistance has no argument 'pow'"),
        ({"loss": "TripletMarginLoss", "miner": "BatchHard"}, "the nearest are BatchHardMiner"),
        ({"loss": "RankedListLoss"}, "needs the arguments Tn, margin"),
        ({"loss": "ArcFaceLoss", "arguments": {"margin": "wide"}}, "refuses the arguments"),
        ({"loss": "VICRegLoss"}, "needs pairs of views"),
        ({"loss": "SmoothAPLoss"}, r"use loss\.name=smooth_ap"),
    ],
)
def test_refused_before_a_run_begins(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        config.check(_Run, {"loss": {"name": "metric_learning", **arguments}})


def test_configuration_builds_the_loss() -> None:
    values = {"name": "metric_learning", "loss": "ProxyAnchorLoss", "arguments": {"margin": 0.2}, "miner": "MultiSimilarityMiner"}
    settings = config.check(_Run, {"loss": values}).loss
    assert isinstance(settings, MetricLearningConfig)
    assert settings.kind == "labels"
    loss = build_loss(settings, num_classes=11, dim=5)
    assert [tuple(p.shape) for p in loss.parameters()] == [(11, 5)]


@pytest.mark.slow
def test_equals_the_library() -> None:
    x, labels = batch()
    for name in ("MultiSimilarityLoss", "TripletMarginLoss", "NTXentLoss"):
        torch.testing.assert_close(_loss(name)(x, labels), getattr(losses, name)()(x, labels))


LIBRARY = {name: partial(_loss, name) for name in ("FastAPLoss", "HistogramLoss", "LiftedStructureLoss")}
OUTPUTS = [case for case in goldens("losses_pml", *LIBRARY) if not case.values[0].raises]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("case", [*OUTPUTS, *goldens("losses_pml", "ContrastiveLoss_calibration")])
def test_equals_recorded_outputs(case: Golden, precision: str) -> None:
    """Of the library's losses by their names (without the cases of a zero row, which here gets a direction), and of its
    contrastive loss on cosines, which is ROADMAP's calibration."""
    arrays, given = case.arrays(), {"FastAPLoss": {"num_bins": 10}, "HistogramLoss": {"n_bins": 100}}
    group = case.facts["group"]
    loss = LIBRARY[group](given.get(group)) if group in LIBRARY else CalibrationLoss()
    x = torch.tensor(arrays["in_embeddings"], dtype=getattr(torch, precision), requires_grad=True)
    value = loss(x, torch.tensor(arrays["in_labels"]))
    value.backward()
    case.compare("loss", value.detach(), precision)
    case.compare("grad", x.grad, precision)


def test_distances_by_name() -> None:
    x, labels = batch()
    margins = {"pos_margin": 0.9, "neg_margin": 0.6}
    ours = _loss("ContrastiveLoss", {**margins, "distance": "CosineSimilarity"})
    theirs = losses.ContrastiveLoss(**margins, distance=CosineSimilarity())
    torch.testing.assert_close(ours(x, labels), theirs(x, labels))
    squared = _loss("ContrastiveLoss", {"distance": {"LpDistance": {"power": 2}}})
    assert squared.loss.distance.power == 2


@pytest.mark.parametrize("name", ["MultiSimilarityLoss", "TripletMarginLoss", "FastAPLoss", "NPairsLoss"])
def test_labels_beyond_float32(name: str) -> None:
    """2^24 and 2^24 + 1 are one number in float32; as labels they are two classes."""
    x, labels = batch()
    huge = torch.where(labels == 3, 2**53 + 1, 2**24 + labels)
    torch.testing.assert_close(_loss(name)(x, huge), _loss(name)(x, labels))


def test_degenerate_batches_are_counted() -> None:
    x, labels = batch()
    loss = _loss("NCALoss")
    loss(x, labels)
    assert loss.degenerate == 0
    assert loss(x, torch.arange(len(x))) == 0
    assert loss.degenerate == 1
    loss(torch.zeros(3, 6), labels[:3])
    assert loss.degenerate == 4
