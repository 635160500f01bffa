"""Names that torch 2.14 gave to what torch 2.11 had: a borrowed machine may have that."""

from typing import Any

import torch.distributed as dist
from torch import nn
from torch.nn import parallel


def rename() -> None:
    """Before anything of the project is imported; nothing where the names are there."""
    if not hasattr(dist, "all_gather_single"):
        dist.all_gather_single = dist.all_gather_into_tensor  # type: ignore[assignment]
        parallel.DistributedDataParallel = _Renamed  # type: ignore[misc, assignment]


class _Renamed(parallel.DistributedDataParallel):
    def __init__(self, module: nn.Module, forward_sync_buffers: bool, **others: Any) -> None:
        super().__init__(module, broadcast_buffers=forward_sync_buffers, **others)
