"""Which loss a run minimizes: a choice by name, contrastive where none is given."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Discriminator, Tag

from largescale.losses.settings.labels import (
    ArcFaceConfig,
    BatchHardConfig,
    ClassAnchorConfig,
    CosFaceConfig,
    MetricLearningConfig,
    MSMLConfig,
)
from largescale.losses.settings.plug_in import GROUP, PlugInConfig
from largescale.losses.settings.ranking import (
    BlackboxAPConfig,
    CalibrationConfig,
    RoadmapConfig,
    SmoothAPConfig,
    SoftBinAPConfig,
    SupAPConfig,
)
from largescale.losses.settings.tuples import (
    ContrastiveConfig,
    InfoNCEConfig,
    LRMLConfig,
    QuadrupletConfig,
    RDEContrastiveConfig,
    RDETripletConfig,
    TripletConfig,
)
from largescale.program.plugins import is_plug_in

PLUG_IN = PlugInConfig.__name__


def _named(value: Any) -> Any:
    return {"name": "contrastive", **value} if isinstance(value, dict) else value


def _chosen(value: Any) -> str:
    name = str(value["name"] if isinstance(value, dict) else value.name)
    return PLUG_IN if isinstance(value, PlugInConfig) or is_plug_in(name, GROUP) else name


LossConfig = Annotated[
    Annotated[ContrastiveConfig, Tag("contrastive")]
    | Annotated[TripletConfig, Tag("triplet")]
    | Annotated[QuadrupletConfig, Tag("quadruplet")]
    | Annotated[LRMLConfig, Tag("lrml")]
    | Annotated[InfoNCEConfig, Tag("infonce")]
    | Annotated[RDEContrastiveConfig, Tag("rde_contrastive")]
    | Annotated[RDETripletConfig, Tag("rde_triplet")]
    | Annotated[BatchHardConfig, Tag("batch_hard")]
    | Annotated[MSMLConfig, Tag("msml")]
    | Annotated[SupAPConfig, Tag("sup_ap")]
    | Annotated[CalibrationConfig, Tag("calibration")]
    | Annotated[RoadmapConfig, Tag("roadmap")]
    | Annotated[SmoothAPConfig, Tag("smooth_ap")]
    | Annotated[SoftBinAPConfig, Tag("soft_bin_ap")]
    | Annotated[BlackboxAPConfig, Tag("blackbox_ap")]
    | Annotated[ClassAnchorConfig, Tag("class_anchor")]
    | Annotated[ArcFaceConfig, Tag("arcface")]
    | Annotated[CosFaceConfig, Tag("cosface")]
    | Annotated[MetricLearningConfig, Tag("metric_learning")]
    | Annotated[PlugInConfig, Tag(PLUG_IN)],
    Discriminator(_chosen),
    BeforeValidator(_named),
]
