"""What an agent of W&B sweeps would start is a training that the settings allow, and its score is one that runs write."""

import re
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml

from largescale.config import load
from largescale.training.settings.recipe import TrainConfig, named

ROOT = Path(__file__).parents[2]
FILES = sorted(ROOT.glob("launch/sweeps/*.yaml"))
ENDS = ("min", "max")


def ends(parameter: dict[str, Any]) -> list[Any]:
    """The values of a parameter that are farthest apart."""
    return list(parameter["values"]) if "values" in parameter else [parameter[end] for end in ENDS]


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_corner_of_a_sweep_is_a_training(file: Path) -> None:
    rendered = pytest.importorskip("wandb.sdk.launch.sweeps.utils").create_sweep_command_args
    sweep = yaml.safe_load(file.read_text())
    place = sweep["command"].index("${program}")
    launcher, (recipe, *same, drawn_last) = sweep["command"][:place], sweep["command"][place + 1 :]
    assert launcher[:3] == ["torchrun", "--standalone", "--nproc-per-node"]
    assert (ROOT / sweep["program"]).exists()
    assert (drawn_last, recipe) == ("${args_no_hyphens}", "configs/demo.yaml")
    names, values = zip(*((name, ends(parameter)) for name, parameter in sweep["parameters"].items()), strict=True)
    found = set()
    for corner in product(*values):
        drawn = rendered({"args": {name: {"value": value} for name, value in zip(names, corner, strict=True)}})["args_no_hyphens"]
        arguments = [str(ROOT / recipe), *same, *drawn]
        config = named(load(TrainConfig, arguments), arguments)
        found.add(config.directory)
        assert config.evaluation.every
        assert config.evaluation.gallery
    assert len(found) == len(list(product(*values)))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_score_of_a_sweep_is_written_by_evaluations(file: Path) -> None:
    metric = yaml.safe_load(file.read_text())["metric"]
    source = (ROOT / "largescale/training/callbacks/evaluation.py").read_text()
    assert metric["goal"] == "maximize"
    assert re.search(f'"{re.escape(metric["name"])}"', source)
