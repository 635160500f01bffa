"""The README stays true: its tree is the tree, its commands are commands."""

import re
import shlex
import subprocess
import sys

import pytest

from largescale.config import load, read_yaml
from largescale.evaluation.config import EvaluateConfig
from largescale.experiments.config import ExperimentConfig
from largescale.mining.config import PlanConfig, ServiceConfig
from largescale.settings import Settings
from largescale.training.recipe import TrainConfig
from launch.study import STUDIES
from tests.conftest import ROOT

README = (ROOT / "README.md").read_text()
COMMANDS = [line.removeprefix("$ ") for block in re.findall(r"```console\n(.*?)```", README, re.S) for line in block.splitlines()]
MAIN: dict[str, type[Settings]] = {
    "launch/train.py": TrainConfig,
    "launch/evaluate.py": EvaluateConfig,
    "launch/experiment.py": ExperimentConfig,
}
PROGRAMS = [*MAIN, "launch/mine.py", "launch/study.py", "launch/compare.py"]
FILES = sorted(path for path in ROOT.glob("configs/**/*.yaml") if path.parent.name not in ("experiments", "evaluation"))
RECIPES = [path for path in FILES if "name" in read_yaml(path)]
"""Other files are variants, laid over a recipe."""
PLACES = {"RECIPE": "configs/demo.yaml"}


def _in_tree() -> set[str]:
    """Files that the README's tree names, by path."""
    tree = README.split("```text\n")[1].split("```")[0]
    folders: list[str] = []
    files = set()
    for line in tree.splitlines():
        name = line.split()[0]
        depth = (len(line) - len(line.lstrip())) // 2
        folders = [*folders[:depth], name]
        if not name.endswith("/"):
            files.add("".join(folders))
    return files


def test_tree_names_every_file() -> None:
    real = {
        str(path.relative_to(ROOT))
        for folder in ("launch", "largescale", "shards")
        for path in (ROOT / folder).rglob("*.py")
        if path.name not in ("__init__.py", "__main__.py")
    }
    named = {file for file in _in_tree() if file.endswith(".py")}
    assert named == real


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("make ")])
def test_make_targets_exist(command: str) -> None:
    done = subprocess.run(["make", "--dry-run", *shlex.split(command)[1:]], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", [command for command in COMMANDS if "launch/" in command])
def test_settings_are_settings(command: str) -> None:
    words = [PLACES.get(word, word) for word in shlex.split(command)]
    program = next(word for word in words if word in PROGRAMS)
    arguments = [word for word in words[words.index(program) + 1 :] if not word.startswith("--")]
    if program == "launch/mine.py":
        load(PlanConfig if "--plan" in words else ServiceConfig, [word for word in arguments if "=" in word])
    elif program == "launch/compare.py":
        assert len(arguments) in (2, 3)
    elif program == "launch/study.py":
        assert "--help" in words or load(STUDIES[arguments[0]], arguments[1:])
    else:
        load(MAIN[program], [str(ROOT / word) if word.endswith(".yaml") else word for word in arguments])


def test_every_command_is_checked() -> None:
    assert COMMANDS
    assert all(command.startswith("make ") or any(program in command for program in PROGRAMS) for command in COMMANDS)


def test_help_names_the_settings() -> None:
    done = subprocess.run([sys.executable, "launch/train.py", "--help"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "optim.lr=" in done.stdout


def test_every_recipe_resolves() -> None:
    names = [load(TrainConfig, [str(recipe)]).name for recipe in RECIPES]
    assert names
    assert len(set(names)) == len(names), "two recipes would train in one run directory"


def test_every_variant_lies_over_the_recipes_of_its_folder() -> None:
    for variant in set(FILES) - set(RECIPES):
        for recipe in (recipe for recipe in RECIPES if recipe.parent == variant.parent):
            assert load(TrainConfig, [str(recipe), str(variant)]).name == load(TrainConfig, [str(recipe)]).name


def test_few_shot_lies_over_every_recipe_of_class_anchors() -> None:
    for recipe in (recipe for recipe in RECIPES if recipe.parent.name == "cam"):
        config = load(TrainConfig, [str(recipe), str(ROOT / "configs/cam/few-shot.yaml"), "seed=3", "batches.shots=1"])
        assert config.batches is not None
        assert (config.loss.name, config.batches.shots, config.batches.images_per_class) == ("class_anchor", 1, 1)
