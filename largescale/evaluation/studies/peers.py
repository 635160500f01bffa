"""Other tools' scores of rankings: published programs' formulas, and packages where they are installed.

Each takes rankings in the order of the file among equal scores, junk taken out, and gives means by measure.

n images of a ranking, best first; those that were not found come last, without a score
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np

Means = Mapping[str, float]


@dataclass(frozen=True)
class Ranking:
    """One query's images."""

    query: str
    images: Sequence[str]
    score: np.ndarray
    """`(found,)` decreasing."""
    right: np.ndarray
    """`(n,)` bool."""

    @property
    def found(self) -> np.ndarray:
        """`(found,)` which of the ranked images are right."""
        return self.right[: len(self.score)]


def _trapezoid(ranking: Ranking) -> float:
    """Area under precision over recall by trapezoids that begin at precision 1, over all positives."""
    positives, precision, recall, area = int(ranking.right.sum()), 1.0, 0.0, 0.0
    if not positives:
        return float("nan")
    hits = np.cumsum(ranking.found)
    for place, found in enumerate(hits.tolist(), start=1):
        area += (found / positives - recall) * (precision + found / place) / 2
        precision, recall = found / place, found / positives
    return area


def _precision_cut(ranking: Ranking, k: int) -> float:
    """k is cut to the place of the last positive."""
    places = np.flatnonzero(ranking.found) + 1
    if not len(places):
        return float("nan")
    cut = min(int(places.max()), k)
    return float((places <= cut).sum() / cut)


def revisitop(rankings: Sequence[Ranking], k: int) -> Means:
    """`evaluate.py` of Revisiting Oxford and Paris: queries without a positive are in no mean."""
    answered = [ranking for ranking in rankings if ranking.right.any()]
    return {
        "AP": _mean(map(_trapezoid, answered)),
        "precision at k": _mean(_precision_cut(ranking, k) for ranking in answered),
    }


def every_query(rankings: Sequence[Ranking], k: int) -> Means:
    """`compute_ap` of the Oxford buildings and `holidays_map.py`. A query without a positive is 0/0 to the one, an error to the
    other."""
    return {"AP": _mean(map(_trapezoid, rankings))}


def scikit_learn(rankings: Sequence[Ranking], k: int) -> Means:
    from sklearn.metrics import average_precision_score

    return {"AP": _mean(average_precision_score(x.found, x.score) for x in rankings if len(x.score))}


def metric_learning(rankings: Sequence[Ranking], k: int) -> Means:
    """One query at 0 on a line, images at their places: what it makes of a search for all and for k neighbors."""
    import torch
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator

    def neighbors(_query: Any, neighbors: int, reference: Any, _same: bool) -> tuple[Any, Any]:
        return reference[:neighbors].T, torch.arange(neighbors)[None]

    names = ("mean_average_precision", "mean_average_precision_at_r", "precision_at_1", "r_precision")
    values: list[list[float]] = []
    for ranking in (x for x in rankings if x.right.any() and len(x.score)):
        places = torch.arange(1.0, len(ranking.right) + 1)[:, None]
        labels = torch.from_numpy(ranking.right).long()
        row: list[float] = []
        for depth in (len(ranking.score), min(k, len(ranking.score))):
            calculator = AccuracyCalculator(names, k=depth, knn_func=neighbors, device=torch.device("cpu"))
            found = calculator.get_accuracy(torch.zeros(1, 1), torch.ones(1).long(), places, labels)
            row += [found[name] for name in names]
        values.append(row)
    mean = [_mean(column) for column in zip(*values, strict=True)]
    return {
        "AP": mean[0],
        "AP at k": mean[4],
        "AP at R": mean[1],
        "AP at R, k neighbors": mean[5],
        "precision at 1": mean[2],
        "R precision": mean[3],
    }


