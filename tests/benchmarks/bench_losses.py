"""Losses and whitening: time and memory against the peers' formulas as their authors compute them, in one run.

python -m tests.benchmarks.bench_losses
"""

import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from pytorch_metric_learning.distances import CosineSimilarity
from pytorch_metric_learning.losses import ContrastiveLoss, TripletMarginLoss
from pytorch_metric_learning.miners import BatchHardMiner
from torch import Tensor, nn
from torch.nn.functional import normalize, pairwise_distance

from largescale.distributed import World
from largescale.losses import (
    BatchHardTripletLoss,
    BlackboxAPLoss,
    CalibrationLoss,
    ClassAnchorLoss,
    RDEDistance,
    RoadmapLoss,
    SmoothAPLoss,
    SoftBinAPLoss,
    SupAPLoss,
)
from largescale.losses.labels.class_anchor import AnchorInit
from largescale.losses.settings.labels import ClassAnchorConfig
from largescale.losses.tuples.rde import rde_distance
from largescale.models import LearnedWhitening
from largescale.training.engine.class_rows import build_loss, build_share
from largescale.training.settings.config import OptimConfig
from tests.benchmarks.bench_mining import extra_memory, seconds
from tests.benchmarks.table import Row, report
from tests.world import run_world


def batch(size: int, per_class: int = 4, dim: int = 512) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    centers = torch.randn(size // per_class, dim, generator=generator).repeat_interleave(per_class, 0)
    x = normalize(centers + 2 * torch.randn(size, dim, generator=generator), dim=1)
    return x, torch.arange(size // per_class).repeat_interleave(per_class)


def step(loss: Callable[[Tensor, Tensor], Tensor], size: int, per_class: int = 4) -> Callable[[], None]:
    x, labels = batch(size, per_class)

    def run() -> None:
        loss(x.clone().requires_grad_(), labels).backward()

    return run


def fastest(action: Callable[[], None], rounds: int = 3) -> float:
    """Seconds on the clock: what a limit is about, where a ratio to a peer is of processor time."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return min(times)


def _in_a_process(work: Callable[..., None], *arguments: Any) -> Any:
    """What `work(*arguments, pipe)` sends; a new process, so that its peak memory is its own."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=work, args=(*arguments, theirs))
    process.start()
    answer = ours.recv()
    process.join()
    return answer


def _peak(loss: type[nn.Module], size: int, pipe: Any) -> None:
    torch.set_num_threads(2)
    run = step(loss(), size)
    step(loss(), 8)()
    pipe.send(extra_memory(run))


def megabytes(loss: type[nn.Module], size: int) -> float:
    """What a step allocates at most beyond its inputs."""
    return _in_a_process(_peak, loss, size)


def one_query_at_a_time(x: Tensor, labels: Tensor) -> Tensor:
    """SupAP + calibration as ROADMAP computes them against a memory: a loop over queries, and the library's contrastive."""
    scores, target = x @ x.T, labels[:, None] == labels
    total = x.new_zeros(())
    for row, mask in zip(scores, target, strict=True):
        t = row[None] - row[mask][:, None]  # (P, G)
        positives = t[:, mask]
        with torch.no_grad():
            ahead = (positives >= 0).to(t).sum(1)
        away = t[:, ~mask]
        step = torch.zeros_like(away)
        near, middle, far = away <= 0, (away > 0) & (away <= 0.05), away > 0.05
        step[near] = torch.sigmoid(away[near] / 0.01)
        step[middle] = torch.sigmoid(away[middle] / 0.01) + 0.5
        step[far] = 100 * (away[far] - 0.05) + 1.44
        total = total + (ahead / (ahead + step.sum(1))).mean()
    return 1 - total / len(x) + _calibration(x, labels)


_calibration = ContrastiveLoss(pos_margin=0.9, neg_margin=0.6, distance=CosineSimilarity())
_miner, _triplets = BatchHardMiner(), TripletMarginLoss(margin=0.2)


def _mined(x: Tensor, labels: Tensor) -> Tensor:
    return _triplets(x, labels, _miner(x, labels))


def roadmap() -> Iterator[Row]:
    sizes = (512, 1024, 2048, 4096)
    steps = {str(size): step(RoadmapLoss(), size) for size in sizes} | {"more": step(RoadmapLoss(), 1024, per_class=8)}
    both = seconds({"ours": steps["512"], "peer": step(one_query_at_a_time, 512)}, 9)
    yield Row("SupAP + calibration, batch 512 (s), one query at a time", both["ours"], both["peer"], 0.1, True)
    yield Row("SupAP + calibration, batch 512 (MB), limit", megabytes(RoadmapLoss, 512), 100, 1, True)
    yield Row("SupAP + calibration, batch 4096 (s on the clock), limit", fastest(steps["4096"]), 2, 1, True)
    yield Row("SupAP + calibration, batch 4096 (MB), limit", megabytes(RoadmapLoss, 4096), 2048, 1, True)
    times = seconds(steps, 5)
    for size in sizes[:-1]:
        growth = times[str(2 * size)] / times[str(size)]
        yield Row(f"SupAP + calibration, growth {size} to {2 * size}, square of the batch", growth, 4, 1.3, True)
    growth = times["more"] / times["1024"]
    yield Row("SupAP + calibration, growth 4 to 8 images of a class, the positives", growth, 2, 1.3, True)


def others() -> Iterator[Row]:
    losses = {
        "calibration": CalibrationLoss(),
        "library's calibration": _calibration,
        "batch-hard": BatchHardTripletLoss(),
        "library's batch-hard": _mined,
        "SupAP": SupAPLoss(),
        "SmoothAP": SmoothAPLoss(),
        "SoftBinAP": SoftBinAPLoss(),
        "BlackboxAP": BlackboxAPLoss(),
    }
    times = seconds({name: step(loss, 512) for name, loss in losses.items()}, 9)
    for name in ("calibration", "batch-hard"):
        yield Row(f"{name}, batch 512 (s), pytorch-metric-learning", times[name], times[f"library's {name}"], 1, True)
    for name in ("SmoothAP", "SoftBinAP", "BlackboxAP"):
        yield Row(f"{name}, batch 512 (s), SupAP", times[name], times["SupAP"], 2, True)


def entropy() -> Iterator[Row]:
    generator = torch.Generator().manual_seed(0)
    rows = normalize(torch.rand(334, 7, 2048, generator=generator) ** 3, dim=2)
    queries, samples, settings = rows[:, :1].clone().requires_grad_(), rows[:, 1:].clone(), RDEDistance()  # 2,004 pairs
    times = seconds(
        {
            "ours": lambda: rde_distance(queries, samples, settings).sum().backward(),
            "distances": lambda: pairwise_distance(queries, samples).sum().backward(),
        },
        15,
    )
    yield Row("RDE, 2,004 pairs of 2,048-d, 30 bins (s), distances", times["ours"], times["distances"], 3, True)


APART = 3.0
"""Length of random anchors that are farther apart than the repeller reaches, as training leaves them."""


def _anchor_step(classes: int, dim: int, init: AnchorInit, scale: float, pipe: Any) -> None:
    torch.set_num_threads(2)

    def run(count: int) -> None:
        loss = ClassAnchorLoss(count, dim, init=init, scale=scale)
        optimizer = torch.optim.Adam(loss.parameters(), fused=True)
        loss(torch.randn(256, dim), torch.randint(count, (256,))).backward()
        optimizer.step()

    run(10)
    pipe.send(extra_memory(lambda: run(classes)))


def _share_step(world: World, classes: int, dim: int) -> tuple[int, float]:
    """Anchors of this rank, and the megabytes of its part of a step."""
    config = ClassAnchorConfig(init="gaussian", scale=APART)

    def run(count: int) -> int:
        torch.manual_seed(0)
        loss = build_loss(config, count, dim, world)
        loss(torch.randn(256, dim), torch.randint(count, (256,))).backward()
        build_share(loss, OptimConfig()).step(1.0)
        return len(loss.anchors)

    run(10)
    held: list[int] = []
    memory = extra_memory(lambda: held.append(run(classes)))
    return held[0], memory


def anchors(dim: int = 512) -> Iterator[Row]:
    mega = 4 * dim * 4 / 2**20  # of an anchor with gradient and Adam's state
    for classes, init, scale, what in ((20_000, "base", 2**0.5, "first anchors"), (100_000, "gaussian", APART, "apart")):
        peak = _in_a_process(_anchor_step, classes, dim, init, scale)
        yield Row(f"class anchors, {classes:,} x {dim}, {what} (MB), with gradient, Adam", peak, classes * mega, 1.5, True)
    classes, answers = 40_000, run_world(4, _share_step, 40_000, dim, timeout_s=600)
    held, peaks = zip(*answers, strict=True)
    yield Row(f"class anchors, {classes:,} over 4 processes, most held, a quarter", max(held), classes / 4, 1, True)
    yield Row(f"class anchors, {classes:,} over 4 processes (MB), a quarter", max(peaks), classes / 4 * mega, 1.5, True)


def _whitening(rows: int, dim: int, pipe: Any) -> None:
    """Seconds of a fit and of its products, and the fit's megabytes beyond the input."""
    torch.set_num_threads(2)
    random = np.random.default_rng(0)
    x = random.standard_normal((rows, dim), dtype=np.float32)
    queries, positives = random.integers(rows, size=(2, rows))
    square = np.random.default_rng(1).standard_normal((dim, dim))

    def products() -> None:
        """Two scatter matrices, two decompositions, and what joins them."""
        block = torch.from_numpy(x[: rows // 10]).double()
        for _ in range(20):
            block.T @ block
        for _ in range(2):
            torch.linalg.eigh(torch.from_numpy(square + square.T))
        for _ in range(3):
            torch.from_numpy(square) @ torch.from_numpy(square)

    LearnedWhitening.fit(x[:dim], queries[:dim] % dim, positives[:dim] % dim)
    times = dict[str, float]()
    memory = extra_memory(lambda: times.update(seconds({"ours": lambda: LearnedWhitening.fit(x, queries, positives)}, 1)))
    pipe.send((memory, times | seconds({"products": products}, 1)))


def whitening(rows: int = 200_000, dim: int = 2048) -> Iterator[Row]:
    memory, times = _in_a_process(_whitening, rows, dim)
    yield Row(f"learned whitening, {rows:,} x {dim:,} (s), its products", times["ours"], times["products"], 1.5, True)
    yield Row(f"learned whitening, {rows:,} x {dim:,} (MB beyond the input), limit", memory, 1024, 1, True)


def main() -> None:
    torch.set_num_threads(2)
    sys.exit(not report(row for part in (roadmap, others, entropy, anchors, whitening) for row in part()))


if __name__ == "__main__":
    main()
