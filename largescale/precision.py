"""In which numbers a network computes: one setting with one meaning in training, mining, evaluation and search.

`bf16` means autocast: products and convolutions of the network in bfloat16; weights, normalization, pooling, similarities,
distances and losses stay in float32.
"""

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

Precision = Literal["auto", "fp32", "bf16"]
"""As a user sets it."""
Resolved = Literal["fp32", "bf16"]
"""As it is computed, and as a score's record says it."""


def resolve(precision: Precision, device: "torch.device") -> Resolved:
    """`auto` is bf16 where the processor has it fast (GPUs, AVX512-BF16, AMX, SVE-BF16) and fp32 elsewhere."""
    if precision != "auto":
        return precision
    return "bf16" if device.type == "cuda" or _fast_on_cpu() else "fp32"


def autocast(precision: Resolved, device: "torch.device") -> AbstractContextManager:
    """The context in which a network runs."""
    import torch

    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def _fast_on_cpu() -> bool:
    import torch

    has = torch.cpu.get_capabilities()
    return any(bool(has.get(name)) for name in ("avx512_bf16", "amx_bf16", "sve_bf16"))