def torch_metrics(rankings: Sequence[Ranking], k: int) -> Means:
    import torch
    from torchmetrics import retrieval

    score = torch.from_numpy(np.concatenate([x.score for x in rankings]))
    right = torch.from_numpy(np.concatenate([x.found for x in rankings]))
    query = torch.repeat_interleave(torch.tensor([len(x.score) for x in rankings]))
    metrics = {
        "AP": retrieval.RetrievalMAP(),
        "AP at k": retrieval.RetrievalMAP(top_k=k),
        "precision at k": retrieval.RetrievalPrecision(top_k=k),
        "recall at k": retrieval.RetrievalRecall(top_k=k),
        "any at k": retrieval.RetrievalHitRate(top_k=k),
        "R precision": retrieval.RetrievalRPrecision(),
    }
    return {name: float(metric(score, right, indexes=query)) for name, metric in metrics.items()}


def metric_learning_open(rankings: Sequence[Ranking], k: int) -> Means:
    import torch
    from oml.functional.metrics import calc_retrieval_metrics

    deep = max(len(x.right) for x in rankings)
    retrieved = [torch.arange(len(x.score)) for x in rankings]
    right = [torch.from_numpy(np.flatnonzero(x.right)) for x in rankings]
    found = calc_retrieval_metrics(
        retrieved, right, cmc_top_k=(k,), precision_top_k=(k,), map_top_k=(k, deep), reduce=True, verbose=False
    )
    names = {"AP": ("map", deep), "AP at k": ("map", k), "precision at k": ("precision", k), "any at k": ("cmc", k)}
    return {name: float(found[kind][at]) for name, (kind, at) in names.items()}


def ranx(rankings: Sequence[Ranking], k: int) -> Means:
    from ranx import Qrels, Run, evaluate

    names = {
        "AP": "map",
        "AP at k": f"map@{k}",
        "precision at k": f"precision@{k}",
        "recall at k": f"recall@{k}",
        "any at k": f"hit_rate@{k}",
        "R precision": "r-precision",
    }
    truth = {x.query: {image: int(right) for image, right in zip(x.images, x.right.tolist(), strict=True)} for x in rankings}
    run = {x.query: dict(zip(x.images, x.score.tolist(), strict=False)) for x in rankings}
    found = evaluate(Qrels(truth), Run(run), list(names.values()))
    return {name: float(found[theirs]) for name, theirs in names.items()}


def trec(rankings: Sequence[Ranking], k: int) -> Means:
    from ir_measures import AP, P, Qrel, R, Rprec, ScoredDoc, Success, calc_aggregate

    names = {
        "AP": AP,
        "AP at k": AP @ k,
        "precision at k": P @ k,
        "recall at k": R @ k,
        "any at k": Success @ k,
        "R precision": Rprec,
    }
    truth = [Qrel(x.query, image, int(right)) for x in rankings for image, right in zip(x.images, x.right, strict=True)]
    run = [ScoredDoc(x.query, image, score) for x in rankings for image, score in zip(x.images, x.score.tolist(), strict=False)]
    found = calc_aggregate(list(names.values()), truth, run)
    return {name: float(found[theirs]) for name, theirs in names.items()}


def _mean(values: Iterable[float]) -> float:
    values = list(values)
    return float(np.mean(values)) if values else float("nan")


FORMULAS: Mapping[str, Callable[[Sequence[Ranking], int], Means]] = {
    "revisitop": revisitop,
    "Oxford's compute_ap": every_query,
    "Holidays' script": every_query,
}
PACKAGES: Mapping[str, tuple[str, Callable[[Sequence[Ranking], int], Means]]] = {
    "scikit-learn": ("sklearn", scikit_learn),
    "pytorch-metric-learning": ("pytorch_metric_learning", metric_learning),
    "torchmetrics": ("torchmetrics", torch_metrics),
    "open-metric-learning": ("oml", metric_learning_open),
    "ranx": ("ranx", ranx),
    "ir-measures": ("ir_measures", trec),
}
"""By the names of the package index: the module, and what it says."""


def installed() -> list[str]:
    return [name for name, (module, _) in PACKAGES.items() if find_spec(module)]
