"""What one GPU does with this project, in at most 8 minutes: `make gpu-check`, from a checkout, with torch 2.11 or newer.

Every part says what it found, or why it could not run; the table is printed and written to `gpu-check.md`. A part needs what it
imports and nothing else. `--device cpu` runs every part at a small size, to see that it works.
"""

import argparse
import platform
import statistics
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch

PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12, "RTX 4090": 165e12}
"""Dense bf16 FLOP/s by the makers' data sheets."""
BUDGET_S = 480


class Row(NamedTuple):
    what: str
    found: str
    goal: str = ""
    ok: bool | None = None


class Size(NamedTuple):
    backbone: str
    sides: tuple[int, ...]
    images: int
    batch: int
    pool: int
    dim: int


FULL = Size("resnet101", (224, 362), 2048, 64, 1_000_000, 512)
SMALL = Size("resnet18", (64,), 16, 8, 2_000, 64)


def peak(device: torch.device) -> float:
    """FLOP/s of the chip; of one that is not known, of a large product."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor()
    known = [value for part, value in PEAKS.items() if part in name]
    if known:
        return known[0]
    side = 8192 if device.type == "cuda" else 512
    a = torch.randn(side, side, device=device, dtype=torch.bfloat16 if device.type == "cuda" else torch.float32)
    return 2 * side**3 / seconds(lambda: a @ a, device)


def settle(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def seconds(action: Callable[[], object], device: torch.device, rounds: int = 5) -> float:
    """Median of some rounds after two that do not count."""
    times = []
    for _ in range(rounds + 2):
        settle(device)
        begun = time.perf_counter()
        action()
        settle(device)
        times.append(time.perf_counter() - begun)
    return statistics.median(times[2:])


def backends(device: torch.device, size: Size) -> Iterator[Row]:
    """A world of one on the device's backend: sums, decisions, the differentiable gather."""
    from largescale.distributed import World, gather_with_gradient

    with World.start() as world:
        x = torch.ones(3, 2, device=world.device, requires_grad=True)
        gather_with_gradient(x).sum().backward()
        right = world.sum(2.0) == [2.0] and x.grad is not None and bool((x.grad == 1).all())
        yield Row("world of one, sums, decisions, gather", "right" if right else "WRONG", "right", right)


def embedding(device: torch.device, size: Size) -> Iterator[Row]:
    """The pass over shards: bf16 beside fp32, images/s, share of the peak, time that the GPU waits."""
    import numpy as np
    from torch.utils.flop_counter import FlopCounterMode

    from largescale.corpus.config import ImagesConfig, LoaderConfig
    from largescale.corpus.corpus import Corpus
    from largescale.embedding import Embedder
    from largescale.models.build import build_network
    from largescale.models.config import ModelConfig
    from tests.corpora import make_corpus

    network = build_network(ModelConfig(backbone=size.backbone, weights="none")).to(device).eval()
    limit = peak(device)
    for side in size.sides:
        with tempfile.TemporaryDirectory() as folder:
            make_corpus(Path(folder) / "corpus", labels=size.images // 8, per_label=8, shards=4, size=side)
            corpus, ids = Corpus.open(str(Path(folder) / "corpus")), np.arange(size.images)

            def rows(
                precision: str, corpus: Corpus = corpus, ids: np.ndarray = ids, side: int = side
            ) -> tuple[torch.Tensor, float]:
                images, loader = ImagesConfig(size=side), LoaderConfig()
                embedder = Embedder(images, size.batch, loader, device, precision)  # type: ignore[arg-type]
                begun = time.perf_counter()
                groups = list(embedder.embed(network, corpus, ids))
                settle(device)
                order = np.argsort(np.concatenate([group.ids for group in groups]))
                return torch.cat([group.descriptors for group in groups])[order].cpu(), time.perf_counter() - begun

            exact, _ = rows("fp32")
            half, _ = rows("bf16")
            _, taken = rows("bf16")
        cosine = float((exact * half).sum(1).min())
        yield Row(f"{side} px: bf16 beside fp32, smallest cosine", f"{cosine:.5f}", ">= 0.999", cosine >= 0.999)
        pixels = network.contract.normalize(torch.randint(0, 256, (size.batch, 3, side, side), dtype=torch.uint8, device=device))
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            network(pixels)
        flops = counter.get_total_flops()
        for name, run in (("eager", network), ("compiled", torch.compile(network, dynamic=False))):
            with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16):
                step = seconds(lambda run=run, pixels=pixels: run(pixels), device)  # type: ignore[misc]
            share = flops / step / limit
            goal = ("", None) if side != 362 or name == "eager" else (">= 40 %", share >= 0.4)
            yield Row(f"{side} px: network alone, {name}", f"{size.batch / step:,.0f} images/s, {share:.0%} of the peak", *goal)
            if name == "eager":
                waiting = max(0.0, 1 - size.images / size.batch * step / taken)
                yield Row(f"{side} px: from shards", f"{size.images / taken:,.0f} images/s, waiting {waiting:.0%}")


