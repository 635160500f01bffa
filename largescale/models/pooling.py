"""From a feature map to a vector. B images, C channels, H x W cells, R regions."""

from fractions import Fraction

import torch
from torch import nn
from torch.nn import functional

from largescale.settings import UserError

EPS = 1e-6


def l2_normalize(x: torch.Tensor) -> torch.Tensor:
    """`(B, C) -> (B, C)`, x / (|x| + 1e-6): a zero row stays zero (cirtorch's l2n)."""
    return x / (torch.linalg.vector_norm(x, dim=1, keepdim=True) + EPS)


class MAC(nn.Module):
    """Maximum of each channel (Tolias 2016): `(B, C, H, W) -> (B, C)`."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.adaptive_max_pool2d(x, 1).flatten(1)


class SPoC(nn.Module):
    """Mean of each channel (Babenko 2015): `(B, C, H, W) -> (B, C)`."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3))


class GeM(nn.Module):
    """Generalized mean (Radenovic 2018, eq. 3): `(B, C, H, W) -> (B, C)`, (mean of max(x, eps)^p)^(1/p).

    Args:
        p: the exponent, or where its learning starts.
        learned: whether p is a parameter; else it is a buffer.
        channels: 1 for one learned exponent, C for one per channel.
    """

    p: torch.Tensor

    def __init__(self, p: float = 3.0, eps: float = EPS, learned: bool = True, channels: int = 1) -> None:
        super().__init__()
        self.eps = eps
        if learned:
            self.p = nn.Parameter(torch.full((channels,), float(p)))
        else:
            self.register_buffer("p", torch.tensor([p], dtype=torch.float64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        p = self.p.to(x.dtype)
        powers = x.clamp(min=self.eps).pow(p[:, None, None])
        return powers.mean((2, 3)).pow(1 / p)


class RMAC(nn.Module):
    """Sum of the normalized maxima of the whole map and of square regions (Tolias 2016): `(B, C, H, W) -> (B, C)`.

    Args:
        levels: regions of side floor(2 min(H, W) / (l + 1)) for l = 1 ... levels, overlapping by about 40 %.
    """

    def __init__(self, levels: int = 3) -> None:
        super().__init__()
        self.levels = levels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if torch.compiler.is_exporting() or torch.jit.is_tracing():
            raise UserError("the regions of rmac follow from the size of a picture, and a file for every size cannot hold them")
        boxes = rmac_regions(x.shape[2], x.shape[3], self.levels)
        regions = [x[:, :, top : top + h, left : left + w] for top, left, h, w in boxes]
        return torch.stack([l2_normalize(region.amax((2, 3))) for region in regions]).sum(0)


def rmac_regions(height: int, width: int, levels: int) -> list[tuple[int, int, int, int]]:
    """(top, left, height, width) of the regions in cirtorch's order; first the whole map, which a square also has as level 1."""
    short, long = min(height, width), max(height, width)
    # along the long side, as many regions more than along the short one as bring their overlap nearest to 40 %
    extra = min(range(1, 7), key=lambda n: abs(Fraction(3, 5) - Fraction(long - short, n * short)))
    regions = [(0, 0, height, width)]
    for level in range(1, levels + 1):
        side = 2 * short // (level + 1)
        if side == 0:
            continue
        tops = _starts(height, side, level + extra * (height > width))
        lefts = _starts(width, side, level + extra * (width > height))
        regions += [(top, left, side, side) for top in tops for left in lefts]
    return regions


def _starts(length: int, side: int, count: int) -> list[int]:
    """Where `count` stretches of `side` cells begin that cover `length` cells evenly."""
    return [i * (length - side) // max(count - 1, 1) for i in range(count)]
