"""The README and the docs stay true: their commands are commands, their links lead somewhere."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from largescale.config import load, read_yaml
from largescale.evaluation.config import EvaluateConfig
from largescale.experiments.config import ExperimentConfig
from largescale.mining.config import PlanConfig, ServiceConfig
from largescale.settings import Settings
from largescale.training.settings.recipe import TrainConfig
from launch.evaluate import STEPS
from launch.study import STUDIES
from shards.__main__ import _parser
from tests.conftest import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md"))]
LAPTOP_LACKS = "<!-- needs what a laptop lacks -->"
"""Stands before a block whose commands are not checked."""


def _commands(page: str) -> list[str]:
    blocks = re.findall(rf"({re.escape(LAPTOP_LACKS)}\n+)?```console\n(.*?)```", page, re.S)
    lines = [line for lacks, block in blocks if not lacks for line in block.replace("\\\n", " ").splitlines()]
    return [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]


README = (ROOT / "README.md").read_text()
COMMANDS = sorted({command for page in PAGES for command in _commands(page.read_text())})
MAIN: dict[str, type[Settings]] = {
    "launch/train.py": TrainConfig,
    "launch/evaluate.py": EvaluateConfig,
    "launch/experiment.py": ExperimentConfig,
}
PROGRAMS = [f"launch/{path.name}" for path in ROOT.glob("launch/*.py")]
FILES = sorted(path for path in ROOT.glob("configs/**/*.yaml") if path.parent.name not in ("experiments", "evaluation"))
RECIPES = [path for path in FILES if "name" in read_yaml(path) or path.stem == "labels"]
"""Other files are variants, laid over a recipe. The default recipe names no run: each corpus and setting has its own."""
PLACES = {"RECIPE": "configs/demo.yaml"}


def test_the_readme_introduces() -> None:
    assert len(README.encode()) <= 8192
    tree = README.split("```text\n")[-1].split("```")[0].splitlines()
    assert len(tree) == 12
    assert all((ROOT / line.split()[0]).is_dir() for line in tree)


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text()):
            made = target.startswith("../reference/") or target.startswith("reference/") or target.endswith("studies.md")
            assert made or (page.parent / target).exists(), f"{page}: {target}"


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("make ")])
def test_make_targets_exist(command: str) -> None:
    done = subprocess.run(["make", "--dry-run", *shlex.split(command)[1:]], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def mypackage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package that the pages write, as they write it."""
    for page in PAGES:
        for name, text in re.findall(r'```python title="(mypackage/\w+\.py)"\n(.*?)```', page.read_text(), re.S):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.slow
@pytest.mark.usefixtures("mypackage")
@pytest.mark.parametrize("command", [command for command in COMMANDS if re.search(r"launch/\w+\.py", command)])
def test_settings_are_settings(command: str) -> None:
    words = [PLACES.get(word, word) for word in shlex.split(command, comments=True)]
    program = next(word for word in words if word in PROGRAMS)
    arguments = [word for word in words[words.index(program) + 1 :] if not word.startswith("--")]
    if program == "launch/mine.py":
        load(PlanConfig if "--plan" in words else ServiceConfig, [word for word in arguments if "=" in word])
    elif program == "launch/compare.py":
        assert len(arguments) in (2, 3)
    elif program == "launch/study.py":
        assert "--help" in words or load(STUDIES[arguments[0]], arguments[1:])
    elif program in MAIN:
        steps = [word for word in arguments if word not in STEPS]
        load(MAIN[program], [str(ROOT / word) if word.endswith(".yaml") else word for word in steps])


@pytest.mark.parametrize("command", [command for command in COMMANDS if " -m shards " in command])
def test_builders_take_the_options(command: str) -> None:
    words = shlex.split(command, comments=True)
    _parser().parse_args(words[words.index("shards") + 1 :])


def test_every_command_is_of_a_known_program() -> None:
    known = (
        "make ",
        "pip install ",
        "kubectl ",
        "sbatch ",
        "sky ",
        "aws ",
        "curl ",
        "wandb ",
        "python -m shards ",
        "largescale ",
        "python -m largescale",
        "python -m tests.",
    )
    plain = [command.removeprefix("srun --ntasks 32 ").removeprefix(".venv/bin/") for command in COMMANDS]
    strange = [c for c in plain if not c.startswith(known) and not any(program in c for program in PROGRAMS)]
    assert COMMANDS
    assert not strange


@pytest.mark.slow
def test_help_names_the_settings() -> None:
    done = subprocess.run([sys.executable, "launch/train.py", "--help"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "optim.lr=" in done.stdout


@pytest.mark.slow
def test_every_recipe_resolves() -> None:
    names = [load(TrainConfig, [str(recipe)]).name for recipe in RECIPES]
    assert names
    assert len(set(names)) == len(names), "two recipes would train in one run directory"


@pytest.mark.slow
def test_every_variant_lies_over_the_recipes_of_its_folder() -> None:
    for variant in set(FILES) - set(RECIPES):
        for recipe in (recipe for recipe in RECIPES if recipe.parent == variant.parent):
            if "batches" in read_yaml(variant) and load(TrainConfig, [str(recipe)]).batches is None:
                continue  # it is of batches of labels, and this recipe of tuples
            assert load(TrainConfig, [str(recipe), str(variant)]).name == load(TrainConfig, [str(recipe)]).name


@pytest.mark.slow
def test_few_shot_lies_over_every_recipe_of_class_anchors() -> None:
    for recipe in (recipe for recipe in RECIPES if recipe.parent.name == "cam"):
        config = load(TrainConfig, [str(recipe), str(ROOT / "configs/cam/few-shot.yaml"), "seed=3", "batches.shots=1"])
        assert config.batches is not None
        assert (config.loss.name, config.batches.shots, config.batches.images_per_class) == ("class_anchor", 1, 1)


def test_tests_that_the_cases_name_are_there() -> None:
    """`path.py::Class::test`, and after a comma `::test` of the same file."""
    rows = (ROOT / "docs" / "results" / "cases.md").read_text().splitlines()
    named = 0
    for row in (row for row in rows if row.startswith("|")):
        file = ROOT
        for path, name in re.findall(r"`([\w/]*\.py)?::(?:\w+::)?(\w+)`", row):
            file = ROOT / "tests" / path if path else file
            assert f"def {name}(" in file.read_text(), f"{path}::{name}"
            named += 1
    assert named > 30
