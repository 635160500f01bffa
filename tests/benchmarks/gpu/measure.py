"""What the parts of `gpu_check` share: where they run and at which size, what they yield, and how they measure."""

import platform
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from largescale.models.network import RetrievalNet

PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12, "RTX 4090": 165e12}
"""Dense bf16 FLOP/s by the makers' data sheets."""
GIB = 2**30


class Row(NamedTuple):
    what: str
    found: str
    goal: str = ""
    ok: bool | None = None
    """None: it has no goal."""


def at_most(what: str, found: float, most: float) -> Row:
    return Row(what, f"{found:.2g}", f"<= {most:.2g}", found <= most)


class Size(NamedTuple):
    backbone: str
    learner: str
    """Backbone whose gradients are compared, also with those in fp64 on the CPU."""
    sides: tuple[int, ...]
    """Pixels of a side of the square pictures."""
    images: int
    """Of a corpus; a multiple of the batch."""
    batch: int
    pool: int
    """Descriptors that are searched."""
    dim: int
    lists: int
    """Of the approximate index."""
    compiler: str
    """Of `torch.compile`; eager: networks are traced, and no code is made."""


FULL = Size("resnet101", "resnet18", (224, 362), 8192, 64, 1_000_000, 512, 1024, "inductor")
SMALL = Size("timm:test_resnet", "timm:test_resnet", (64,), 32, 8, 2_000, 64, 16, "eager")


class Place(NamedTuple):
    device: torch.device
    size: Size
    folder: Path
    """In which parts leave corpora for each other."""


def name_of(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "cpu"


def peak(device: torch.device) -> float:
    """FLOP/s of the chip; of one that is not known, of a large product."""
    known = [value for part, value in PEAKS.items() if part in name_of(device)]
    if known:
        return known[0]
    side = 8192 if device.type == "cuda" else 256
    a = torch.randn(side, side, device=device, dtype=torch.bfloat16 if device.type == "cuda" else torch.float32)
    return 2 * side**3 / seconds(lambda: a @ a, device)


def flops_of(network: "RetrievalNet", side: int, device: torch.device) -> int:
    """Of one image forward; a training step takes about three times as many."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 3, side, side, device=device))
    return counter.get_total_flops()


def settle(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def seconds(action: Callable[[], object], device: torch.device) -> float:
    """Median of some rounds after two that do not count; of a CPU, of one."""
    times = []
    for _ in range(7 if device.type == "cuda" else 3):
        settle(device)
        begun = time.perf_counter()
        action()
        settle(device)
        times.append(time.perf_counter() - begun)
    return statistics.median(times[2:])


def forget_memory(device: torch.device) -> None:
    """What was held before does not count in `memory`."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def memory(device: torch.device) -> str:
    """The most that tensors took on the GPU since `forget_memory`; of a CPU, the most that the process ever took."""
    if device.type == "cuda":
        return f"{torch.cuda.max_memory_allocated() / GIB:.2f} GiB"
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB:.2f} GiB"
