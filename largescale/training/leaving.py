"""What a finished run leaves for use: RUN/model, a model folder of its best weights."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from largescale.commit import read_array
from largescale.evaluation.results import RESULTS, read_results
from largescale.models.card import card
from largescale.models.folder import write_folder
from largescale.models.sources import open_contents
from largescale.training.final import scored_weights
from largescale.training.recipe import TrainConfig

MODEL = "model"


def leave_model(config: TrainConfig) -> Path:
    """Write the model folder of a finished run, and return it. One rank calls this.

    Raises:
        UserError: the run has no weights, or its folder `model` holds something else.
    """
    weights, folder = scored_weights(config.directory), config.directory / MODEL
    contents, _ = open_contents(weights)
    about = {**contents.about, "run": config.name, "corpus": config.corpus, "recipe": config.resume_identity()}
    beside = weights.with_suffix(".anchors.npy")
    anchors = torch.from_numpy(read_array(beside)) if beside.exists() else None
    contents = replace(contents, anchors=anchors, about={**about, **_scores(config.directory / "evaluation" / weights.stem)})
    write_folder(folder, contents, card(contents))
    return folder


def _scores(evaluation: Path) -> Mapping[str, Any]:
    """The headline of each protocol with its interval, and of which images it is; nothing where these weights were not scored."""
    if not (evaluation / RESULTS).exists():
        return {}
    results = read_results(evaluation)
    scores = {f"{x.protocol}/{x.main}": asdict(x.metrics[x.main]) for x in results.protocols}
    return {"scores": scores, "scored network": results.digest, "scored gallery": asdict(results.gallery)}
