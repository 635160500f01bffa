"""Pages that follow from the code: every setting, every program, the Python API."""

import io
from contextlib import redirect_stdout, suppress
from importlib import import_module
from pathlib import Path

import mkdocs_gen_files

from largescale.config import explain
from largescale.describing.config import EmbedConfig, ExportConfig
from largescale.evaluation.config import EvaluateConfig
from largescale.experiments.config import ExperimentConfig
from largescale.mining.config import PlanConfig, ServiceConfig
from largescale.program.cli import PROGRAMS, module_of
from largescale.settings import Settings
from largescale.training.rates import RatesConfig
from largescale.training.settings.recipe import TrainConfig
from launch.search import VERBS
from launch.study import STUDIES

SETTINGS: dict[str, type[Settings]] = {
    "train": TrainConfig,
    "evaluate": EvaluateConfig,
    "experiment": ExperimentConfig,
    "mine": ServiceConfig,
    "mine --plan": PlanConfig,
    "rates": RatesConfig,
    "embed": EmbedConfig,
    "export": ExportConfig,
    **{f"search {verb}": cls for verb, cls in VERBS.items()},
    **{f"study {study}": cls for study, cls in STUDIES.items()},
}
TUPLES = ("base", "contrastive", "triplet", "quadruplet", "infonce", "lrml", "rde")
LABELS = ("base", "batch_hard", "class_anchor", "margin_softmax", "metric_learning")
RANKING = ("base", "smooth_ap", "soft_bin_ap", "blackbox_ap", "sup_ap", "calibration", "roadmap")
API = {
    "largescale": ["largescale.describing.model", "largescale.search.index", "largescale.training.train"],
    "Networks": ["largescale.models.network", "largescale.models.backbones.contract", "largescale.models.backbones.plugins"],
    "Pooling and whitening": ["largescale.models.pooling", "largescale.models.whitening"],
    "Losses over tuples": [f"largescale.losses.tuples.{name}" for name in TUPLES],
    "Losses over labels": [f"largescale.losses.labels.{name}" for name in LABELS],
    "Losses over rankings": [f"largescale.losses.ranking.{name}" for name in RANKING],
    "Around a loss": ["largescale.losses.memory", "largescale.losses.matryoshka", "largescale.testing.loss_laws"],
    "Mining": ["largescale.mining.search.select", "largescale.mining.search.index", "largescale.mining.miner"],
    "Evaluation": ["largescale.evaluation.protocol.metrics", "largescale.evaluation.scoring.statistics"],
    "Callbacks": ["largescale.training.callbacks.base"],
    "Processes": ["largescale.distributed"],
}


def page(path: str, text: str) -> None:
    with mkdocs_gen_files.open(path, "w") as file:
        file.write(text)


def settings() -> None:
    text = ["# Settings", "", "Every setting with its default, as `--help all` prints it."]
    for program, cls in SETTINGS.items():
        text += ["", f"## {program}", "", "```text", explain(cls, f"largescale {program}", (), "all"), "```"]
    page("reference/settings.md", "\n".join(text) + "\n")


def help_of(program: str) -> str:
    """What `PROGRAM --help` prints."""
    shown = io.StringIO()
    main = import_module("shards.__main__" if program == "shards" else module_of(program)).main
    with redirect_stdout(shown), suppress(SystemExit):
        main(["build", "--help"] if program == "shards" else ["--help"])
    return shown.getvalue()


def programs() -> None:
    text = ["# Programs", "", "`largescale NAME …`, in a checkout also `python launch/NAME.py …` and `python -m shards …`."]
    for name, about in PROGRAMS.items():
        text += ["", f"## {name}", "", f"{about[0].upper()}{about[1:]}."]
        text += ["", "```text", help_of(name), "```"]
    page("reference/programs.md", "\n".join(text) + "\n")


def api() -> None:
    text = ["# Python API"]
    for title, modules in API.items():
        text += ["", f"## {title}", *(f"\n::: {module}" for module in modules)]
    page("reference/api.md", "\n".join(text) + "\n")


def results() -> None:
    root = Path(__file__).parents[1]
    page("results/studies.md", (root / "configs" / "experiments" / "RESULTS.md").read_text())


settings()
programs()
api()
results()
