"""Memory that loader workers fill and the training process reads in place, again and again.

Fresh shared memory is cleared and handed out by the kernel page by page, which costs a third of the decoding itself. So
each worker owns a few slots: it takes a free one, and the slot is free again when the last tensor that views it is gone. To
a consumer that keeps more steps than there are slots, fresh memory is given.
"""

import shutil
import weakref
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from largescale.settings import UserError

SHARED_MEMORY = "/dev/shm"


class Lent(NamedTuple):
    """What travels to the training process: the number of a slot, or fresh memory."""

    slot: int
    fresh: Tensor | None


class Buffers:
    """`slots` buffers of `size` bytes for each worker; no worker: decoding in the training process, in its own memory."""

    def __init__(self, workers: int, slots: int, size: int) -> None:
        check_shared_memory(workers * slots * size)
        self.slots = slots
        self.memory = _shared(max(1, workers * slots * size))[: workers * slots * size].view(workers * slots, size)
        self.busy = _shared(max(1, workers * slots)).zero_()

    def take(self, size: int) -> tuple[Tensor, Lent]:
        """In a worker: `(size,)` bytes to fill, and what to send for them."""
        worker = get_worker_info()
        if worker is None or size == 0:
            pixels = torch.empty(size, dtype=torch.uint8)
            return pixels, Lent(-1, pixels)
        busy = self.busy.numpy()
        for slot in range(worker.id * self.slots, (worker.id + 1) * self.slots):
            if not busy[slot] and size <= self.memory.shape[1]:
                busy[slot] = 1
                return self.memory[slot, :size], Lent(slot, None)
        pixels = _shared(size)
        return pixels, Lent(-1, pixels)

    def view(self, lent: Lent) -> Tensor:
        """In the training process: the bytes of a slot, which is free when nothing views them any more."""
        if lent.fresh is not None:
            return lent.fresh
        # a tensor keeps the array that it was made from until the last view of its memory is gone, however it was sliced
        array = self.memory[lent.slot].numpy()[:]
        weakref.finalize(array, self.free, lent).atexit = False  # type: ignore[misc]
        return torch.from_numpy(array)

    def free(self, lent: Lent) -> None:
        if lent.fresh is None:
            self.busy[lent.slot] = 0


def check_shared_memory(size: int, processes: int = 1) -> None:
    """
    Raises:
        UserError: /dev/shm has no room for `size` bytes of each of `processes`; the kernel would kill them at first use.
    """
    free = shutil.disk_usage(SHARED_MEMORY).free
    if size * processes > free:
        raise UserError(
            f"{SHARED_MEMORY} has {free / 2**30:.2f} GiB free, the loaders of {processes} processes need "
            f"{size * processes / 2**30:.2f} GiB there (workers x (prefetch + 2) x bytes of a step); lower loader.workers, "
            "loader.prefetch or the batch, or enlarge it (docker run --shm-size)"
        )


def _shared(size: int) -> Tensor:
    return torch.empty(0, dtype=torch.uint8).set_(torch.UntypedStorage._new_shared(size))
