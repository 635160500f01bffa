"""Random changes of the pixels of a training image: RandAugment, color jitter, grayscale, blur, erasing, in this order.

The operations are those of torchvision's `transforms.v2`. What they draw follows from the image's own random numbers, so that
a resumed run, or one on another number of processes, sees the same pictures; torch's own generator is left as it was.
"""

import functools
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from largescale.corpus.config import AugmentConfig

SIGMA = (0.1, 2.0)
ERASED = (0.02, 1 / 3)
"""Share of the image that erasing takes (Zhong et al. 2020)."""
MEAN_COLOR = (124, 116, 104)
"""What is put in its place: ImageNet's mean."""


def distort(pixels: np.ndarray, config: AugmentConfig, draws: np.ndarray) -> None:
    """Change (h, w, 3) uint8 in place.

    Args:
        draws: random numbers of the image; equal ones give equal pixels.
    """
    side = min(pixels.shape[:2])
    operations = _operations(config, 2 * min(max(1, side // 20), side - 1) + 1)
    if not operations:
        return
    image = torch.from_numpy(pixels).permute(2, 0, 1)  # (3, h, w), the same memory
    with torch.random.fork_rng(devices=()):
        torch.default_generator.manual_seed(int(np.bitwise_xor.reduce(draws.view(np.int64))) & (2**63 - 1))
        image.copy_(functools.reduce(lambda changed, operation: operation(changed), operations, image.contiguous()))


@functools.lru_cache(64)
def _operations(config: AugmentConfig, kernel: int) -> tuple[Callable[[Tensor], Tensor], ...]:
    """Those that are asked for; `kernel` is the width of the blur, a tenth of the image's shorter side."""
    if not config.distorts:
        return ()
    from torchvision.transforms import v2

    operations: list[Callable[[Tensor], Tensor]] = []
    if config.rand_augment:
        count, magnitude = config.rand_augment
        operations.append(v2.RandAugment(count, magnitude, fill=list(MEAN_COLOR)))
    if config.jitter:
        brightness, contrast, saturation, hue = config.jitter
        operations.append(v2.ColorJitter(brightness, contrast, saturation, hue))
    if config.grayscale:
        operations.append(v2.RandomGrayscale(config.grayscale))
    if config.blur and kernel > 1:
        operations.append(v2.RandomApply([v2.GaussianBlur(kernel, SIGMA)], config.blur))
    if config.erasing:
        operations.append(v2.RandomErasing(config.erasing, ERASED, value=list(MEAN_COLOR)))
    return tuple(operations)
