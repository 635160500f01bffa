"""All losses under the laws, with themselves in plain loops."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from largescale.losses.choices import RDEDistance
from largescale.losses.labels.batch_hard import BatchHardTripletLoss, MSMLLoss
from largescale.losses.labels.class_anchor import ClassAnchorLoss
from largescale.losses.labels.margin_softmax import ArcFaceLoss, CosFaceLoss, MarginSoftmaxLoss
from largescale.losses.labels.metric_learning import MetricLearningLoss
from largescale.losses.ranking.blackbox_ap import BlackboxAPLoss
from largescale.losses.ranking.calibration import CalibrationLoss
from largescale.losses.ranking.roadmap import RoadmapLoss
from largescale.losses.ranking.smooth_ap import SmoothAPLoss
from largescale.losses.ranking.soft_bin_ap import SoftBinAPLoss
from largescale.losses.ranking.sup_ap import SupAPLoss
from largescale.losses.tuples.contrastive import ContrastiveLoss
from largescale.losses.tuples.infonce import InfoNCELoss
from largescale.losses.tuples.lrml import LRMLLoss
from largescale.losses.tuples.quadruplet import QuadrupletLoss
from largescale.losses.tuples.rde import RDEContrastiveLoss, RDETripletLoss
from largescale.losses.tuples.triplet import TripletLoss
from largescale.testing.loss_laws import Case

Row = Sequence[float]


def distance(a: Row, b: Row, eps: float = 0.0) -> float:
    return math.sqrt(sum((x - y + eps) ** 2 for x, y in zip(a, b, strict=True)))


def _contrastive(queries: list[Row], positives: list[Row], negatives: list[list[Row]]) -> float:
    total = 0.0
    for q, p, ns in zip(queries, positives, negatives, strict=True):
        total += distance(q, p, 1e-6) ** 2 / 2
        for n in ns:
            total += max(0.0, 1.1 - distance(q, n, 1e-6)) ** 2 / 2
    return total / len(queries)


def _triplet(queries: list[Row], positives: list[Row], negatives: list[list[Row]]) -> float:
    total = 0.0
    for q, p, ns in zip(queries, positives, negatives, strict=True):
        for n in ns:
            total += max(0.0, distance(q, p) ** 2 - distance(q, n) ** 2 + 0.3)
    return total


def _lrml(queries: list[Row], positives: list[Row], negatives: list[list[Row]], ranks: list[list[int]]) -> float:
    total = 0.0
    for q, p, ns, rs in zip(queries, positives, negatives, ranks, strict=True):
        total += distance(q, p, 1e-6) ** 2 / 2
        for n, r in zip(ns, rs, strict=True):
            total += max(0.0, 1.25 * r / len(ns) - distance(q, n, 1e-6)) ** 2 / 2
    return total / len(queries)


def _lrml_weights(queries: list[Row], positives: list[Row], negatives: list[list[Row]], ranks: list[list[int]]) -> float:
    total = 0.0
    for q, p, ns, rs in zip(queries, positives, negatives, ranks, strict=True):
        total += distance(q, p, 1e-6) ** 2 / 2
        weights = [len(ns) - r + 1 for r in rs]
        for n, w in zip(ns, weights, strict=True):
            total += w * len(ns) / sum(weights) * max(0.0, 1.25 - distance(q, n, 1e-6)) ** 2 / 2
    return total / len(queries)


def _ranks(tuples: int, negatives: int) -> dict[str, torch.Tensor]:
    return {"ranks": (torch.arange(negatives) + torch.arange(tuples)[:, None]) % negatives + 1}


def _quadruplet(queries: list[Row], positives: list[Row], negatives: list[list[Row]]) -> float:
    total = 0.0
    for q, p, ns in zip(queries, positives, negatives, strict=True):
        for i, n in enumerate(ns):
            total += max(0.0, distance(q, p, 1e-6) - distance(q, n, 1e-6) + 0.6)
            for other in ns[i + 1 :]:
                total += max(0.0, distance(q, p, 1e-6) - distance(n, other, 1e-6) + 0.7)
    return total / len(queries)


def _infonce(queries: list[Row], positives: list[Row], negatives: list[list[Row]]) -> float:
    total = 0.0
    for q, p, ns in zip(queries, positives, negatives, strict=True):
        logits = [_dot(_unit(q), _unit(x)) / 0.5 for x in (p, *ns)]
        total += math.log(sum(math.exp(logit) for logit in logits)) - logits[0]
    return total / len(queries)


def _entropy(a: Row, b: Row, bins: int = 4) -> float:
    shares = []
    for row in (a, b):
        counts = [1.0] * bins
        for x in row:
            counts[min(max(math.floor(x * bins), 0), bins - 1)] += 1
        shares.append([count / (len(row) + bins) for count in counts])
    return sum(p * math.log(p / q) for p, q in zip(*shares, strict=True))


def _rde_contrastive(queries: list[Row], positives: list[Row], negatives: list[list[Row]]) -> float:
    total = 0.0
    for q, p, ns in zip(queries, positives, negatives, strict=True):
        total += (distance(q, p, 1e-6) + 0.9 * _entropy(q, p)) ** 2 / 2
        for n in ns:
            total += max(0.0, 1.1 - distance(q, n, 1e-6) - 0.9 * _entropy(q, n)) ** 2 / 2
    return total / len(queries)


def _rde_triplet(queries: list[Row], positives: list[Row], negatives: list[list[Row]]) -> float:
    total = 0.0
    for q, p, ns in zip(queries, positives, negatives, strict=True):
        for n in ns:
            near, far = (distance(q, x, 1e-6) + 0.9 * _entropy(q, x) for x in (p, n))
            total += max(0.0, 0.5 + near - far)
    return total / len(queries)


def _unit(row: Row) -> Row:
    return [x / math.sqrt(sum(y * y for y in row)) for x in row]


def _batch_hard(x: list[Row], labels: list[int]) -> float:
    rows, terms = [_unit(row) for row in x], []
    for i, (row, label) in enumerate(zip(rows, labels, strict=True)):
        positives = [distance(row, other) for j, other in enumerate(rows) if j != i and labels[j] == label]
        negatives = [distance(row, other) for j, other in enumerate(rows) if labels[j] != label]
        if positives and negatives:
            terms.append(max(0.0, max(positives) - min(negatives) + 0.4))
    return sum(terms) / len(terms)


def _msml(x: list[Row], labels: list[int]) -> float:
    rows = [_unit(row) for row in x]
    pairs = [(i, j) for i in range(len(rows)) for j in range(i)]
    positives = [distance(rows[i], rows[j]) for i, j in pairs if labels[i] == labels[j]]
    negatives = [distance(rows[i], rows[j]) for i, j in pairs if labels[i] != labels[j]]
    return max(0.0, max(positives) - min(negatives) + 0.6)


def _dot(a: Row, b: Row) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def _sigma(t: float) -> float:
    return 1 / (1 + math.exp(-t)) if t > -700 else 0.0


def _mean_precision(x: list[Row], labels: list[int], precision: Callable[[list[float], list[float]], float]) -> float:
    """1 - the mean over queries of a precision of (scores of positives, scores of negatives), the query among the positives."""
    values = []
    for row, label in zip(x, labels, strict=True):
        positives = [_dot(row, other) for other, name in zip(x, labels, strict=True) if name == label]
        negatives = [_dot(row, other) for other, name in zip(x, labels, strict=True) if name != label]
        values.append(precision(positives, negatives))
    return 1 - sum(values) / len(values)


def _by_steps(above: Callable[[float], float], behind: Callable[[float], float]) -> Callable[[list[float], list[float]], float]:
    def precision(positives: list[float], negatives: list[float]) -> float:
        terms = []
        for k, own in enumerate(positives):
            ahead = 1 + sum(above(score - own) for j, score in enumerate(positives) if j != k)
            terms.append(ahead / (ahead + sum(behind(score - own) for score in negatives)))
        return sum(terms) / len(terms)

    return precision


def _h_minus(t: float) -> float:
    if t <= 0:
        return _sigma(t / 0.01)
    return _sigma(t / 0.01) + 0.5 if t <= 0.05 else 100 * (t - 0.05) + _sigma(5) + 0.5


_exact = _by_steps(lambda t: float(t >= 0), lambda t: float(t >= 0))
_sup = _by_steps(lambda t: float(t >= 0), _h_minus)
_smooth = _by_steps(lambda t: _sigma(t / 0.1), lambda t: _sigma(t / 0.1))


def _soft_bins(positives: list[float], negatives: list[float], bins: int = 7) -> float:
    width, total, good, value = 2 / (bins - 1), 0.0, 0.0, 0.0
    for m in range(bins):
        share = [sum(max(0.0, 1 - abs(1 - m * width - s) / width) for s in scores) for scores in (positives, negatives)]
        good, total = good + share[0], total + sum(share)
        value += good / (total + 1e-16) * share[0] / len(positives)
    return value


def _calibration(x: list[Row], labels: list[int]) -> float:
    rows, good, bad = [_unit(row) for row in x], [], []
    for i, row in enumerate(rows):
        for j, other in enumerate(rows):
            if labels[i] != labels[j]:
                bad.append(max(0.0, _dot(row, other) - 0.6))
            elif i != j:
                good.append(max(0.0, 0.9 - _dot(row, other)))
    return sum(sum(terms) / max(1, sum(term > 0 for term in terms)) for terms in (good, bad))


def _soft_bin(x: list[Row], labels: list[int]) -> float:
    return _mean_precision(x, labels, _soft_bins)


def _blackbox(x: list[Row], labels: list[int]) -> float:
    return _mean_precision(x, labels, lambda good, bad: _exact(good, bad) * len(good) / (len(good) + 1e-5))


def _roadmap(x: list[Row], labels: list[int]) -> float:
    return 0.9 * _mean_precision(x, labels, _sup) + 0.1 * _calibration(x, labels)


ANCHORS = torch.randn(8, 6, generator=torch.Generator().manual_seed(9), dtype=torch.float64)


def _anchors() -> nn.Module:
    loss = ClassAnchorLoss(8, 6, radius=1.4, min_norm=2.5).double()
    loss.load_state_dict({"anchors": ANCHORS})
    return loss


def _class_anchor(x: list[Row], labels: list[int]) -> float:
    anchors = ANCHORS.tolist()
    value = sum(distance(row, anchors[label]) ** 2 / 2 for row, label in zip(x, labels, strict=True)) / len(x)
    for i, anchor in enumerate(anchors):
        value += max(0.0, 2.5 - distance(anchor, [0.0] * 6)) ** 2 / 2
        for j, other in enumerate(anchors):
            if i != j:
                value += max(0.0, 2 * 1.4 - distance(anchor, other)) ** 2 / 2
    return value


def _library(name: str, miner: str | None = None, **arguments: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        torch.manual_seed(3)
        return MetricLearningLoss(name, arguments, miner, num_classes=8, dim=6).double()

    return make


CENTERS = torch.randn(8, 12, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def _margin(cls: type[MarginSoftmaxLoss], sub_centers: int, **settings: float) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        loss = cls(8, 6, sub_centers=sub_centers, **settings).double()
        loss.load_state_dict({"centers": CENTERS[:, : 6 * sub_centers]})
        return loss

    return make


def _margin_softmax(x: list[Row], labels: list[int], scale: float, sub_centers: int, at_label: Callable[[float], float]) -> float:
    total = 0.0
    for row, label in zip(x, labels, strict=True):
        centers = [[_unit(center) for center in CENTERS[c, : 6 * sub_centers].view(-1, 6).tolist()] for c in range(8)]
        cosines = [max(_dot(_unit(row), center) for center in own) for own in centers]
        logits = [scale * (at_label(cosine) if c == label else cosine) for c, cosine in enumerate(cosines)]
        total += math.log(sum(math.exp(logit) for logit in logits)) - logits[label]
    return total / len(x)


def _turned(cosine: float, margin: float = 0.5) -> float:
    angle = math.acos(cosine) + margin
    return math.cos(angle) if angle < math.pi else cosine - margin * math.sin(margin)


def _arcface(x: list[Row], labels: list[int]) -> float:
    return _margin_softmax(x, labels, 16, 2, _turned)


def _cosface(x: list[Row], labels: list[int]) -> float:
    return _margin_softmax(x, labels, 8, 1, lambda cosine: cosine - 0.2)


CASES = [
    Case("contrastive", "tuples", lambda: ContrastiveLoss(1.1), _contrastive),
    Case("triplet", "tuples", lambda: TripletLoss(0.3, "sum"), _triplet),
    Case("lrml", "tuples", lambda: LRMLLoss(threshold_rule="rank/N"), _lrml, extra=_ranks),
    Case("lrml weights", "tuples", lambda: LRMLLoss(threshold_rule="weights"), _lrml_weights, extra=_ranks),
    Case("lrml by itself", "tuples", lambda: LRMLLoss(threshold_rule="teacher_distance"), smooth=False),
    Case("quadruplet", "tuples", lambda: QuadrupletLoss(0.6, 0.7), _quadruplet),
    Case("infonce", "tuples", lambda: InfoNCELoss(0.5), _infonce),
    Case("rde_contrastive", "tuples", lambda: RDEContrastiveLoss(1.1, RDEDistance(bins=4, range="unit")), _rde_contrastive),
    Case("rde_triplet", "tuples", lambda: RDETripletLoss(0.5, False, RDEDistance(bins=4, range="unit")), _rde_triplet),
    Case("rde soft", "tuples", lambda: RDEContrastiveLoss(1.1, RDEDistance(bins=4, range="joint", soft=True))),
    Case("batch_hard", "labels", lambda: BatchHardTripletLoss(0.4), _batch_hard),
    Case("msml", "labels", MSMLLoss, _msml),
    Case("sup_ap", "labels", SupAPLoss, lambda x, labels: _mean_precision(x, labels, _sup)),
    Case("sup_ap alone", "labels", lambda: SupAPLoss("2021", self_in_gallery=False)),
    Case("smooth_ap", "labels", lambda: SmoothAPLoss(0.1), lambda x, labels: _mean_precision(x, labels, _smooth)),
    # inputs of norm 1 lie on the last bin's center, where the gradient has a kink
    Case(
        "soft_bin_ap", "labels", lambda: SoftBinAPLoss(7), lambda x, labels: _mean_precision(x, labels, _soft_bins), smooth=False
    ),
    Case("blackbox_ap", "labels", lambda: BlackboxAPLoss(margin=0), _blackbox, smooth=False),
    Case("calibration", "labels", CalibrationLoss, _calibration),
    Case("class_anchor", "labels", _anchors, _class_anchor),
    Case("arcface", "labels", _margin(ArcFaceLoss, 2, scale=16), _arcface),
    Case("cosface", "labels", _margin(CosFaceLoss, 1, scale=8, margin=0.2), _cosface),
    Case("roadmap", "labels", lambda: RoadmapLoss(supap_weight=0.9, calibration_weight=0.1), _roadmap),
]
LIBRARY = [
    Case(name, "labels", _library(name, **arguments), ordered=name in ("NPairsLoss",))
    for name, arguments in {
        "AngularLoss": {},
        "ArcFaceLoss": {},
        "CircleLoss": {},
        "ContrastiveLoss": {},
        "CosFaceLoss": {},
        "FastAPLoss": {},
        "GeneralizedLiftedStructureLoss": {},
        "HistogramLoss": {},
        "IntraPairVarianceLoss": {},
        "LargeMarginSoftmaxLoss": {},
        "LiftedStructureLoss": {},
        "MarginLoss": {"learn_beta": True},
        "MultiSimilarityLoss": {},
        "NCALoss": {},
        "NPairsLoss": {},
        "NTXentLoss": {},
        "NormalizedSoftmaxLoss": {},
        "P2SGradLoss": {},
        "PNPLoss": {},
        "ProxyAnchorLoss": {},
        "ProxyNCALoss": {},
        "RankedListLoss": {"margin": 0.4, "Tn": 10},
        "SignalToNoiseRatioContrastiveLoss": {},
        "SoftTripleLoss": {},
        "SphereFaceLoss": {},
        "SubCenterArcFaceLoss": {},
        "SupConLoss": {},
        "ThresholdConsistentMarginLoss": {},
        "TripletMarginLoss": {},
        "TupletMarginLoss": {},
    }.items()
]
LIBRARY.append(Case("batch-hard TripletMarginLoss", "labels", _library("TripletMarginLoss", "BatchHardMiner", margin=0.2)))
