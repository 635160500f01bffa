"""Losses on average precision against ROADMAP's, with gradients, and their worked numbers."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from largescale.losses.labels.base import Gallery
from largescale.losses.ranking import base as ranking
from largescale.losses.ranking.base import RankingLoss, blocks
from largescale.losses.ranking.blackbox_ap import BlackboxAPLoss
from largescale.losses.ranking.calibration import CalibrationLoss
from largescale.losses.ranking.roadmap import RoadmapLoss
from largescale.losses.ranking.smooth_ap import SmoothAPLoss
from largescale.losses.ranking.soft_bin_ap import SoftBinAPLoss
from largescale.losses.ranking.sup_ap import SupAPLoss
from largescale.testing.loss_laws import batch
from tests.goldens import PRECISIONS, Golden, goldens

LOSSES: dict[str, Callable[[], RankingLoss]] = {
    "SupAP_class_defaults": SupAPLoss,
    "SupAP_config": lambda: SupAPLoss("cfg"),
    "SupAP_inat": lambda: SupAPLoss("inat"),
    "SmoothAP": SmoothAPLoss,
    "SmoothAP_tau0_1": lambda: SmoothAPLoss(0.1),
    "SoftBinAP": SoftBinAPLoss,
    "BlackBoxAP": BlackboxAPLoss,
    "BlackBoxAP_margin0": lambda: BlackboxAPLoss(margin=0.0),
}
QUIET = {name: make for name, make in LOSSES.items() if name != "BlackBoxAP"}
# where the peer is wrong: NaN for a query without positives, and a square matrix taken for a batch against itself
WRONG = ("row_without_positive", "not_batch_against_itself_quick")


def _cases(*groups: str) -> list[Any]:
    chosen = [case for case in goldens("losses_roadmap", *groups) if not case.id.endswith(WRONG)]
    return [case for case in chosen if not case.values[0].raises and case.values[0].facts["compare"] != "none"]


AUTHORS: dict[str, Callable[[dict[str, Any]], RankingLoss]] = {
    "naver_APLoss": lambda args: SoftBinAPLoss(args["nq"], args["min"], args["max"]),
    "naver_APLoss_20_m1": lambda args: SoftBinAPLoss(args["nq"], args["min"], args["max"]),
    "SmoothAP_authors": lambda args: SmoothAPLoss(args["anneal"]),
}


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("case", goldens("losses_other", *AUTHORS))
def test_equals_the_authors(case: Golden, precision: str) -> None:
    """Of AP over bins (naver's code) and of Smooth-AP."""
    arrays = case.arrays()
    x = torch.tensor(arrays["in_embeddings"], dtype=getattr(torch, precision), requires_grad=True)
    value = AUTHORS[case.facts["group"]](case.args)(x, torch.tensor(arrays["in_labels"]))
    value.backward()
    case.compare("loss", value.detach(), precision)
    case.compare("grad", x.grad, precision)


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("case", _cases(*LOSSES))
def test_equals_roadmap(case: Golden, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays, loss = case.arrays(), LOSSES[case.facts["group"]]()
    if "in_noise" in arrays:
        monkeypatch.setattr(torch, "randn_like", lambda scores: torch.tensor(arrays["in_noise"]).to(scores))
    leaf = torch.tensor(arrays.get("in_embeddings", arrays.get("in_scores")), dtype=getattr(torch, precision), requires_grad=True)
    if "in_scores" in arrays:
        scores, positive = leaf, torch.tensor(arrays["in_target"]) > 0
        masks = positive, ~positive
    else:
        scores, masks = leaf @ leaf.T, loss.relevance(torch.tensor(arrays["in_labels"]), None)
        torch.testing.assert_close(loss(leaf, torch.tensor(arrays["in_labels"])), loss.of_scores(scores, *masks))
    value = loss.of_scores(scores, *masks)
    value.backward()
    case.compare("loss", value.detach(), precision)
    if isinstance(loss, BlackboxAPLoss) and precision == "float64":  # the peer's ranks are in float32 here too
        assert leaf.grad is not None
        np.testing.assert_allclose(leaf.grad, arrays["out_grad_f64"], atol=3e-8)
    else:
        case.compare("grad", leaf.grad, precision)
    if not case.id.endswith("batch_of_one"):
        case.compare("ap", loss.precision(scores, *masks).detach(), precision)


QUERIES = {(0.90, 0.70, 0.72, 0.71, 0.40): (1, 1, 0, 1, 0), (0.90, 0.50, 0.80, 0.60, 0.40): (1, 1, 0, 0, 0)}
ANGLES = torch.deg2rad(torch.tensor([0.0, 50, 20, 80], dtype=torch.float64))
BATCH = torch.stack([ANGLES.cos(), ANGLES.sin()], 1), torch.tensor([0, 0, 1, 1])


@pytest.mark.parametrize(
    ("loss", "expected", "in_batch"),
    [
        (SupAPLoss(), (0.232067, 0.471440), 0.474989),
        (SupAPLoss("inat"), (0.164882, None), None),
        (SmoothAPLoss(), (0.162516, 0.250023), 0.208932),
        (SoftBinAPLoss(5), (1 - 0.712160, None), None),
        (SoftBinAPLoss(20), (1 - 0.840448, None), None),
        (BlackboxAPLoss(margin=0), (0.194447, None), None),
    ],
    ids=["SupAP", "SupAP of iNaturalist", "SmoothAP", "SoftBinAP 5", "SoftBinAP 20", "BlackboxAP"],
)
def test_worked_examples(loss: RankingLoss, expected: tuple[float | None, ...], in_batch: float | None) -> None:
    for (scores, relevant), value in zip(QUERIES.items(), expected, strict=True):
        positive = torch.tensor([relevant]) > 0
        if value is not None:
            assert loss.of_scores(torch.tensor([scores]), positive, ~positive).item() == pytest.approx(value, abs=2e-5)
    if in_batch is not None:
        assert loss(*BATCH).item() == pytest.approx(in_batch, abs=1e-6)


@pytest.mark.parametrize(("strength", "expected"), [(4.0, [0, -0.05, 0.10, -0.05, 0]), (0.1, [0, -2, 4, -2, 0])])
def test_blackbox_gradient(strength: float, expected: list[float]) -> None:
    scores, positive = torch.tensor([next(iter(QUERIES))], requires_grad=True), torch.tensor([[True, True, False, True, False]])
    BlackboxAPLoss(strength, margin=0).of_scores(scores, positive, ~positive).backward()
    assert scores.grad is not None
    np.testing.assert_allclose(scores.grad[0], expected, atol=1e-6)


def test_equal_scores_are_no_success() -> None:
    scores, positive = torch.ones(1, 10), torch.arange(10)[None] < 2
    for make in (SupAPLoss, lambda: BlackboxAPLoss(margin=0)):
        assert make().of_scores(scores, positive, ~positive).item() > 0.6


def test_published_surrogates() -> None:
    t = torch.tensor([-0.05, -0.01, 0, 1e-12, 0.01, 0.03, 0.05, 0.06, 0.1], dtype=torch.float64)
    formula = [0.006693, 0.268941, 0.5, 1.0, 1.231059, 1.452574, 1.493307, 2.493307, 6.493307]
    np.testing.assert_allclose(SupAPLoss().negative_step(t)[0], formula, atol=1e-6)
    inat = [0.006693, 0.268941, 0.5, 0.5, 0.731059, 0.952574, 0.993307, 2.0, 6.0]
    np.testing.assert_allclose(SupAPLoss("inat").negative_step(t)[0], inat, atol=1e-6)
    beyond = torch.tensor([0.05 + 1e-12], dtype=torch.float64)
    for name, value in {"formula": 1.493307, "cfg": 1.44, "inat": 1.0, "2021": 6.44}.items():
        assert SupAPLoss(name).negative_step(beyond)[0].item() == pytest.approx(value, abs=1e-6)


def _true_loss(scores: torch.Tensor, positive: torch.Tensor, negative: torch.Tensor) -> float:
    terms = []
    for row, good, bad in zip(scores, positive, negative, strict=True):
        ahead = [((row >= row[k]) & good).sum() for k in good.nonzero()]
        behind = [((row >= row[k]) & bad).sum() for k in good.nonzero()]
        terms.append(np.mean([float(a / (a + b)) for a, b in zip(ahead, behind, strict=True)]))
    return 1 - float(np.mean(terms))


@pytest.mark.parametrize("seed", range(5))
def test_a_bound_from_above(seed: int) -> None:
    x, labels = batch(seed)
    loss = SupAPLoss()
    assert loss(x, labels).item() >= _true_loss(x @ x.T, *loss.relevance(labels, None)) - 1e-9


def test_queries_without_positives_are_left_out_and_counted() -> None:
    scores = torch.rand(4, 9)
    positive = torch.rand(4, 9) > 0.6
    positive[:, 0], positive[2] = True, False
    for make in QUIET.values():
        loss, rest = make(), [0, 1, 3]
        scores.requires_grad_().grad = None
        value = loss.of_scores(scores, positive, ~positive)
        value.backward()
        torch.testing.assert_close(value, loss.of_scores(scores[rest], positive[rest], ~positive[rest]))
        assert loss.degenerate == 1
        assert scores.grad is not None
        assert scores.grad.isfinite().all()
        assert scores.grad[2].abs().max() == 0


def test_without_oneself_in_the_gallery() -> None:
    x, labels = batch()
    loss = SupAPLoss(self_in_gallery=False)
    others = ~torch.eye(len(x), dtype=torch.bool)
    same = labels[:, None] == labels
    has = (same & others).any(1)
    rows = [
        SupAPLoss().of_scores((x[i] @ x[others[i]].T)[None], same[i, others[i]][None], ~same[i, others[i]][None])
        for i in has.nonzero()[:, 0]
    ]
    torch.testing.assert_close(loss(x, labels), torch.stack(rows).mean())
    assert loss.degenerate == (~has).sum()


@pytest.mark.slow
@pytest.mark.parametrize("elements", [1, 50, 300])
def test_blocks_change_nothing(elements: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where classes are of very different sizes."""
    x, labels = batch(0, (0, 0, 0, 0, 0, 0, 1, 2, 0, 2, 1, 3))
    for make in QUIET.values():
        whole = make()(x, labels)
        with monkeypatch.context() as patch:
            patch.setitem(ranking.ELEMENTS, "cpu", elements)
            torch.testing.assert_close(make()(x, labels), whole)
            rows = [block.rows for block in blocks(labels[:, None] == labels)]
            assert [row for part in rows for row in range(part.start, part.stop)] == list(range(12))
            assert len(rows) > 1


def test_a_gallery_is_other_images() -> None:
    x, labels = batch()
    loss = SupAPLoss()
    positive = labels[:, None] == labels
    torch.testing.assert_close(loss(x, labels, Gallery(x, labels)), loss.of_scores(x @ x.T, positive, ~positive))


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("case", _cases("CalibrationLoss", "ROADMAP_full"))
def test_roadmap_equals_roadmap(case: Golden, precision: str) -> None:
    arrays, loss = case.arrays(), CalibrationLoss() if case.facts["group"] == "CalibrationLoss" else RoadmapLoss("cfg")
    x = torch.tensor(arrays["in_embeddings"], dtype=getattr(torch, precision), requires_grad=True)
    value = loss(x, torch.tensor(arrays["in_labels"]))
    value.backward()
    case.compare("loss", value.detach(), precision)
    case.compare("grad", x.grad, precision)


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("case", goldens("losses_roadmap", "ROADMAP_full_with_memory"))
def test_roadmap_with_a_memory_equals_roadmap(case: Golden, precision: str) -> None:
    arrays, dtype = case.arrays(), getattr(torch, precision)
    x, labels = torch.tensor(arrays["in_embeddings"], dtype=dtype, requires_grad=True), torch.tensor(arrays["in_labels"])
    memory = Gallery(torch.tensor(arrays["in_memory_embeddings"], dtype=dtype), torch.tensor(arrays["in_memory_labels"]))
    parts = {
        "supap": SupAPLoss("cfg")(x, labels),
        "calibration": CalibrationLoss()(x, labels),
        "supap_memory": SupAPLoss("cfg")(x, labels, memory),
        "calibration_memory": CalibrationLoss()(x, labels, memory),
    }
    for name, value in parts.items():
        case.compare(name, value.detach(), precision)
    loss = RoadmapLoss("cfg")
    value = loss(x, labels) + loss(x, labels, memory)
    value.backward()
    case.compare("loss", value.detach(), precision)
    case.compare("grad", x.grad, precision)


def test_calibration_by_hand() -> None:
    cosines = torch.tensor([[0.95, 0.80, 0.85, 0.65, 0.50, 0.62, 0.30]])
    positive = torch.tensor([[True] * 3 + [False] * 4])
    data = cosines, torch.ones(1), torch.ones(7), positive, ~positive
    assert CalibrationLoss().of_products(*data).item() == pytest.approx(0.11, abs=1e-6)
    assert CalibrationLoss(mean="all").of_products(*data).item() == pytest.approx(0.0675, abs=1e-6)
    assert CalibrationLoss()(*BATCH).item() == pytest.approx(0.619187, abs=1e-6)
    assert CalibrationLoss(mean="all")(*BATCH).item() == pytest.approx(0.546542, abs=1e-6)
