"""The recipe of a run that names none."""

from pathlib import Path

import pytest

from largescale.config import load
from largescale.training.settings.default_recipe import LABELS, with_default_recipe
from largescale.training.settings.recipe import TrainConfig
from tests.corpora import make_corpus


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("corpora")
    return {name: make_corpus(folder / name, labels=labels, per_label=2, size=16) for name, labels in (("many", 20), ("few", 5))}


@pytest.mark.slow
def test_labels_without_pairs_take_the_recipe_for_labels(corpora: dict[str, Path], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    found = with_default_recipe([f"corpus={corpora['many']}", "optim.lr=1e-5"])
    assert found[0] == str(LABELS)
    assert "has labels and no pairs" in caplog.text
    config = load(TrainConfig, found)
    assert (config.loss.name, config.optim.lr) == (load(TrainConfig, [str(LABELS)]).loss.name, 1e-5)


@pytest.mark.slow
def test_other_batches_are_batches_of_the_recipe(corpora: dict[str, Path]) -> None:
    config = load(TrainConfig, with_default_recipe([f"corpus={corpora['many']}", "batches.per_epoch=7"]))
    assert config.loss == load(TrainConfig, [str(LABELS)]).loss
    assert config.batches is not None
    assert (config.batches.per_epoch, config.batches.classes_per_batch) == (7, 16)


def test_few_labels_make_whole_batches(corpora: dict[str, Path]) -> None:
    batches = load(TrainConfig, with_default_recipe([f"corpus={corpora['few']}"])).batches
    assert batches is not None
    assert (batches.classes_per_batch, batches.images_per_class) == (5, 12)


def test_what_the_user_chose_stays(corpora: dict[str, Path]) -> None:
    for chosen in ("configs/grocery.yaml", "loss.name=roadmap", "tuples.per_step=3"):
        arguments = [f"corpus={corpora['many']}", chosen]
        assert with_default_recipe(arguments) == arguments
