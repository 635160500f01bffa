"""Activations that are computed again in the backward pass instead of kept (Chen et al. 2016, sublinear memory)."""

from collections.abc import Iterator
from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint

from largescale.models.backbones.stochastic_depth import same_draws
from largescale.settings import UserError


def recompute(backbone: nn.Module) -> None:
    """Keep only what enters each block of a backbone; the gradient stays the same, nearly a forward pass is added to a step.

    The last block keeps everything: it would be computed again at once, when the others hold as much. Names of parameters stay
    as they are; without gradients nothing changes.

    Raises:
        UserError: it is no sequence of blocks. Between the poolings of VGG16 the first stage alone is what a step holds at most.
    """
    blocks = list(blocks_of(backbone))[:-1]
    if not blocks:
        raise UserError(
            "engine.recompute=true: the backbone is no sequence of blocks, so nothing would be computed again; "
            "use engine.gradcache_chunk=IMAGES, which saves memory with every network, or engine.recompute=false"
        )
    for block in blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False, context_fn=same_draws)  # type: ignore[method-assign]


def blocks_of(module: nn.Module) -> Iterator[nn.Module]:
    """The outermost modules of several layers that stand one after another in a sequence and learn."""
    for child in module.children():
        several = bool(list(child.children())) and not isinstance(child, nn.Sequential | nn.ModuleList)
        if isinstance(module, nn.Sequential | nn.ModuleList) and several and any(True for _ in child.parameters()):
            yield child
        else:
            yield from blocks_of(child)
