"""What all losses share: precision, and the count of what they could not learn from."""

from typing import Any, ClassVar

import torch
from torch import nn

from largescale.precision import without_autocast


def at_least_float32(*tensors: torch.Tensor) -> list[torch.Tensor]:
    """Half precision to float32; float64 stays."""
    return [x.to(torch.promote_types(x.dtype, torch.float32)) for x in tensors]


class Loss(nn.Module):
    """`degenerate` counts what had nothing to learn from (each kind of loss says what) instead of an error or a NaN.

    Also within a user's autocast it computes in the precision of what it is given, in float32 at least.
    """

    degenerate: torch.Tensor
    descriptors: ClassVar[tuple[str, ...]] = ()
    """Names of the keywords that hold descriptors, beside the arguments that have a place."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("degenerate", torch.zeros((), dtype=torch.int64), persistent=False)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with without_autocast(next(iter((*args, *kwargs.values())))):
            return super().__call__(*args, **kwargs)
