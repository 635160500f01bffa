"""Losses, rates and other settings of the default recipe on the sets of choice_sets.py, a line of a table for each run:

python -m tests.benchmarks.choice_runs ROOT [SET/METHOD/RATE/SEED ...] [key=value ...]

ROOT holds data/SET/{fit,held,train,test} and weights/. A place of a pattern may name several: grocery,fine/smooth-ap/1e-4/0,1.
Every run is configs/labels.yaml with squeezenet1_1 and the loss and rate named; it learns from `fit` and is scored on `held`
(with FINAL=1 in the environment: `train` and `test`). ROOT/choice.jsonl keeps what was measured: what is in it is not run again.
"""

import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from largescale.config import check, load
from largescale.distributed import World
from largescale.evaluation import evaluate
from largescale.evaluation.config import EvaluateConfig
from largescale.training.build import build_trainer
from largescale.training.finishing.final import scored_weights
from largescale.training.settings.default_recipe import LABELS
from largescale.training.settings.recipe import TrainConfig

MINER = "miner: MultiSimilarityMiner"
METHODS = {
    "recipe": [],
    "smooth-ap": ["loss={name: smooth_ap}"],
    "sup-ap": ["loss={name: sup_ap}"],
    "roadmap": ["loss={name: roadmap}"],
    "multi-similarity": [f"loss={{name: metric_learning, loss: MultiSimilarityLoss, {MINER}}}"],
    "infonce": ["loss={name: metric_learning, loss: NTXentLoss, arguments: {temperature: 0.07}}"],
    "proxy-anchor": ["loss={name: metric_learning, loss: ProxyAnchorLoss}", "optim.loss_lr_mult=100"],
    "batch-hard": ["loss={name: batch_hard, margin: 0.1, mean: nonzero}"],
    "contrastive-mined": [
        "loss={name: contrastive, margin: 0.7}",
        "batches=null",
        "tuples={per_step: 9, per_epoch: 450}",
        "mining={negatives: 5}",
    ],
}
METRICS = ("recall_at_1", "map_at_r", "map_rectangle")


@dataclass(frozen=True)
class Run:
    """One training, or with the method `before` none, and its score."""

    root: Path
    set: str
    method: str
    rate: str
    seed: str
    settings: tuple[str, ...]
    final: bool

    @property
    def key(self) -> str:
        split = "test" if self.final else "held"
        return " ".join([f"{self.set}-{split}", self.method, self.rate, self.seed, *self.settings])

    def train(self, folder: Path) -> TrainConfig:
        fixed = {
            "corpus": self.root / "data" / self.set / ("train" if self.final else "fit"),
            "runs": folder,
            "name": "run",
            "seed": self.seed,
            "epochs": 4,
            "images.size": 96,
            "model": f"{{backbone: squeezenet1_1, weights: {self.root}/weights/squeezenet1_1_features_imagenet.pth}}",
            "optim.lr": self.rate,
            "loader.workers": 0,
            "evaluation.every": 0,
            "checkpoint.keep": 2,
            "tracking.wandb": '"off"',
        }
        batches = [] if "batches=null" in METHODS.get(self.method, []) else ["batches.per_epoch=50"]
        given = [f"{key}={value}" for key, value in fixed.items()]
        return load(TrainConfig, [str(LABELS), *batches, *given, *METHODS.get(self.method, []), *self.settings])

    def evaluation(self, folder: Path, config: TrainConfig) -> EvaluateConfig:
        gallery = self.root / "data" / self.set / ("test" if self.final else "held")
        images = config.images.after_training().model_dump(include={"size", "fit"})
        values = {"gallery": str(gallery), "out": str(folder / "score"), "images": images, "loader": {"workers": 0}}
        return check(EvaluateConfig, values | {"weights": "in memory", "tracking": {"wandb": "off"}})


def measure(run: Run) -> None:
    """Train, score, and append to the table."""
    torch.set_num_threads(1)
    folder = run.root / "running" / str(os.getpid())
    config = run.train(folder)
    began = time.time()
    with World.start() as world:
        trainer = build_trainer(config, world)
        if run.method != "before":
            trainer.begin()
            trainer.fit()
            if not trainer.finished:  # stopped by a signal
                return
        trained = time.time()
        found = trainer.evaluated_model() if run.method == "before" else scored_weights(config.directory)
        results = evaluate(found, run.evaluation(folder, config), world)
    row: dict[str, Any] = {"run": run.key, "seconds": round(trained - began), "score_seconds": round(time.time() - trained)}
    row |= {name: round(100 * results.protocols[0].metrics[name].value, 2) for name in METRICS}
    row["trouble"] = troubles(folder / "run" / "log.jsonl")
    with (run.root / "choice.jsonl").open("a") as table:
        table.write(json.dumps(row) + "\n")
    print(json.dumps(row), flush=True)
    shutil.rmtree(folder)


def troubles(log: Path) -> list[str]:
    """What the run said of itself."""
    if not log.exists():
        return []
    lines = map(json.loads, log.read_text().splitlines())
    return [key.removeprefix("trouble/") for line in lines for key in line if key.startswith("trouble/")]


def planned(root: Path, patterns: list[str], settings: list[str]) -> Iterator[Run]:
    for pattern in patterns:
        for places in product(*(place.split(",") for place in pattern.split("/"))):
            yield Run(root, *places, tuple(settings), os.environ.get("FINAL") == "1")


def measured(root: Path) -> set[str]:
    table = root / "choice.jsonl"
    return {json.loads(line)["run"] for line in table.read_text().splitlines()} if table.exists() else set()


def main(root: Path, arguments: list[str]) -> None:
    settings = [argument for argument in arguments if "=" in argument]
    for run in planned(root, [argument for argument in arguments if "=" not in argument], settings):
        if run.key not in measured(root):
            process = get_context("fork").Process(target=measure, args=(run,))
            process.start()
            process.join()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
