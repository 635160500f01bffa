"""The types in which inner products are taken, the fastest first, and by how much their results may be off.

Letters: n rows, T images of a tile, B queries, D dimensions.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from largescale.mining.search.select import norms

_ROWS = 2**11
FAST_BF16 = ("avx512_bf16", "amx_bf16")


def kinds(device: torch.device) -> tuple[torch.dtype, ...]:
    """Types of products, each finer and slower than the one before: bfloat16 first on processors that multiply it faster."""
    exact = (torch.float32, torch.float64)
    fast = device.type == "cpu" and any(torch.cpu.get_capabilities().get(name) for name in FAST_BF16)
    return (torch.bfloat16, *exact) if fast else exact


@dataclass(frozen=True)
class Rounded:
    """Rows in the type of a product, and what they lost by it."""

    rows: Tensor
    """`(n, D)`; half precision stays as it is in products of type float32, which add up in float32."""
    norms: Tensor
    """`(n,)` float32, of the originals."""
    lost: Tensor
    """`(n,)` float32, norms of the differences from the originals."""

    @staticmethod
    def of(rows: Tensor, kind: torch.dtype) -> "Rounded":
        lengths = norms(rows)
        rounded = rows if rows.dtype == torch.float16 and kind == torch.float32 else rows.to(kind)
        return Rounded(rounded, lengths, norms(rows - rounded) if kind == torch.bfloat16 else lengths.new_zeros(len(rows)))


@dataclass(frozen=True)
class Bounds:
    """The longest row of a pool, and the most that one loses by rounding to bfloat16."""

    largest: float
    lost: float

    @staticmethod
    def of(rows: Tensor, kind: torch.dtype) -> "Bounds":
        bounds = Bounds(0.0, 0.0)
        for part in rows.split(_ROWS) if len(rows) else ():
            rounded = Rounded.of(part, kind)
            bounds = Bounds(max(bounds.largest, rounded.norms.max().item()), max(bounds.lost, rounded.lost.max().item()))
        return bounds

    def slack(self, queries: Rounded, kind: torch.dtype) -> "Slack":
        """For products of these queries with the rows of the pool.

        A sum of D products is off by at most D u |q| |x|, where u is half the distance of two numbers, or all of it on
        hardware that cuts off; rounded rows add |q - q'| |x| + |q'| |x - x'|, and a rounded result its own share.
        """
        adding = torch.promote_types(kind, torch.float32)
        norm = queries.norms.to(adding) + queries.lost  # (B,), at least |q'|
        lost = self.lost if kind == torch.bfloat16 else 0.0
        fixed = queries.rows.shape[1] * torch.finfo(adding).eps * norm * (self.largest + lost)
        fixed = fixed + queries.lost * self.largest + norm * lost
        return Slack(fixed, torch.finfo(kind).eps / 2 if kind == torch.bfloat16 else 0.0)


@dataclass(frozen=True)
class Slack:
    """Products that may be off by `fixed + share * |product|`."""

    fixed: Tensor
    """`(B,)`."""
    share: float

    def below(self, values: Tensor, query: Tensor | slice = slice(None)) -> Tensor:
        """`(M,)` products and their queries -> what is less than this is truly less than the products."""
        fixed = self.fixed[query]
        return values - 2 * (fixed + 1.02 * self.share * (values.abs().nan_to_num(posinf=0.0) + 2 * fixed))


def product(rows: Tensor, queries: Tensor, kind: torch.dtype) -> Tensor:
    """`(T, D)`, `(B, D)` in `kind` (or both in half precision, for float32) -> `(T, B)` inner products."""
    if queries.dtype == torch.float16:
        return torch.mm(rows, queries.T, out_dtype=kind)
    if rows.dtype == kind:
        return rows @ queries.T
    scores = queries.new_empty((len(rows), len(queries)))
    for start in range(0, len(rows), _ROWS):  # a copy of all rows would need more memory than the scores
        part = slice(start, start + _ROWS)
        torch.mm(rows[part].to(kind), queries.T, out=scores[part])
    return scores
