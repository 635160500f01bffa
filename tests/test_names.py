"""Names and places from elsewhere: none leads out of its folder, none carries a secret."""

from pathlib import Path

import pytest

from largescale.config import load
from largescale.corpus.config import StorageConfig
from largescale.corpus.storage.storage import open_storage
from largescale.describing.config import EmbedConfig
from largescale.evaluation.config import EvaluateConfig
from largescale.experiments.config import ExperimentConfig
from largescale.mining.config import PlanConfig
from largescale.names import component, run_name, without_secrets
from largescale.settings import UserError
from largescale.training.settings.recipe import TrainConfig

CLIMBING = ["", ".", "..", "../x", "/x", "a/b", "a\\b", ".hidden", "a\0b", "a\nb", "a" * 300]
SECRET = "S3CRETPW"
PLACES = [
    f"http://alice:{SECRET}@host/c",
    f"https://{SECRET}@host/c",
    f"s3://key:{SECRET}@bucket/c",
    f"https://host/c?sig={SECRET}",
]


@pytest.mark.parametrize("name", CLIMBING)
def test_what_could_lead_out_of_its_folder_is_no_name(name: str) -> None:
    with pytest.raises(ValueError, match="name"):
        component(name)
    with pytest.raises(ValueError, match="name"):
        run_name(name)
    with pytest.raises(UserError, match="name: a name is one plain folder name"):
        load(TrainConfig, [f"name={name!r}"])


def test_plain_names() -> None:
    assert [component(name) for name in ("00000.tar", "Zürich 1", "a..b")] == ["00000.tar", "Zürich 1", "a..b"]
    assert load(TrainConfig, ["name=7"]).name == "7"
    assert load(TrainConfig, ["name=lrml-0.5_b"]).directory == Path("runs/lrml-0.5_b")
    with pytest.raises(UserError, match="plain folder name"):
        load(TrainConfig, ["name=a b"])


@pytest.mark.parametrize("place", PLACES)
def test_secrets_of_urls_are_refused_and_not_repeated(place: str) -> None:
    settings = [
        *((TrainConfig, key) for key in ("corpus", "evaluation.gallery", "evaluation.queries", "evaluation.distractors")),
        *((EvaluateConfig, key) for key in ("gallery", "queries", "distractors", "whitening_corpus")),
        *((TrainConfig, key) for key in ("checkpoint.mirror", "tracking.mlflow")),
        *((PlanConfig, "corpus"), (EmbedConfig, "source")),
    ]
    for config, key in settings:
        value = f'["{place}"]' if key.endswith("distractors") else f'"{place}"'
        with pytest.raises(UserError, match=r"~/\.netrc") as error:
            load(config, [f"{key}={value}"])
        assert SECRET not in str(error.value)
    with pytest.raises(UserError, match=r"~/\.netrc") as error:
        open_storage(place, StorageConfig())
    assert SECRET not in str(error.value)
    assert SECRET not in without_secrets(f"cannot reach {place} now")


def test_places_without_secrets_stay_as_they_are() -> None:
    for place in ("data/demo", "http://host:8000/c", "s3://bucket/a@b", "a?b"):
        assert load(TrainConfig, [f'corpus="{place}"']).corpus == place
    assert without_secrets("what? see http://host/c for more") == "what? see http://host/c for more"


def test_names_of_experiments() -> None:
    with pytest.raises(UserError, match="name: a name is one plain folder name"):
        load(ExperimentConfig, ["name=..", "images=1", "reference=a"])
