"""Any loss of pytorch-metric-learning by its name, with its miners, under the laws of this project. B batch, D dimensions."""

import difflib
import functools
import inspect
from collections.abc import Mapping
from typing import Any

import torch
from pytorch_metric_learning import distances, losses, miners, reducers, regularizers

from largescale.losses.labels.base import Gallery, LabelLoss
from largescale.settings import UserError

EXCLUDED = {
    "BaseMetricLossFunction": "is no loss of its own",
    "GenericPairLoss": "is no loss of its own",
    "SelfSupervisedLoss": "needs pairs of views, not labels",
    "VICRegLoss": "needs pairs of views, not labels",
    "InstanceLoss": "takes labels for positions in the batch",
    "DynamicSoftMarginLoss": "keeps a histogram that no checkpoint would hold",
    "SmoothAPLoss": "refuses classes of different sizes; use loss.name=smooth_ap",
}
_PARTS = {
    "distance": distances,
    "reducer": reducers,
    "embedding_regularizer": regularizers,
    "weight_regularizer": regularizers,
}


class MetricLearningLoss(LabelLoss):
    """A loss of pytorch-metric-learning.

    Labels may be any int64: losses that compare labels see small numbers in their place, only those with a parameter per
    class see labels 0 ... num_classes - 1 as they are. Rows that are zero have no direction and take no part in the
    gradient; where the library answers with NaN to a batch without pairs, the answer here is zero. Both are counted.

    Args:
        loss: the class, for instance `MultiSimilarityLoss`.
        arguments: of that class. `distance`, `reducer` and the regularizers are names too, or `{name: arguments}`.
        miner: a class of the library's miners, or None.
        num_classes: filled in where the loss requires it, and `dim` likewise.

    Raises:
        UserError: unknown names or arguments (the nearest are listed), or arguments that the class refuses.
    """

    def __init__(
        self,
        loss: str,
        arguments: Mapping[str, Any] | None = None,
        miner: str | None = None,
        miner_arguments: Mapping[str, Any] | None = None,
        *,
        num_classes: int,
        dim: int,
    ) -> None:
        super().__init__()
        if loss in EXCLUDED:
            raise UserError(f"{loss} of pytorch-metric-learning {EXCLUDED[loss]}")
        given = dict(arguments or {})
        cls = _find(losses, loss, losses.BaseMetricLossFunction)
        sizes = {"num_classes": num_classes, "embedding_size": dim, "descriptors_dim": dim}
        given |= {key: size for key, size in sizes.items() if key in _required(cls) and key not in given}
        if loss == "HistogramLoss":
            given.setdefault("distance", BoundedCosine())
        self.loss = _build(cls, given)
        self.miner = _build(_find(miners, miner, miners.BaseMiner), miner_arguments or {}) if miner else None
        self.by_class = "num_classes" in given
        self.pairs = not self.by_class

    def objective(self, x: torch.Tensor, labels: torch.Tensor, gallery: Gallery | None) -> torch.Tensor:
        empty = (x == 0).all(1, keepdim=True)  # (B, 1)
        x = torch.where(empty, torch.eye(1, x.shape[1], dtype=x.dtype, device=x.device), x)
        reference = () if gallery is None else (gallery.embeddings.to(x), gallery.labels)
        if not self.by_class:
            labels, *rest = _small(labels, *reference[1:])
            reference = (*reference[:1], *rest)
        indices = self.miner(x, labels, *reference) if self.miner else None
        loss = self.loss(x, labels, indices, *reference)
        lost = loss.isnan()
        self.degenerate += empty.sum() + lost
        if x.requires_grad:
            x.register_hook(functools.partial(self._mend, lost=lost))
        return torch.where(lost, x.sum() * 0, loss)

    def _mend(self, gradient: torch.Tensor, lost: torch.Tensor) -> torch.Tensor:
        """Zero for NaN: TupletMarginLoss, for one, has no gradient where two descriptors are equal."""
        broken = gradient.isnan()
        self.degenerate += broken.any() & ~lost
        return gradient.masked_fill(broken, 0)


class BoundedCosine(distances.CosineSimilarity):
    """Cosines below 1: at 1, and where rounding carries them beyond, HistogramLoss has no bin."""

    def compute_mat(self, query_emb: torch.Tensor, ref_emb: torch.Tensor) -> torch.Tensor:
        return super().compute_mat(query_emb, ref_emb).clamp(-1, 1 - 1e-6)


def _small(*labels: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The same classes under the numbers 0, 1, ...: the library turns some labels into float32."""
    _, numbers = torch.cat(labels).unique(return_inverse=True)
    return numbers.split([len(part) for part in labels])


def _find(module: Any, name: str, base: type) -> type:
    """A class of a module of the library."""
    known = {key: cls for key, cls in vars(module).items() if inspect.isclass(cls) and issubclass(cls, base)}
    if name not in known:
        kind = module.__name__.rpartition(".")[2]
        raise UserError(f"pytorch-metric-learning has no {name!r} in its {kind}; the nearest are {_nearest(name, known)}")
    return known[name]


def _build(cls: type, arguments: Mapping[str, Any]) -> Any:
    accepted = _parameters(cls)
    for key in arguments:
        if key not in accepted:
            raise UserError(f"{cls.__name__} has no argument {key!r}; the nearest are {_nearest(key, accepted)}")
    missing = _required(cls) - set(arguments)
    if missing:
        raise UserError(f"{cls.__name__} needs the arguments {', '.join(sorted(missing))}; give them in loss.arguments")
    try:
        return cls(**{key: _part(_PARTS[key], value) if key in _PARTS else value for key, value in arguments.items()})
    except (TypeError, ValueError, AssertionError) as error:
        raise UserError(f"{cls.__name__} refuses the arguments {dict(arguments)}: {error}") from None


def _part(module: Any, value: Any) -> Any:
    """A distance, reducer or regularizer from its name or `{name: arguments}`."""
    if not isinstance(value, str | dict):
        return value
    name, arguments = (value, {}) if isinstance(value, str) else next(iter(value.items()))
    return _build(_find(module, name, torch.nn.Module), arguments)


def _parameters(cls: type) -> dict[str, inspect.Parameter]:
    """What a class takes by name: its own parameters, and those of the classes to which it hands `**kwargs`."""
    taken: dict[str, inspect.Parameter] = {}
    for owner in cls.__mro__:
        if owner is torch.nn.Module:
            break
        if "__init__" in vars(owner):
            named = list(inspect.signature(vars(owner)["__init__"]).parameters.values())[1:]
            taken = {p.name: p for p in named if p.kind is p.POSITIONAL_OR_KEYWORD} | taken
            if all(p.kind is not p.VAR_KEYWORD for p in named):
                break
    return taken


def _required(cls: type) -> set[str]:
    return {name for name, p in _parameters(cls).items() if p.default is p.empty} - {"mat_based_loss"}


def _nearest(name: str, known: Any) -> str:
    return ", ".join(difflib.get_close_matches(name, [key for key in known if key not in EXCLUDED], 3, 0))
