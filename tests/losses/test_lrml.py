"""LRML: the worked numbers of its readings, and what follows from them."""

from typing import Any

import pytest
import torch

from largescale.losses.build import build_loss
from largescale.losses.settings.tuples import LRMLConfig
from largescale.losses.tuples.contrastive import ContrastiveLoss
from largescale.losses.tuples.lrml import LRMLLoss, sequence
from largescale.settings import UserError
from largescale.testing.loss_laws import tuples

EASY, HARD = [0.20, 0.45, 0.70, 0.90, 1.20], [0.60, 0.80, 1.00, 1.10, 1.30]


def _value(distances: list[float], ranks: list[int] | None = None, **settings: Any) -> float:
    """The loss of a tuple with D(q, p) = 0.5 and these distances to its negatives."""
    points = torch.tensor([[d, 0.0] for d in (0.0, 0.5, *distances)], dtype=torch.float64)
    order = torch.tensor([ranks or [1, 2, 3, 4, 5]])
    return LRMLLoss(**{"threshold_rule": "rank/N"} | settings)(points[:1], points[1:2], points[None, 2:], ranks=order).item()


@pytest.mark.parametrize(
    ("distances", "ranks", "settings", "expected"),
    [
        (EASY, None, {}, 0.135),
        (EASY, [2, 1, 3, 4, 5], {}, 0.1775),
        (HARD, None, {}, 0.125),
        (HARD, None, {"threshold_rule": "ramp", "margin": 1.25, "smallest": 0.85}, 0.17),
        (HARD, None, {"threshold_rule": "flat"}, 0.48),
        (HARD, None, {"threshold_rule": "weights", "margin": 0.85}, 0.17875),
    ],
)
def test_worked_examples(distances: list[float], ranks: list[int] | None, settings: dict[str, Any], expected: float) -> None:
    assert _value(distances, ranks, **settings) == pytest.approx(expected, abs=1e-5)


def test_teacher_distances_as_thresholds() -> None:
    points = torch.tensor([[d, 0.0] for d in (0.0, 0.5, *HARD)], dtype=torch.float64)
    teacher = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0]])
    loss = LRMLLoss(threshold_rule="teacher_distance")
    value = loss(points[:1], points[1:2], points[None, 2:], distances=teacher)
    assert value.item() == pytest.approx(_value(HARD), abs=1e-5)


def test_a_ramp_without_slope_is_contrastive() -> None:
    data = tuples()
    flat = LRMLLoss(1.1, "ramp", smallest=1.1, reduction="sum")(*data)
    torch.testing.assert_close(flat, ContrastiveLoss(1.1, "sum")(*data))


def test_without_a_teacher_the_descriptors_rank_themselves() -> None:
    queries, positives, negatives = tuples()
    nearest_first = torch.cdist(queries[:, None], negatives)[:, 0].argsort(1)
    ranks = nearest_first.argsort(1) + 1
    loss = LRMLLoss()
    torch.testing.assert_close(loss(queries, positives, negatives), loss(queries, positives, negatives, ranks=ranks))
    assert loss(queries, positives, negatives) != loss(queries, positives, negatives, ranks=4 - ranks)


def test_no_gradient_beyond_a_threshold() -> None:
    points = torch.tensor([[d, 0.0] for d in (0.0, 0.5, *HARD)], requires_grad=True)
    LRMLLoss(threshold_rule="rank/N")(points[:1], points[1:2], points[None, 2:], ranks=torch.tensor([[1, 2, 3, 4, 5]])).backward()
    assert points.grad is not None
    assert points.grad[2:].abs().max() == 0


def test_a_floor_is_for_ramps() -> None:
    with pytest.raises(UserError, match="threshold_rule=ramp"):
        LRMLLoss(threshold_rule="rank/N", smallest=0.8)


def test_by_default_thresholds_rise_as_they_measured_best() -> None:
    data = tuples()
    expected = LRMLLoss(0.8, "ramp", smallest=0.6)(*data)
    torch.testing.assert_close(LRMLLoss()(*data), expected)
    torch.testing.assert_close(build_loss(LRMLConfig(), 0, 0)(*data), expected)
    literal = build_loss(LRMLConfig(threshold_rule="rank/N"), 0, 0)
    torch.testing.assert_close(literal(*data), LRMLLoss(1.25, "rank/N")(*data))


def test_sequences_of_unit_vectors_differ_in_values_alone() -> None:
    queries, _, negatives = tuples()
    euclidean, cosine = sequence(queries, negatives, "euclidean"), sequence(queries, negatives, "cosine")
    assert torch.equal(euclidean.argsort(1), cosine.argsort(1))
    torch.testing.assert_close(euclidean.square() / 2, cosine, atol=1e-5, rtol=1e-5)
    lengths = torch.tensor([0.2, 1.0, 5.0, 3.0, 0.7], dtype=negatives.dtype)[: negatives.shape[1], None]
    torch.testing.assert_close(sequence(queries, negatives * lengths, "cosine"), cosine)
    assert not torch.equal(sequence(queries, negatives * lengths, "euclidean").argsort(1), euclidean.argsort(1))


def test_the_ranking_sets_thresholds_by_distance() -> None:
    data = tuples()
    loss = LRMLLoss(threshold_rule="teacher_distance", ranking="cosine")
    torch.testing.assert_close(loss(*data), loss(*data, distances=sequence(data[0], data[2], "cosine")))
    assert loss(*data) != LRMLLoss(threshold_rule="teacher_distance")(*data)


def test_a_flat_threshold_has_no_use_for_a_teacher() -> None:
    with pytest.raises(ValueError, match="remove it"):
        LRMLConfig(threshold_rule="flat", teacher="weights.safetensors")
