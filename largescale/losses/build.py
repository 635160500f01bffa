"""From the settings of a loss to the loss: the one place where each is named beside its class."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from largescale.losses.base import Loss
from largescale.losses.labels.base import LabelLoss
from largescale.losses.labels.batch_hard import BatchHardTripletLoss, MSMLLoss
from largescale.losses.labels.class_anchor import ClassAnchorLoss
from largescale.losses.labels.class_rows import Holders
from largescale.losses.labels.margin_softmax import ArcFaceLoss, CosFaceLoss
from largescale.losses.matryoshka import Matryoshka
from largescale.losses.memory import CrossBatchMemory
from largescale.losses.ranking.blackbox_ap import BlackboxAPLoss
from largescale.losses.ranking.calibration import CalibrationLoss
from largescale.losses.ranking.roadmap import RoadmapLoss
from largescale.losses.ranking.smooth_ap import SmoothAPLoss
from largescale.losses.ranking.soft_bin_ap import SoftBinAPLoss
from largescale.losses.ranking.sup_ap import SupAPLoss
from largescale.losses.settings import labels, ranking, tuples
from largescale.losses.settings.base import LossSettings
from largescale.losses.settings.labels import LabelSettings
from largescale.losses.settings.plug_in import PlugInConfig
from largescale.losses.tuples.contrastive import ContrastiveLoss
from largescale.losses.tuples.infonce import InfoNCELoss
from largescale.losses.tuples.lrml import LRMLLoss
from largescale.losses.tuples.quadruplet import QuadrupletLoss
from largescale.losses.tuples.rde import RDEContrastiveLoss, RDETripletLoss
from largescale.losses.tuples.triplet import TripletLoss
from largescale.settings import UserError

Objective = Loss | Matryoshka | CrossBatchMemory

LOSSES: Mapping[type[LossSettings], type[Loss]] = {
    tuples.ContrastiveConfig: ContrastiveLoss,
    tuples.TripletConfig: TripletLoss,
    tuples.QuadrupletConfig: QuadrupletLoss,
    tuples.LRMLConfig: LRMLLoss,
    tuples.InfoNCEConfig: InfoNCELoss,
    tuples.RDEContrastiveConfig: RDEContrastiveLoss,
    tuples.RDETripletConfig: RDETripletLoss,
    labels.BatchHardConfig: BatchHardTripletLoss,
    labels.MSMLConfig: MSMLLoss,
    labels.ClassAnchorConfig: ClassAnchorLoss,
    labels.ArcFaceConfig: ArcFaceLoss,
    labels.CosFaceConfig: CosFaceLoss,
    ranking.SupAPConfig: SupAPLoss,
    ranking.CalibrationConfig: CalibrationLoss,
    ranking.RoadmapConfig: RoadmapLoss,
    ranking.SmoothAPConfig: SmoothAPLoss,
    ranking.SoftBinAPConfig: SoftBinAPLoss,
    ranking.BlackboxAPConfig: BlackboxAPLoss,
}


def build_loss(config: LossSettings, num_classes: int, dim: int, holders: Callable[[int], Holders] | None = None) -> Objective:
    """The loss for descriptors of `dim` dimensions and labels 0 ... num_classes - 1, with what the settings put around it.

    Args:
        holders: number of classes -> which of them each process holds, for losses that learn a row for each; None: all here.

    Raises:
        UserError: dimensions that the descriptor has not, or a memory for a loss that cannot compare with one.
    """
    beyond = [d for d in config.matryoshka if d >= dim]
    if beyond:
        raise UserError(f"loss.matryoshka names {beyond[0]} of {dim} dimensions; name fewer than the descriptor has")
    parts = {d: _plain(config, num_classes, d, holders) for d in (*config.matryoshka, dim)}
    loss = Matryoshka(parts) if config.matryoshka else parts[dim]
    if not isinstance(config, LabelSettings | PlugInConfig) or not config.memory:
        return loss
    assert isinstance(loss, LabelLoss | Matryoshka)
    return CrossBatchMemory(loss, config.memory, dim, config.memory_weight)


def _plain(config: LossSettings, num_classes: int, dim: int, holders: Callable[[int], Holders] | None) -> Loss:
    cls = config.loss_class() if isinstance(config, PlugInConfig | labels.MetricLearningConfig) else LOSSES[type(config)]
    known: dict[str, Any] = {"num_classes": num_classes, "dim": dim}
    if holders is not None:
        known["holders"] = holders(num_classes)
    taken = inspect.signature(cls).parameters
    return cls(**config.for_loss(), **{name: value for name, value in known.items() if name in taken})
