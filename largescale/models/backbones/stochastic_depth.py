"""Stochastic depth (Huang et al. 2016) drawn from the step, the image and the layer: equal on any number of processes.

B images, L layers.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

_DRAWS: ContextVar[Tensor | None] = ContextVar("draws", default=None)
"""`(B, L)` between 0 and 1, for the images that the network sees just now in this thread."""


class DropPath(nn.Module):
    """Leaves a branch out for some images of a step, and strengthens it for the others."""

    def __init__(self, share: float, layer: int) -> None:
        """
        Args:
            share: of the images for which the branch is left out.
            layer: which of the draws of an image decides.
        """
        super().__init__()
        self.share, self.layer = share, layer

    def forward(self, x: Tensor) -> Tensor:
        """`(B, ...)`, or `(B * windows, ...)` where a network takes an image apart."""
        if not self.training:
            return x
        draws = _DRAWS.get()
        drawn = torch.rand(len(x), device=x.device) if draws is None else draws[:, self.layer]
        factors = (drawn >= self.share).to(x.dtype) / (1 - self.share)
        return x * factors.repeat_interleave(len(x) // len(factors)).reshape(-1, *[1] * (x.ndim - 1))

    def extra_repr(self) -> str:
        return f"share={self.share:.3f}, layer={self.layer}"


def own_draws(backbone: nn.Module) -> None:
    """Put `DropPath` in the place of timm's, which draws from the generator of its process."""
    found = [(parent, name, child) for parent in backbone.modules() for name, child in parent.named_children()]
    theirs = [place for place in found if type(place[2]).__name__ == "DropPath"]
    for layer, (parent, name, child) in enumerate(theirs):
        setattr(parent, name, DropPath(cast(float, child.drop_prob), layer))


@contextmanager
def drawn_for(net: nn.Module, images: Tensor, seed: int) -> Iterator[None]:
    """What is left out of each image while the network runs.

    Args:
        images: int64 `(B,)` numbers of the images in the corpus, on the CPU.
        seed: of the step.
    """
    layers = sum(isinstance(module, DropPath) for module in net.modules())
    with _set(_drawn(images, seed, layers).to(next(net.parameters()).device) if layers else None):
        yield


def _drawn(images: Tensor, seed: int, layers: int) -> Tensor:
    draws = [np.random.Generator(np.random.Philox(key=[seed, image])).random(layers) for image in images.tolist()]
    return torch.from_numpy(np.array(draws, np.float32))


def same_draws() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """For a part that runs now and again in the backward pass (`context_fn` of torch's checkpoint)."""
    return nullcontext(), _set(_DRAWS.get())


@contextmanager
def _set(draws: Tensor | None) -> Iterator[None]:
    token = _DRAWS.set(draws)
    try:
        yield
    finally:
        _DRAWS.reset(token)
