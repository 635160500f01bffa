"""Maximum pooling of numbers that are not negative, in bf16: their bits are in the order of the numbers, and a processor compares
whole numbers faster than torch's kernel, which widens them and notes where each maximum was."""

import torch
from torch import Tensor, nn


class MaxPoolOfBits(nn.Module):
    """`layer` to the bit, of `(b, c, h, w)` bf16 without a negative."""

    def __init__(self, layer: nn.MaxPool2d) -> None:
        super().__init__()
        kernel, stride, padding = _pair(layer.kernel_size), _pair(layer.stride), _pair(layer.padding)
        self.sides, self.ceil = tuple(zip(kernel, stride, padding, strict=True)), layer.ceil_mode

    def forward(self, x: Tensor) -> Tensor:
        bits = x.view(torch.int16)
        for dim, (kernel, stride, padding) in enumerate(self.sides, 2):
            bits = _along(bits, dim, self._pooled(x.shape[dim], kernel, stride, padding), kernel, stride, padding)
        return bits.view(torch.bfloat16)

    def _pooled(self, size: int, kernel: int, stride: int, padding: int) -> int:
        """Windows along a side; none begins behind its end."""
        windows = (size + 2 * padding - kernel + (stride - 1 if self.ceil else 0)) // stride + 1
        return min(windows, (size + padding - 1) // stride + 1) if self.ceil else windows


def may_take_bits(layer: nn.Module | None) -> bool:
    return isinstance(layer, nn.MaxPool2d) and _pair(layer.dilation) == (1, 1) and not layer.return_indices


def _along(x: Tensor, dim: int, windows: int, kernel: int, stride: int, padding: int) -> Tensor:
    """The greatest of each window along one dimension; what lies outside counts as zero, the least there is."""
    shape = [*x.shape[:dim], windows, *x.shape[dim + 1 :]]
    out = torch.zeros([shape[place] for place in (0, 2, 3, 1)], dtype=x.dtype).permute(0, 3, 1, 2)
    rows, targets = x.movedim(dim, 0), out.movedim(dim, 0)
    for place in range(kernel):
        first = max(0, -((place - padding) // stride))
        last = min(windows, (len(rows) - 1 + padding - place) // stride + 1)
        target = targets[first : max(first, last)]
        torch.maximum(target, rows[first * stride + place - padding :: stride][: len(target)], out=target)
    return out


def _pair(value: int | tuple[int, ...]) -> tuple[int, ...]:
    return (value, value) if isinstance(value, int) else value