def training(device: torch.device, size: Size) -> Iterator[Row]:
    """A step with loss and update: images/s, share of the peak, memory with and without recomputing."""
    import numpy as np
    from torch.utils.flop_counter import FlopCounterMode

    from largescale.corpus.batches.batches import Step
    from largescale.distributed import World
    from largescale.losses.tuples.contrastive import ContrastiveLoss
    from largescale.models.build import build_network
    from largescale.models.config import ModelConfig
    from largescale.training.engine.build import build_engine
    from largescale.training.engine.recompute import recompute
    from largescale.training.engine.step_module import Batch, StepModule
    from largescale.training.settings.config import EngineConfig, OptimConfig

    side, tuples = size.sides[-1], max(1, size.batch // 8)
    ids = np.arange(tuples * 8)
    pixels = torch.randint(0, 256, (len(ids), 3, side, side), dtype=torch.uint8, device=device)
    images = Step([pixels.contiguous(memory_format=torch.channels_last)], [torch.from_numpy(ids)], ids, ids, [])
    with World.start() as world:
        for saving in (False, True):
            network = build_network(ModelConfig(backbone=size.backbone, weights="none"))
            with FlopCounterMode(display=False) as counter:
                network(torch.zeros(1, 3, side, side))
            if saving:
                recompute(network.backbone)
            engine = build_engine(EngineConfig(), OptimConfig(), StepModule(network, ContrastiveLoss(0.7), world, "bf16"))

            def step(engine: object = engine) -> None:
                engine.backward(Batch.of_tuples(images, tuples, tuples, 0).split(1))  # type: ignore[attr-defined]
                engine.step(1.0)  # type: ignore[attr-defined]

            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
            taken = seconds(step, device)
            memory = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else float("nan")
            share = 3 * counter.get_total_flops() * len(ids) / taken / peak(device)
            goal = ("", None) if saving else (">= 35 %", share >= 0.35)
            name = "training step, recomputing" if saving else "training step"
            yield Row(f"{side} px: {name}", f"{len(ids) / taken:,.0f} images/s, {share:.0%} of the peak, {memory:.1f} GiB", *goal)


def search(device: torch.device, size: Size) -> Iterator[Row]:
    """The sharded index on the GPU beside the CPU: the same ids; and FAISS on the GPU, where it is installed."""
    from largescale.distributed import World
    from largescale.mining.config import MiningConfig
    from largescale.mining.search.index import ShardedIndex

    generator = torch.Generator().manual_seed(0)
    pool = torch.nn.functional.normalize(torch.randn(size.pool, size.dim, generator=generator))
    ids = torch.arange(size.pool)
    queries, excluded = pool[:256], (ids // 10)[:256, None].repeat(1, 2)
    with World.start() as world:
        expected = ShardedIndex(MiningConfig(index="exact"), world, pool, ids, ids // 10)
        found = ShardedIndex(MiningConfig(index="exact"), world, pool.to(device), ids.to(device), (ids // 10).to(device))
        wanted = expected.search(queries, excluded).ids
        same = torch.equal(wanted, found.search(queries.to(device), excluded.to(device)).ids.cpu())
        taken = seconds(lambda: found.search(queries.to(device), excluded.to(device)), device, 3)
        rate = f"{2 * size.pool * len(queries) * size.dim / taken / 1e12:.2f} TFLOP/s"
        yield Row("exact search by torch, ids beside the CPU's", f"{'equal' if same else 'DIFFERENT'}, {rate}", "equal", same)
        for index in ("Flat", "IVF1024,Flat" if size is FULL else "IVF16,Flat"):
            other = ShardedIndex(MiningConfig(index=index, min_recall=0.0), world, pool, ids, ids // 10)
            got = other.search(queries, excluded).ids
            share = float((got == wanted).float().mean())
            yield Row(
                f"FAISS {index}",
                f"{share:.1%} of the exact ids",
                "100 %" if index == "Flat" else "",
                index != "Flat" or share == 1,
            )


PARTS = {"backends": backends, "search": search, "embedding": embedding, "training": training}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="which parts; none: all")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--out", type=Path, default=Path("gpu-check.md"))
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no GPU that torch can use; --device cpu runs every part at a small size")
    device, size = torch.device(options.device), FULL if options.device == "cuda" else SMALL
    name = torch.cuda.get_device_name() if options.device == "cuda" else platform.processor() or "cpu"
    lines = [
        f"{name}, torch {torch.__version__}, {time.strftime('%Y-%m-%d')}",
        "",
        "| what | found | goal | |",
        "|---|---|---|---|",
    ]
    print(*lines, sep="\n", flush=True)
    begun = time.monotonic()
    for part in options.parts or PARTS:
        for row in _rows(part, device, size, begun):
            mark = {True: "ok", False: "missed", None: ""}[row.ok]
            lines.append(f"| {row.what} | {row.found} | {row.goal} | {mark} |")
            print(lines[-1], flush=True)
    options.out.write_text("\n".join(lines) + "\n")


def _rows(part: str, device: torch.device, size: Size, begun: float) -> Iterator[Row]:
    if time.monotonic() - begun > BUDGET_S:
        yield Row(part, f"left out: {BUDGET_S} s are over")
        return
    try:
        yield from PARTS[part](device, size)
    except Exception as error:
        traceback.print_exc()
        yield Row(part, f"failed: {type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}", "", False)


if __name__ == "__main__":
    main()
