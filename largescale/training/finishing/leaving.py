"""What a finished run leaves for use: RUN/model, a model folder of its best weights, as they were scored."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from largescale.evaluation.report.leaving import scores
from largescale.evaluation.results import RESULTS, read_results
from largescale.models.sharing.card import card
from largescale.models.sharing.folder import CONFIG, MODEL, Contents, read_folder, write_folder
from largescale.models.sharing.sources import open_contents
from largescale.program.inputs import seen_by
from largescale.training.callbacks.evaluation import stage_config
from largescale.training.finishing.final import finals, scored_weights
from largescale.training.settings.recipe import TrainConfig


def leave_model(config: TrainConfig) -> Path:
    """Write the model folder of a finished run, and return it. One rank calls this.

    Size, scales and whitening are those of the first evaluation that the recipe ends with, where it has been done, else those
    of the run's own.

    Raises:
        UserError: the run has no weights, or its folder `model` holds something else.
    """
    weights, folder = scored_weights(config.directory), config.directory / MODEL
    plain = _plain(config, weights)
    contents = next((scored for scored in _scored_last(config) if scored.about.get("step") == plain.about.get("step")), plain)
    about = {"run": config.name, "corpus": config.corpus, "recipe": config.resume_identity()}
    contents = replace(contents, about={**contents.about, **about})
    write_folder(folder, contents, card(contents))
    return folder


def _scored_last(config: TrainConfig) -> Iterator[Contents]:
    """As the evaluations have it that the recipe ends with, those that have been done; perhaps of earlier weights."""
    folders = [final.settings.out / MODEL for final in finals(config)]
    return (read_folder(folder)[0] for folder in folders if (folder / CONFIG).exists())


def _plain(config: TrainConfig, weights: Path) -> Contents:
    """As the run's own evaluations describe images."""
    contents, evaluation = open_contents(weights)[0], config.directory / "evaluation" / weights.stem
    seen = seen_by(contents.network.contract, stage_config(config, evaluation).images)
    own = {**seen.model_dump(include={"size", "fit", "interpolation"}), "precision": config.precision}
    settings = contents.settings.model_copy(update=own)
    return replace(contents, settings=settings, about={**contents.about, **_scores(evaluation)})


def _scores(evaluation: Path) -> Mapping[str, Any]:
    """The headline of each protocol, and of which images it is; nothing where these weights were not scored."""
    if not (evaluation / RESULTS).exists():
        return {}
    results = read_results(evaluation)
    scored = {"scored on": asdict(results.gallery), "scored in": results.preprocess["precision"]}
    return {"scores": scores(results.protocols), **scored}
