"""How fast the run is and how long it waits for data; the slowest rank is the truth."""

import resource
import time

import torch

from largescale.corpus.loading import Step
from largescale.tracking import Reduce
from largescale.training.callbacks.base import Callback
from largescale.training.progress import Outcome

GIB = 2**30


class Throughput(Callback):
    """Images per second over all ranks, seconds and percent of waiting, between two lines; steps only, not mining."""

    def __init__(self) -> None:
        self.images = 0
        self.waited = self.worked = self.began = 0.0

    def before_data(self) -> None:
        self.began = time.monotonic()

    def after_data(self, images: Step) -> None:
        self.waited += time.monotonic() - self.began

    def after_step(self, images: Step, outcome: Outcome) -> None:
        self.images += len(images.ids)
        self.worked += time.monotonic() - self.began

    def before_line(self) -> None:
        if self.worked:
            record = self.trainer.tracker.record
            record("data/images_per_second", self.images / self.worked, Reduce.SUM)
            record("data/wait_seconds", self.waited, Reduce.MAX)
            record("data/wait_percent", 100 * self.waited / self.worked, Reduce.MAX)
        self.images, self.waited, self.worked = 0, 0.0, 0.0


class Memory(Callback):
    """The largest memory of a process so far, and of a GPU."""

    def before_line(self) -> None:
        record = self.trainer.tracker.record
        record("system/process_gib", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB, Reduce.MAX)
        if self.trainer.world.device.type == "cuda":
            record("system/gpu_gib", torch.cuda.max_memory_allocated() / GIB, Reduce.MAX)
