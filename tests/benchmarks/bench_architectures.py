"""Architectures of timm as backbones: python -m tests.benchmarks.bench_architectures TABLE [COUNT]

COUNT architectures (100) are drawn from all of timm with at most 100 million parameters, and tried with random weights, the
smallest first: construction, contract, parameters that never learn, a descriptor at the default size and its gradient. TABLE
(JSON lines) keeps what was tried: the same command goes on.
"""

import gc
import json
import random
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from largescale.corpus.config import ImagesConfig
from largescale.models.build import build_network
from largescale.models.config import ModelConfig
from largescale.models.layers import freeze_idle, layers_of
from largescale.program.inputs import seen_by

LARGEST = 100e6
SEED = 0
SQUARES = (224, 362)
"""Sides that are asked for, besides the published one: a network rounds them to what it bears."""


def drawn(count: int) -> list[tuple[str, float]]:
    """Names and numbers of parameters, the smallest first."""
    names = [name for name in timm.list_models() if not name.startswith("test_")]
    random.Random(SEED).shuffle(names)
    found: list[tuple[str, float]] = []
    for name in names:
        if len(found) < count and (size := _parameters(name)) <= LARGEST:
            found.append((name, size))
    return sorted(found, key=lambda entry: entry[1])


def _parameters(name: str) -> float:
    try:
        with torch.device("meta"):
            return sum(parameter.numel() for parameter in timm.create_model(name, num_classes=0).parameters())
    except Exception:  # what cannot be built on no device is tried, and then says why
        return LARGEST


def tried(name: str) -> dict[str, Any]:
    """What of it works: `ok`, or the kind of failure."""
    began = time.process_time()
    torch.manual_seed(SEED)
    try:
        outcome = {"outcome": "ok", **_tried(name)}
    except Exception as error:
        outcome = {"outcome": type(error).__name__, "said": str(error)[:300]}
    return {"model": name, **outcome, "seconds": round(time.process_time() - began, 1)}


def _tried(name: str) -> dict[str, Any]:
    net = build_network(ModelConfig(backbone=f"timm:{name}"))
    contract, idle = net.contract, freeze_idle(net)
    side = seen_by(contract, ImagesConfig()).size or contract.size
    net(torch.randn(2, 3, contract.borne(side), contract.borne(side))).sum().backward()
    left = [key for key, parameter in net.named_parameters() if parameter.requires_grad and parameter.grad is None]
    if left:
        raise AssertionError(f"no gradient, and not frozen: {', '.join(left[:3])}")
    sides = {side: contract.borne(side) for side in SQUARES}
    net.eval()
    with torch.no_grad():
        finite = all(bool(net(torch.randn(1, 3, side, side)).isfinite().all()) for side in {*sides.values()})
    if not finite:
        raise AssertionError("descriptors that are not finite")
    layers = max(layers_of(net.backbone).values()) + 1
    return {"size": contract.size, "fixed": contract.fixed, "multiple": contract.multiple, "idle": len(idle), "layers": layers}


def quick_weights() -> None:
    """Random weights without the seconds of truncated normal numbers."""
    from timm.layers import weight_init

    def normal(tensor: torch.Tensor, mean: float = 0.0, std: float = 1.0, *_: float, **__: float) -> torch.Tensor:
        with torch.no_grad():
            return tensor.normal_(mean, std)

    for module in (nn.init, weight_init):
        for function in ("trunc_normal_", "trunc_normal_tf_"):
            if hasattr(module, function):
                setattr(module, function, normal)


def main(table: Path, count: int) -> None:
    torch.set_num_threads(1)
    quick_weights()
    kept = [json.loads(line) for line in table.read_text().splitlines()] if table.exists() else []
    done = {row["model"] for row in kept}
    for name, size in drawn(count):
        if name not in done:
            row = {**tried(name), "millions": round(size / 1e6, 1)}
            kept.append(row)
            with table.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(json.dumps(row), flush=True)
            gc.collect()
    print(f"{len(kept)} of {count}: {dict(Counter(row['outcome'] for row in kept))}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 100)
