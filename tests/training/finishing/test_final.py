"""Recipes end with their papers' evaluations: all of them are valid, and the table has both numbers."""

from pathlib import Path

import pytest

from largescale.commit import write_json
from largescale.config import load, read_yaml
from largescale.evaluation import EvaluateConfig
from largescale.evaluation.protocol.protocols import LEAVE_ONE_OUT, landmark_protocols
from largescale.training.finishing.final import finals, score, scored_weights
from largescale.training.settings.recipe import TrainConfig
from tests.conftest import ROOT
from tests.corpora import make_corpus
from tests.evaluation.small import alone, make_weights

ROOMS = ("lrml", "rde", "cam", "roadmap", "modern")


@pytest.fixture(autouse=True)
def in_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.mark.slow
def test_every_published_recipe_ends_with_an_evaluation() -> None:
    recipes = [*ROOT.glob("configs/*.yaml"), *(path for room in ROOMS for path in ROOT.glob(f"configs/{room}/*.yaml"))]
    recipes = [recipe for recipe in recipes if "name" in read_yaml(recipe)]  # others are laid over them
    recipes = [recipe for recipe in recipes if recipe.stem not in ("demo", "labels")]  # of no published corpus
    assert len(recipes) > 30
    named = {metric for family in ("oxford5k", "paris6k", "holidays") for metric in _metrics(family)}
    named |= {metric for family in ("roxford5k", "rparis6k") for metric in _metrics(family)}
    named |= {f"{LEAVE_ONE_OUT.name}/{metric}" for metric in LEAVE_ONE_OUT.metrics}
    for recipe in recipes:
        found = finals(load(TrainConfig, [str(recipe)]))
        assert found, recipe
        for final in found:
            assert final.settings.gallery is not None
            assert set(final.paper) <= named, (recipe, final.paper)


def _metrics(family: str) -> list[str]:
    return [f"{protocol.name}/{metric}" for protocol in landmark_protocols(family, True) for metric in protocol.metrics]


def test_every_published_protocol_has_a_file() -> None:
    files = sorted(ROOT.glob("configs/evaluation/*.yaml"))
    found = {load(EvaluateConfig, [str(path)]).protocol for path in files}
    assert found == {
        "oxford5k",
        "paris6k",
        "roxford5k",
        "rparis6k",
        "holidays",
        "holidays-upright",
        "gldv2",
        "ilias",
        "inshop",
        "ukbench",
        "labels",
    }


@pytest.mark.slow
def test_the_table_has_both_numbers_and_names_what_is_not_built(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gallery = make_corpus(tmp_path / "gallery", labels=4, per_label=3, shards=1, size=48)
    (tmp_path / "labels.yaml").write_text(f"gallery: {gallery}\nimages: {{size: 48}}\nloader: {{workers: 0}}\n")
    name = f"{LEAVE_ONE_OUT.name}/recall_at_1"
    entry = f"evaluate.here={{file: {tmp_path / 'labels.yaml'}, paper: {{{name}: 68.5}}}}"
    other = f"evaluate.there={{file: {tmp_path / 'labels.yaml'}, settings: {{gallery: {tmp_path / 'none'}}}}}"
    config = load(TrainConfig, ["name=r", f"runs={tmp_path}", entry, other])
    (tmp_path / "r/weights").mkdir(parents=True)
    weights = make_weights(tmp_path / "r/weights/step-000004.safetensors")
    with alone() as world:
        score(config, world)
    said = capsys.readouterr().out
    line = next(line for line in said.splitlines() if name in line)
    assert line.startswith("here")
    assert line.endswith("68.50")
    assert f"not scored: {tmp_path / 'none'} is not there" in said
    assert (tmp_path / "r/score/here/results.json").exists()
    make_weights(tmp_path / "r/weights/step-000002.safetensors")
    assert scored_weights(tmp_path / "r") == weights
    write_json(tmp_path / "r/checkpoints/best.json", {"step": 2, "score": 0.5})
    assert scored_weights(tmp_path / "r") == tmp_path / "r/weights/step-000002.safetensors"
