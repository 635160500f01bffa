"""The cross-batch memory: contents against the peers', value against the plain computation, the way through a checkpoint."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from largescale import config
from largescale.losses import BatchHardTripletLoss, CrossBatchMemory, MetricLearningLoss, RoadmapLoss
from largescale.losses.build import build_loss
from largescale.losses.labels.base import Gallery, LabelLoss
from largescale.losses.settings.choice import LossConfig
from largescale.losses.settings.tuples import ContrastiveConfig
from largescale.settings import Settings, UserError
from largescale.testing.loss_laws import batch
from tests.goldens import PRECISIONS, Golden, goldens


class _Run(Settings):
    loss: LossConfig = ContrastiveConfig()
    """The loss."""


class _Nothing(LabelLoss):
    def objective(self, x: torch.Tensor, labels: torch.Tensor, gallery: Gallery | None) -> torch.Tensor:
        return x.sum() * 0


def _batches(arrays: dict[str, np.ndarray], rows: str) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    for index in range(sum(name.startswith(f"in_{rows}_") for name in arrays)):
        yield torch.tensor(arrays[f"in_{rows}_{index}"]), torch.tensor(arrays[f"in_labels_{index}"])


@pytest.mark.slow
@pytest.mark.parametrize("case", goldens("losses_roadmap", "XBM_unique_False"))
def test_contents_equal_roadmap(case: Golden) -> None:
    """The peer's queue begins with the oldest row; ours is a ring."""
    arrays = case.arrays()
    memory = CrossBatchMemory(_Nothing(), case.args["size"], 3)
    for index, (x, labels) in enumerate(_batches(arrays, "features")):
        memory(x, labels)
        written = int(memory.written)
        order = np.arange(max(0, written - 10), written) % 10
        case.compare(f"features_{index}", memory.embeddings[order])
        case.compare(f"labels_{index}", memory.labels[order])


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("case", goldens("losses_pml", "CrossBatchMemory_contrastive"))
def test_contents_equal_the_library(case: Golden, precision: str) -> None:
    arrays = case.arrays()
    memory = CrossBatchMemory(_Nothing(), case.args["memory_size"], 12).to(getattr(torch, precision))
    for x, labels in _batches(arrays, "embeddings"):
        memory(x.to(memory.embeddings), labels)
    case.compare("memory", memory.embeddings, precision)
    case.compare("memory_labels", memory.labels, precision)
    assert memory.written % 20 == arrays["out_queue_idx_f64"]


@pytest.mark.slow
@pytest.mark.parametrize("make", [RoadmapLoss, BatchHardTripletLoss], ids=lambda make: make.__name__)
def test_value_and_gradient_are_those_of_the_plain_computation(make: type[LabelLoss]) -> None:
    memory, seen = CrossBatchMemory(make(), 25, 6, weight=0.7).double(), []
    for seed in range(5):
        x, labels = batch(seed)
        x.requires_grad_()
        memory(x, labels).backward()
        plain = x.detach().clone().requires_grad_()
        value = make()(plain, labels)
        if seen:
            rows, names = (torch.cat(parts)[-25:] for parts in zip(*seen, strict=True))
            value = value + 0.7 * make()(plain, labels, Gallery(rows, names))
        value.backward()
        torch.testing.assert_close(x.grad, plain.grad)
        seen.append((x.detach(), labels))


def _run(memory: CrossBatchMemory, seeds: range) -> list[float]:
    return [memory(*batch(seed)).item() for seed in seeds]


@pytest.mark.slow
def test_the_queue_is_part_of_the_state() -> None:
    """pytorch-metric-learning loads "all keys matched" and has lost its queue."""
    whole = CrossBatchMemory(BatchHardTripletLoss(0.5), 17, 6).double()
    expected = _run(whole, range(8))
    first, second = (CrossBatchMemory(BatchHardTripletLoss(0.5), 17, 6).double() for _ in range(2))
    begun = _run(first, range(5))
    second.load_state_dict(first.state_dict())
    assert begun + _run(second, range(5, 8)) == expected


def test_a_broken_batch_is_not_remembered() -> None:
    memory = CrossBatchMemory(BatchHardTripletLoss(), 12, 6).double()
    x, labels = batch()
    memory(x, labels)
    before = {name: value.clone() for name, value in memory.state_dict().items()}
    assert memory(x * torch.nan, labels).isnan()
    for name, value in memory.state_dict().items():
        torch.testing.assert_close(value, before[name])
    assert memory(x, labels).isfinite()


def test_evaluation_leaves_the_memory_alone() -> None:
    memory = CrossBatchMemory(BatchHardTripletLoss(), 12, 6).double().eval()
    assert memory(*batch()) == BatchHardTripletLoss()(*batch())
    assert memory.written == 0


def test_batches_larger_than_the_memory() -> None:
    memory = CrossBatchMemory(_Nothing(), 4, 6).double()
    x, labels = batch()
    memory(x, labels)
    torch.testing.assert_close(memory.embeddings, x[-4:])
    assert memory.written == 4


@pytest.mark.parametrize("name", ["ContrastiveLoss", "MultiSimilarityLoss", "TripletMarginLoss", "NTXentLoss"])
def test_losses_of_the_library(name: str) -> None:
    memory = CrossBatchMemory(MetricLearningLoss(name, num_classes=8, dim=6), 25, 6)
    for value in _run(memory, range(4)):
        assert np.isfinite(value)


@pytest.mark.parametrize(
    "values",
    [
        {"name": "class_anchor", "memory": 100},
        {"name": "metric_learning", "loss": "ArcFaceLoss", "memory": 100},
    ],
)
def test_losses_that_cannot(values: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"loss\.memory=0"):
        config.check(_Run, {"loss": values})


def test_configuration() -> None:
    settings = config.check(_Run, {"loss": {"name": "roadmap", "memory": 50, "memory_weight": 0.5}}).loss
    loss = build_loss(settings, num_classes=5, dim=6)
    assert isinstance(loss, CrossBatchMemory)
    assert isinstance(loss.loss, RoadmapLoss)
    assert (loss.embeddings.shape, loss.weight) == ((50, 6), 0.5)
