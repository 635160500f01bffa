"""Which loss a run minimizes: a choice by name, contrastive where none is given."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from largescale.losses.config_labels import BatchHardConfig, ClassAnchorConfig, MetricLearningConfig, MSMLConfig
from largescale.losses.config_ranking import (
    BlackboxAPConfig,
    CalibrationConfig,
    RoadmapConfig,
    SmoothAPConfig,
    SoftBinAPConfig,
    SupAPConfig,
)
from largescale.losses.config_tuples import (
    ContrastiveConfig,
    LRMLConfig,
    QuadrupletConfig,
    RDEContrastiveConfig,
    RDETripletConfig,
    TripletConfig,
)


def _named(value: Any) -> Any:
    return {"name": "contrastive", **value} if isinstance(value, dict) else value


LossConfig = Annotated[
    ContrastiveConfig
    | TripletConfig
    | QuadrupletConfig
    | LRMLConfig
    | RDEContrastiveConfig
    | RDETripletConfig
    | BatchHardConfig
    | MSMLConfig
    | SupAPConfig
    | CalibrationConfig
    | RoadmapConfig
    | SmoothAPConfig
    | SoftBinAPConfig
    | BlackboxAPConfig
    | ClassAnchorConfig
    | MetricLearningConfig,
    Field(discriminator="name"),
    BeforeValidator(_named),
]
