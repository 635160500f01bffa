"""The embedding pass's network against torch.compile, frozen and tuned for inference: python -m tests.benchmarks.bench_compile

One thread, fp32, random weights. Forward passes take turns; seconds are those of the processor.
"""

import time
from collections.abc import Callable, Iterator
from typing import cast

import torch
import torch._inductor.config as inductor
from torch import Tensor

from largescale.models.build import build_network
from largescale.models.config import ModelConfig
from largescale.models.network import RetrievalNet
from largescale.models.transform.fused import fused, is_fused
from tests.benchmarks.table import Row, in_turns, report

PASSES = (("squeezenet1_1", 160, 120, 16), ("resnet50", 168, 224, 8), ("vit_b_16", 224, 224, 4))
ROUNDS = 9


def rows() -> Iterator[Row]:
    inductor.freezing = True
    torch.set_num_threads(1)
    for backbone, height, width, batch in PASSES:
        network = build_network(ModelConfig(backbone=backbone, weights="none")).eval()
        pixels = torch.randint(256, (batch, 3, height, width), dtype=torch.uint8).contiguous(memory_format=torch.channels_last)
        plain, ours = _forward(network, network, pixels), _forward(network, cast(RetrievalNet, fused(network, "fp32")), pixels)
        start = time.perf_counter()
        compiled = _forward(network, torch.compile(network), pixels)
        compiled()
        print(f"{backbone}: compiled in {time.perf_counter() - start:.0f} s")
        for name, peer in (("layer by layer", plain), ("compiled", compiled)):
            *_, (_, own, theirs) = in_turns(ours, peer, ROUNDS)
            yield Row(f"{backbone}, {width} x {height}: images/s of one core, {name}", batch / own, batch / theirs, 1.0)


def _forward(network: RetrievalNet, other: Callable[[Tensor], Tensor], pixels: Tensor) -> Callable[[], Tensor]:
    takes_pixels = isinstance(other, RetrievalNet) and is_fused(other)

    def forward() -> Tensor:
        with torch.inference_mode():
            return other(pixels if takes_pixels else network.contract.normalize(pixels))

    return forward


if __name__ == "__main__":
    raise SystemExit(0 if report(rows()) else 1)
