"""A training on photographs against pytorch-metric-learning's bare loop, on one core, in processor time:

python -m tests.benchmarks.bench_loop FOLDER [STEPS]

FOLDER holds JPEG files in a folder for each class. Both have the same network, loss, miner, batches, crops and optimizer.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch
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

BATCH, EACH, SIDE, SCALE, WARM = 64, 4, 160, (0.4, 1.0), 2
MODEL = ModelConfig(backbone="squeezenet1_1")


class Clock(Callback):
    """Seconds of the processor between the ends of two steps."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def after_step(self, images: "Step", outcome: "Outcome") -> None:
        self.ends.append(time.process_time())


def ours(corpus: Path, out: Path, steps: int) -> float:
    """Seconds of a step."""
    settings = {
        "corpus": str(corpus),
        "runs": out,
        "epochs": 1,
        "images": {"size": SIDE, "fit": "squash", "augment": {"crop_scale": SCALE}},
        "model": MODEL,
        "loss": {"name": "metric_learning", "loss": "MultiSimilarityLoss", "miner": "MultiSimilarityMiner"},
        "batches": {"classes_per_batch": BATCH // EACH, "images_per_class": EACH, "per_epoch": steps},
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


def bare(folder: Path, steps: int) -> float:
    """Seconds of a step."""
    torch.manual_seed(0)
    net = build_network(MODEL)
    crops = [transforms.RandomResizedCrop(SIDE, scale=SCALE), transforms.RandomHorizontalFlip()]
    colors = transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    images = ImageFolder(str(folder), transforms.Compose([*crops, transforms.ToTensor(), colors]))
    sampler = MPerClassSampler(images.targets, EACH, BATCH, length_before_new_iter=steps * BATCH)
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


def rows(folder: Path, steps: int) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as scratch:
        build(Folder(folder), Path(scratch) / "corpus", Encoding(max_side=0), workers=1)
        speeds = [BATCH / ours(Path(scratch) / "corpus", Path(scratch) / "runs", steps), BATCH / bare(folder, steps)]
    name = f"training on JPEG files, squeezenet1_1, {SIDE} px, batch {BATCH} (images/s of one core), bare loop"
    yield Row(name, *speeds, goal=1.3)


def main() -> None:
    torch.set_num_threads(1)
    sys.exit(not report(rows(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 12)))


if __name__ == "__main__":
    main()
