"""The first loss of every recipe's network and loss on 1, 2 and 4 processes: `python -m tests.benchmarks.first_losses`.

Networks begin with random weights, images are small, and the corpus is made up, so that each takes seconds: what is shown is
that a step is the same on any number of processes.
"""

import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from largescale.config import load, read_yaml
from largescale.corpus.loading import load_steps
from largescale.distributed import World
from largescale.training.build import build_trainer
from largescale.training.settings.recipe import TrainConfig
from tests.conftest import ROOT
from tests.corpora import make_corpus
from tests.world import run_world

SIZES = (1, 2, 4)
ROOMS = (".", "lrml", "rde", "cam", "roadmap", "modern")
SMALL = (
    *("model.weights=none", "precision=fp32", "loader.workers=0", "tracking.wandb=off", "evaluation.every=0", "epochs=1"),
    *("evaluate={}", "trouble.quick_images=0", "corpus_weights=null", "images={size: 56, fit: squash}"),
)
TUPLES = ("tuples={per_step: 4, per_epoch: 4}", "mining={negatives: 2, batch_size: 4}")
LABELS = ("batches={classes_per_batch: 4, images_per_class: 2}",)


def recipes() -> dict[str, list[str]]:
    """Arguments of each recipe, small; of those with the same network only the first."""
    found: dict[str, list[str]] = {}
    seen: set[str] = set()
    for path in sorted(path for room in ROOMS for path in ROOT.glob(f"configs/{room}/*.yaml")):
        values = read_yaml(path)
        kind = json.dumps(values.get("model"), sort_keys=True)
        if "name" in values and kind not in seen:
            seen.add(kind)
            name = str(path.relative_to(ROOT / "configs").with_suffix(""))
            found[name] = [str(path), *SMALL, *(TUPLES if values["loss"]["name"] in NEEDS_TUPLES else LABELS)]
    return found


NEEDS_TUPLES = ("contrastive", "triplet", "quadruplet", "lrml", "infonce", "rde_contrastive", "rde_triplet")


def first_losses(world: World, corpus: Path, runs: Path, asked: dict[str, Sequence[str]]) -> dict[str, float | str]:
    """What the first step of each gives; or why it gives nothing."""
    found: dict[str, float | str] = {}
    for name, arguments in asked.items():
        places = [f"corpus={corpus}", f"runs={runs / str(world.size)}", f"name={name.replace('/', '-')}"]
        try:
            found[name] = _first_loss(world, load(TrainConfig, [*arguments, *places]))
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}".splitlines()[0][:120]
    return found


def _first_loss(world: World, config: TrainConfig) -> float:
    trainer = build_trainer(config, world)
    trainer.begin()
    plan = trainer.planner.plan(trainer.progress, trainer.evaluated_model)
    assert plan is not None
    # as build_trainer has them: with what the network decides
    images = trainer.config.images
    step = next(load_steps(trainer.corpus, plan.columns, images, epoch=0, seed=0, loader=config.loader))
    return float(trainer.engine.backward(plan.batch(step, 0, 0).split(config.engine.gradient_accumulation)))


def table(found: dict[int, dict[str, Any]]) -> str:
    lines = ["| recipe | 1 process | 2 | 4 | largest difference |", "|---|---:|---:|---:|---:|"]
    for name, alone in found[SIZES[0]].items():
        values = [found[size][name] for size in SIZES]
        if any(isinstance(value, str) for value in values):
            lines.append(f"| `{name}` | {' | '.join(map(str, values))} | |")
            continue
        apart = max(abs(value - alone) / max(abs(alone), 1e-12) for value in values)
        lines.append(f"| `{name}` | {' | '.join(f'{value:.6f}' for value in values)} | {apart:.0e} |")
    return "\n".join(lines)


def main() -> None:
    asked = recipes()
    chosen = {name: asked[name] for name in sys.argv[1:] or asked}
    with tempfile.TemporaryDirectory() as folder:
        corpus = make_corpus(Path(folder) / "corpus", labels=8, per_label=4, shards=2, size=56, pairs=True)
        found = {size: run_world(size, first_losses, corpus, Path(folder), chosen, timeout_s=3600)[0] for size in SIZES}
    print(table(found))


if __name__ == "__main__":
    main()
