import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import yaml

from largescale.commit import write_text
from largescale.config import load, to_yaml
from largescale.evaluation.results import read_results
from largescale.experiments.config import ExperimentConfig, Point
from largescale.experiments.page import write_page
from largescale.experiments.runs import plan_runs
from largescale.experiments.table import table_of, write_table
from largescale.settings import UserError
from tests import programs
from tests.conftest import ROOT
from tests.corpora import make_corpus
from tests.distributed.runs import ENVIRONMENT


def experiment(*arguments: object, status: int = 0) -> str:
    done = programs.run([sys.executable, "launch/experiment.py", *arguments], ENVIRONMENT, timeout=600)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two methods, 64 images each, on a tiny corpus."""
    folder = tmp_path_factory.mktemp("experiment")
    corpus = str(make_corpus(folder / "corpus", labels=8, per_label=4, size=48))
    common = {"corpus": corpus, "epochs": 2, "images": {"size": 48}, "loader": {"workers": 0}, "tracking": {"wandb": "off"}}
    methods = {
        "contrastive": {"loss": {"name": "contrastive"}, "tuples": {"per_step": 4}, "mining": {"negatives": 2}},
        "batch-hard": {"loss": {"name": "batch_hard"}, "batches": {"classes_per_batch": 4, "images_per_class": 2}},
    }
    values = {
        "name": "tiny",
        "out": str(folder / "out"),
        "images": 64,
        "seeds": [0],
        "train": common | {"model": {"backbone": "timm:test_resnet.r160_in1k", "freeze_batchnorm": False}},
        "methods": methods,
        "evaluate": {"gallery": corpus, "images": {"size": 48}, "loader": {"workers": 0}},
        "metrics": ["map_rectangle", "recall_at_1"],
        "reference": "contrastive",
    }
    (folder / "tiny.yaml").write_text(yaml.safe_dump(values))
    return folder


@pytest.fixture(scope="module")
def first(described: Path) -> str:
    """What the experiment says when it is run; its results are in `out`."""
    return experiment(described / "tiny.yaml")


@pytest.mark.slow
def test_an_experiment_leaves_one_table_and_goes_on(described: Path, first: str) -> None:
    assert first.count("rank 0: train ") == first.count("rank 0: evaluate ") == 2
    table = json.loads((described / "out/tiny/table.json").read_text())["methods"]
    folders = {row["method"]: described / f"out/tiny/runs/{row['method']}-seed-0/score" for row in table}
    means = {method: read_results(folder).protocols[0].metrics["map_rectangle"].value for method, folder in folders.items()}
    assert [row["values"]["map_rectangle"] for row in table] == [[mean] for mean in sorted(means.values(), reverse=True)]
    assert [row["images"] for row in table] == [64, 64]
    gain = next(row["gain"] for row in table if row["method"] == "batch-hard")
    assert gain["difference"] == pytest.approx(means["batch-hard"] - means["contrastive"])
    assert gain["low"] <= gain["difference"] <= gain["high"]
    assert gain["wins"] + gain["losses"] + gain["ties"] == 32
    page = (described / "out/tiny/table.md").read_text()
    assert re.search(r"\| contrastive \| 64 \| [\d.]+ \| [\d.]+ \|  \|  \|  \| [\d.]+ \| [\d.]+ \|", page)
    seconds = {row["method"]: row["seconds"] for row in table}
    assert all(value > 0 for value in (*seconds["contrastive"]["mining (s)"], *seconds["batch-hard"]["epoch (s)"]))
    assert seconds["batch-hard"]["mining (s)"] == [0]
    assert (described / "out/tiny/table.html").read_text().count("<svg") == 3

    again = experiment(described / "tiny.yaml")
    assert again.count("rank 0: train ") == again.count("rank 0: evaluate ") == 0
    assert (described / "out/tiny/table.md").read_text() == page
    assert "trained or scored with other settings" in experiment(described / "tiny.yaml", "train.optim.lr=0.1", status=2)


@pytest.mark.slow
def test_weights_are_not_scored_under_the_name_of_other_settings(described: Path, tmp_path: Path) -> None:
    """The experiment was interrupted between training and evaluation, and its method was changed then."""
    arguments = [str(described / "tiny.yaml"), f"out={tmp_path}"]
    trained = plan_runs(load(ExperimentConfig, arguments))[0]
    write_text(trained.begun, to_yaml(trained.train))
    write_text(trained.weights, "")
    changed = plan_runs(load(ExperimentConfig, [*arguments, "methods.batch-hard.loss.margin=0.3"]))[0]
    assert changed.weights == trained.weights
    with pytest.raises(UserError, match="was trained or scored with other settings"):
        changed.go()


@pytest.mark.slow
@pytest.mark.usefixtures("first")
def test_a_method_that_fails_does_not_keep_the_others_from_their_table(described: Path) -> None:
    """What the experiment above has trained of the first seed is not trained again."""
    diverging = (
        "methods.diverging={loss: {name: batch_hard}, batches: {classes_per_batch: 4, images_per_class: 2}, optim: {lr: 1.0e30}}"
    )
    said = experiment(described / "tiny.yaml", diverging, "seeds=[0,1]", status=2)
    assert said.count("train ") == 3 + said.count("train of diverging")  # of the second seed it is not tried
    assert "not in the table for a run that failed: diverging" in said
    table = json.loads((described / "out/tiny/table.json").read_text())["methods"]
    assert sorted(row["method"] for row in table) == ["batch-hard", "contrastive"]
    assert all(len(row["values"]["map_rectangle"]) == 2 for row in table)


@pytest.mark.slow
@pytest.mark.usefixtures("first")
def test_a_study_compares_the_values_of_one_setting(described: Path) -> None:
    """Its table and page from runs that are there: those of the methods above stand for the two values of each method."""
    out = described / "study"
    study = [f"out={out}", "vary.setting=loss.margin", "vary.values=[0.3, 0.9]", "reference=0.3"]
    config = load(ExperimentConfig, [str(described / "tiny.yaml"), *study])
    runs = plan_runs(config)
    assert [run.train.loss.model_dump()["margin"] for run in runs] == [0.3, 0.9] * 2
    for run in runs:
        method = "contrastive" if run.point.value == 0.3 else "batch-hard"
        shutil.copytree(described / f"out/tiny/runs/{method}-seed-0", run.train.directory)
    rows = table_of(config, runs)
    assert [row.point for row in rows] == [Point(m, v) for m in config.methods for v in (0.3, 0.9)]
    low, high = rows[:2]
    assert low.gain is None
    assert high.gain is not None
    assert high.gain.difference == pytest.approx(high.values["map_rectangle"][0] - low.values["map_rectangle"][0])
    assert re.search(r"\| batch-hard \| 0.9 \| 64 \| [\d.]+ ", write_table(config, rows).read_text())
    page = write_page(config, rows).read_text()
    assert page.count("<svg") == 3
    assert page.count("<!-- loss.margin -->") == 3


def test_what_varies_is_compared_at_the_same_value_or_with_one_value(described: Path) -> None:
    vary = ["vary.setting=loss.margin", "vary.values=[0.3, 0.9]"]
    config = load(ExperimentConfig, [str(described / "tiny.yaml"), *vary])
    assert config.base(Point("batch-hard", 0.9)) == Point("contrastive", 0.9)
    config = load(ExperimentConfig, [str(described / "tiny.yaml"), *vary, "reference=0.3"])
    assert config.base(Point("batch-hard", 0.9)) == Point("batch-hard", 0.3)


def test_every_method_sees_the_same_images(described: Path) -> None:
    config = load(ExperimentConfig, [str(described / "tiny.yaml"), "images=1000", f"out={described / 'other'}"])
    for run in plan_runs(config):
        assert abs(run.images - 1000) <= 16  # whole steps in each of two epochs
        assert run.steps % 2 == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("methods.contrastive.loss.margn=1", "unknown setting 'loss.margn'; did you mean loss.margin"),
        ("reference=none", "reference=none is none of the methods"),
        ("seeds=[1, 1]", "give different ones"),
        ("vary={setting: loss.margn, values: [1]}", "unknown setting 'loss.margn'; did you mean loss.margin"),
        ("vary={setting: loss.margin, values: [1, 1]}", "two trainings would share the folder batch-hard-1"),
        ("evaluate.galery=x", "unknown setting 'galery'"),
    ],
)
def test_what_is_wrong_is_said_before_the_first_training(described: Path, argument: str, said: str) -> None:
    assert said in experiment(described / "tiny.yaml", f"out={described / 'wrong'}", argument, status=2)
    assert not list((described / "wrong").rglob("weights"))


@pytest.mark.slow
def test_the_experiments_that_come_with_the_project_are_valid(tmp_path: Path) -> None:
    for path in sorted((ROOT / "configs/experiments").glob("*.yaml")):
        config = load(ExperimentConfig, [str(path), f"out={tmp_path}"])
        runs = plan_runs(config)
        assert len(runs) == len(config.points) * len(config.seeds)
        assert max(run.images for run in runs) < 1.02 * min(run.images for run in runs)
