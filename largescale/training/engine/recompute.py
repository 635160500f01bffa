"""Activations that are computed again in the backward pass instead of kept (Chen et al. 2016, sublinear memory)."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from largescale.models.backbones.stochastic_depth import same_draws
from largescale.settings import UserError

Run = Callable[..., Tensor]


def recompute(backbone: nn.Module) -> None:
    """Keep only what enters each block of a backbone; the gradient stays the same, nearly a forward pass is added to a step.

    A plain sequence of layers has stages for blocks, each up to a pooling. The last one keeps everything: it would be computed
    again at once, when the others hold as much. Names of parameters stay as they are; without gradients nothing changes.

    Raises:
        UserError: there is nothing that could be computed again.
    """
    blocks = list(blocks_of(backbone))[:-1]
    for block in blocks:
        block.forward = _again(block.forward)  # type: ignore[method-assign]
    if not blocks and not _cut(backbone):
        raise UserError(
            "engine.recompute=true: the backbone is neither blocks nor layers in a sequence with poolings, so all of a step "
            "would be kept; use engine.gradcache_chunk=IMAGES, which saves memory with every network, or engine.recompute=false"
        )


def blocks_of(module: nn.Module) -> Iterator[nn.Module]:
    """The outermost modules of several layers that stand one after another in a sequence and learn."""
    for child in module.children():
        several = bool(list(child.children())) and not isinstance(child, nn.Sequential | nn.ModuleList)
        if isinstance(module, nn.Sequential | nn.ModuleList) and several and any(True for _ in child.parameters()):
            yield child
        else:
            yield from blocks_of(child)


def stages_of(sequence: nn.Sequential) -> list[list[nn.Module]]:
    """Its layers, cut behind each pooling."""
    stages: list[list[nn.Module]] = [[]]
    for layer in sequence:
        stages[-1].append(layer)
        if isinstance(layer, nn.MaxPool2d | nn.AvgPool2d):
            stages.append([])
    return [stage for stage in stages if stage]


def _cut(backbone: nn.Module) -> bool:
    """Compute the stages of the outermost sequence with several of them again; whether there is one."""
    for sequence in backbone.modules():
        if isinstance(sequence, nn.Sequential) and len(stages := stages_of(sequence)) > 1:
            *others, last = [partial(_in_turn, stage) for stage in stages]
            sequence.forward = partial(_in_turn, [*map(_again, others), last])  # type: ignore[method-assign]
            return True
    return False


def _again(run: Run) -> Run:
    """The same, of which only the input is kept."""
    return partial(checkpoint, run, use_reentrant=False, context_fn=same_draws)


def _in_turn(runs: Sequence[Run], x: Tensor) -> Tensor:
    for run in runs:
        x = run(x)
    return x
