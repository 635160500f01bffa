"""Steps larger than memory: descriptors first, then the loss, then chunk by chunk with its gradient (GradCache, Gao 2021).

B images of this rank, D dimensions, b images of a chunk.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from largescale.distributed import World
from largescale.training.engine.step_module import Batch

Run = Callable[[Batch], Tensor]
Prepare = Callable[[Batch], Batch]


def passes(run: Run, world: World, batches: Sequence[Batch], size: int | None, prepare: Prepare) -> Iterator[tuple[Batch, bool]]:
    """The batches of which a rank runs forward and backward, one after the other, and whether each is the last of the step.

    Every rank gets equally many. The next one is asked for when the backward pass of the one before is done.

    Args:
        run: the step module as the engine runs it, which may have to collect its weights first.
        size: images that the network sees at once at most; None: all of a batch.
        prepare: what an engine does with a batch before the network sees it.
    """
    for batch in batches:
        last = batch is batches[-1]
        if size is None:
            yield prepare(batch), last
        else:
            yield from _chunked(run, world, batch, size, prepare, last)


def _chunked(run: Run, world: World, batch: Batch, size: int, prepare: Prepare, last: bool) -> Iterator[tuple[Batch, bool]]:
    """The loss sees the first chunk with its graph, and the others as descriptors, whose gradient it leaves."""
    [images] = world.max(len(batch))
    first, *others = batch.chunks(math.ceil(images / size))
    x = _describe(run, [prepare(chunk) for chunk in others], len(batch))  # (B, D)
    yield prepare(replace(first, known=x)), last and not others
    for chunk in others:
        assert x is not None
        assert x.grad is not None
        yield prepare(replace(chunk, pull=x.grad[chunk.rows])), last and chunk is others[-1]


def _describe(run: Run, chunks: Sequence[Batch], images: int) -> Tensor | None:
    """`(B, D)`, zeros where an image is in none of the chunks; None without chunks."""
    if not chunks:
        return None
    with torch.no_grad():
        parts = [run(replace(chunk, describe=True)) for chunk in chunks]  # (b, D) each
    x = parts[0].new_zeros(images, parts[0].shape[1])
    return x.index_copy_(0, torch.cat([chunk.rows for chunk in chunks]), torch.cat(parts)).requires_grad_()
