"""The names that programs of others import."""

import importlib

import pytest

NAMES = {
    "largescale": "Hit Index Model TrainConfig load train",
    "largescale.corpus": "Corpus Manifest load_pass load_steps open_storage plan_labels plan_pool plan_tuples",
    "largescale.corpus.reading": "Corpus Group Step load_pass load_steps parts_of",
    "largescale.models.pooling": "GeM MAC RMAC SPoC",
    "largescale.models.network": "RetrievalNet",
    "largescale.models": "ModelConfig",
    "largescale.models.whitening": "LearnedWhitening PCAWhitening",
    "largescale.losses": """BatchHardTripletLoss BlackboxAPLoss CalibrationLoss ClassAnchorLoss ContrastiveLoss LRMLLoss MSMLLoss
        MetricLearningLoss QuadrupletLoss RDEContrastiveLoss RDETripletLoss RoadmapLoss SmoothAPLoss SoftBinAPLoss
        SupAPLoss TripletLoss""",
    "largescale.losses.memory": "CrossBatchMemory",
    "largescale.mining": "Generations Miner ShardedIndex select_negatives",
    "largescale.evaluation": """augment_database average_precision bootstrap compare count_average_precision evaluate_rankings
        expand_queries""",
    "largescale.distributed": "gather_with_gradient",
    "largescale.training.callbacks": "Callback",
}


@pytest.mark.parametrize(("module", "name"), [(module, name) for module, names in NAMES.items() for name in names.split()])
def test_is_there_and_documented(module: str, name: str) -> None:
    assert getattr(importlib.import_module(module), name).__doc__
