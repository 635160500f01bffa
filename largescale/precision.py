"""In which numbers a network computes: one setting with one meaning in training, mining, evaluation and search.

`bf16` means autocast: products and convolutions of the network in bfloat16; weights, normalization, pooling, similarities,
distances and losses stay in float32.
"""

import logging
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

    from largescale.distributed import World

log = logging.getLogger(__name__)
Precision = Literal["auto", "fp32", "bf16"]
"""As a user sets it."""
Resolved = Literal["fp32", "bf16"]
"""As it is computed, and as a score's record says it."""


def resolve(precision: Precision, device: "torch.device") -> Resolved:
    """`auto` is bf16 where the processor has it fast (GPUs, AVX512-BF16, AMX, SVE-BF16) and fp32 elsewhere."""
    if precision != "auto":
        return precision
    return "bf16" if device.type == "cuda" or _fast_on_cpu() else "fp32"


def agreed(precision: Precision, world: "World") -> Resolved:
    """What all ranks compute in: `auto` is bf16 where every one of them has it fast. Every rank calls this."""
    own = resolve(precision, world.device)
    slow = world.any(own == "fp32")
    if slow and own == "bf16":
        log.info("the network computes in fp32: a processor of another rank has no fast bf16")
    return "fp32" if slow else "bf16"


def autocast(precision: Resolved, device: "torch.device") -> AbstractContextManager:
    """The context in which a network runs."""
    import torch

    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def without_autocast(x: "torch.Tensor") -> AbstractContextManager:
    """In which what is done with `x` stays in its precision, also within a user's autocast, which takes products of
    descriptors in bf16, too."""
    import torch

    return torch.autocast(x.device.type, enabled=False)


def _fast_on_cpu() -> bool:
    import torch

    has = torch.cpu.get_capabilities()
    return any(bool(has.get(name)) for name in ("avx512_bf16", "amx_bf16", "sve_bf16"))
