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
    rows, places = x.movedim(dim, 0), range(kernel)
    reach = [_reach(len(rows), windows, stride, place - padding) for place in places]
    seen = [
        rows[first * stride + place - padding :: stride][: last - first]
        for place, (first, last) in zip(places, reach, strict=True)
    ]
    whole = [place for place in places if reach[place] == (0, windows)]
    if len(whole) > 1:
        out = torch.maximum(seen[whole[0]], seen[whole[1]])
    else:
        whole, out = [], rows.new_zeros((windows, *rows.shape[1:]))
    for place in sorted(set(places) - set(whole[:2])):
        first, last = reach[place]
        torch.maximum(out[first:last], seen[place], out=out[first:last])
    return out.movedim(0, dim)


def _reach(size: int, windows: int, stride: int, offset: int) -> tuple[int, int]:
    """The windows whose place at such an offset lies inside."""
    first = max(0, -(offset // stride))
    return first, max(first, min(windows, (size - 1 - offset) // stride + 1))


def _pair(value: int | tuple[int, ...]) -> tuple[int, ...]:
    return (value, value) if isinstance(value, int) else value
