"""A training on photographs against pytorch-metric-learning's bare loop, on one core, in processor time:

python -m tests.benchmarks.bench_loop FOLDER

FOLDER holds JPEG files in a folder for each class. Both have the same network, loss, miner, batches, crops and optimizer, and
read the same files: as they are, and enlarged to a camera's 1024 pixels.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from pytorch_metric_learning.losses import MultiSimilarityLoss
from pytorch_metric_learning.miners import MultiSimilarityMiner
from pytorch_metric_learning.samplers import MPerClassSampler
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from largescale.config import check
from largescale.distributed import World
from largescale.models.build import build_network
from largescale.models.config import ModelConfig
from largescale.training.build import build_trainer
from largescale.training.callbacks import Callback
from largescale.training.settings.recipe import TrainConfig
from shards.images import Encoding
from shards.sources.folder import Folder
from shards.writer import build
from tests.benchmarks.table import Row, report

if TYPE_CHECKING:
    from largescale.corpus.batches.batches import Step
    from largescale.training.trainer import Outcome

BATCH, EACH, SIDE, SCALE = 64, 4, 160, (0.4, 1.0)
STEPS, WARM, ROUNDS = 10, 2, 3
LONGEST, GRAIN = 1024, 4
MODEL = ModelConfig(backbone="squeezenet1_1")


class Clock(Callback):
    """Seconds of the processor between the ends of two steps."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def after_step(self, images: "Step", outcome: "Outcome") -> None:
        self.ends.append(time.process_time())


def ours(corpus: Path, out: Path) -> float:
    """Seconds of a step."""
    settings = {
        "corpus": str(corpus),
        "runs": out,
        "epochs": 1,
        "images": {"size": SIDE, "fit": "squash", "augment": {"crop_scale": SCALE}},
        "model": MODEL,
        "loss": {"name": "metric_learning", "loss": "MultiSimilarityLoss", "miner": "MultiSimilarityMiner"},
        "batches": {"classes_per_batch": BATCH // EACH, "images_per_class": EACH, "per_epoch": STEPS},
        "loader": {"workers": 0},
        "evaluation": {"every": 0},
        "trouble": {"quick_images": 0},
        "tracking": {"wandb": "off"},
    }
    clock = Clock()
    with World.start() as world:
        trainer = build_trainer(check(TrainConfig, settings), world, last=[clock])
        trainer.begin()
        trainer.fit()
    return _typical(clock.ends)


def bare(folder: Path) -> float:
    """Seconds of a step."""
    torch.manual_seed(0)
    net = build_network(MODEL)
    crops = [transforms.RandomResizedCrop(SIDE, scale=SCALE), transforms.RandomHorizontalFlip()]
    colors = transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    images = ImageFolder(str(folder), transforms.Compose([*crops, transforms.ToTensor(), colors]))
    sampler = MPerClassSampler(images.targets, EACH, BATCH, length_before_new_iter=STEPS * BATCH)
    loss, miner, optimizer = MultiSimilarityLoss(), MultiSimilarityMiner(), torch.optim.AdamW(net.parameters(), lr=1e-4)
    ends = []
    for pixels, labels in DataLoader(images, BATCH, sampler=sampler):
        x = net(pixels)
        loss(x, labels, miner(x, labels)).backward()
        optimizer.step()
        optimizer.zero_grad()
        ends.append(time.process_time())
    return _typical(ends)


def _typical(ends: list[float]) -> float:
    return statistics.median(after - before for before, after in zip(ends[WARM:-1], ends[WARM + 1 :], strict=True))


def enlarged(folder: Path, out: Path) -> None:
    """Of each class the first photographs, with their longest side as long as a camera's small one, and its grain."""
    for path in sorted(path for label in folder.iterdir() for path in sorted(label.iterdir())[:EACH]):
        with Image.open(path) as photograph:
            factor = LONGEST / max(photograph.size)
            shape = [round(side * factor) for side in photograph.size]
            pixels = np.asarray(photograph.convert("RGB").resize(shape, Image.Resampling.BICUBIC), np.float32)
        grain = np.random.default_rng(0).normal(0, GRAIN, pixels.shape)
        target = out / path.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((pixels + grain).clip(0, 255).astype(np.uint8)).save(target, quality=90)


def compared(name: str, folder: Path, scratch: Path) -> Row:
    """The first round is thrown away: a machine that has not touched its memory yet is slow for whoever comes first."""
    build(Folder(folder), scratch / "corpus", Encoding(max_side=0), workers=1)
    rounds = [(BATCH / ours(scratch / "corpus", scratch / str(turn)), BATCH / bare(folder)) for turn in range(1 + ROUNDS)][1:]
    peer = statistics.median(bare for _, bare in rounds)
    ratio = statistics.median(own / bare for own, bare in rounds)
    return Row(f"training on {name}, {SIDE} px, batch {BATCH} (images/s of one core), bare loop", ratio * peer, peer, goal=1.3)


def rows(folder: Path) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as scratch:
        yield compared("the files as they are", folder, Path(scratch) / "plain")
        enlarged(folder, Path(scratch) / "photographs")
        yield compared(f"the files at {LONGEST} px", Path(scratch) / "photographs", Path(scratch) / "large")


def main() -> None:
    torch.set_num_threads(1)
    sys.exit(not report(rows(Path(sys.argv[1]))))


if __name__ == "__main__":
    main()
