"""Batch normalization that learns: its statistics are those of all images of a step, over their shapes and over ranks.

Images of different shapes cannot go through the network together, so the groups of a step take turns: each runs to its next
batch normalization and waits there until the moments of all groups and ranks are put together. So neither the number of ranks,
nor how a step falls into groups, changes what is learned.

G groups, R ranks, b images of a group, C channels.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Condition
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from largescale.distributed import gather_with_gradient

BATCH_NORM = nn.modules.batchnorm._BatchNorm
Moments = tuple[Tensor, Tensor, Tensor]
"""Numbers per channel `(1,)`, their means `(C,)` and variances `(C,)`."""


def learning_layers(module: nn.Module) -> list[BATCH_NORM]:
    """Batch normalization that is in training mode."""
    return [layer for layer in module.modules() if isinstance(layer, BATCH_NORM) and layer.training]


def run_together(runs: Sequence[Callable[[], Tensor]], layers: Sequence[BATCH_NORM], device: torch.device) -> list[Tensor]:
    """What `runs` give, one for each group, batch normalization with the statistics of all groups of all ranks.

    Args:
        runs: called in threads, of which one is at work at a time.
        layers: the batch normalization that they go through.
        device: on which they run.
    """
    turns = _Turns(len(runs))
    counted = [layer.num_batches_tracked for layer in layers if layer.num_batches_tracked is not None]
    before = [count.clone() for count in counted]

    def take(number: int, grad: bool) -> Tensor:
        if device.type == "cuda":
            torch.cuda.set_device(device)
        with turns.taken_by(number), torch.set_grad_enabled(grad), _Intercepted(turns, number):
            return runs[number]()

    with ThreadPoolExecutor(len(runs)) as pool:
        futures = [pool.submit(take, number, torch.is_grad_enabled()) for number in range(len(runs))]
    if turns.failed is not None:
        raise turns.failed
    for count, old in zip(counted, before, strict=True):
        count.copy_(old + (count - old) // len(runs))  # a step counts once, however many groups it has
    return [future.result() for future in futures]


class _Turns:
    """One group runs at a time, each up to its next batch normalization: the order does not depend on the machine."""

    def __init__(self, groups: int) -> None:
        self.groups, self.turn = groups, 0
        self.failed: BaseException | None = None
        self.changed = Condition()
        self.calls = [0] * groups
        self.moments: dict[int, list[Moments]] = defaultdict(list)
        self.found: dict[int, Moments] = {}

    @contextmanager
    def taken_by(self, group: int) -> Iterator[None]:
        self._wait(group)
        try:
            yield
        except BaseException as error:
            self.failed = self.failed or error
            raise
        finally:
            self._pass_on(group)

    def moments_of_all(self, group: int, own: Moments) -> Moments:
        """Of the images of all groups and ranks, at the layer that the group has come to."""
        call, self.calls[group] = self.calls[group], self.calls[group] + 1
        self.moments[call].append(own)
        if group == self.groups - 1:
            self.found[call] = _of_all_ranks(_of_groups(self.moments.pop(call)))
        self._pass_on(group)
        self._wait(group)
        return self.found.pop(call) if group == self.groups - 1 else self.found[call]

    def _wait(self, group: int) -> None:
        with self.changed:
            self.changed.wait_for(lambda: self.turn == group or self.failed is not None)
        if self.failed is not None:
            raise RuntimeError("another group of the step failed") from self.failed

    def _pass_on(self, group: int) -> None:
        with self.changed:
            self.turn = (group + 1) % self.groups
            self.changed.notify_all()


class _Intercepted(TorchFunctionMode):
    """Every kind of batch normalization layer, timm's too, ends in one function of torch: that is what is replaced."""

    def __init__(self, turns: _Turns, group: int) -> None:
        super().__init__()
        self.turns, self.group = turns, group

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is functional.batch_norm:
            values = dict(zip(ARGUMENTS, args, strict=False)) | (kwargs or {})
            if values.get("training"):
                return self._normalized(**values)
        return func(*args, **(kwargs or {}))

    def _normalized(
        self,
        input: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = True,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        count, mean, variance = self.turns.moments_of_all(self.group, _moments(input))
        if running_mean is not None and running_var is not None and self.group == 0:
            with torch.no_grad():
                running_mean.lerp_(mean.to(running_mean), momentum)
                running_var.lerp_((variance * count / (count - 1).clamp_min(1)).to(running_var), momentum)
        weight = torch.ones_like(mean) if weight is None else weight
        bias = torch.zeros_like(mean) if bias is None else bias
        return _Normalized.apply(input, weight, bias, mean, variance, eps)


class _OwnMoments(Function):
    """Means and variances `(C,)`, in fp32 at least, of `(b, C, ...)`: one pass over the images, and one back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        unused = x.new_zeros((2, x.shape[1]), dtype=torch.promote_types(x.dtype, torch.float32))
        mean, variance = torch.batch_norm_update_stats(x, unused[0], unused[1], 0.0)
        ctx.save_for_backward(x, mean)
        return mean, variance

    @staticmethod
    def backward(ctx: Any, of_mean: Tensor, of_variance: Tensor) -> Tensor:
        x, mean = ctx.saved_tensors
        count = x.numel() // x.shape[1]
        scale = 2 / count * of_variance
        return _affine(x, scale, of_mean / count, mean, torch.ones_like(mean), 0.0)


class _Normalized(Function):
    """`(b, C, ...)` with given statistics, which have gradients as well: one pass over the images, and one back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, eps: float) -> Tensor:
        ctx.save_for_backward(x, weight, mean, variance)
        ctx.eps = eps
        return _affine(x, weight, bias, mean, variance, eps)

    @staticmethod
    def backward(ctx: Any, pull: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, variance = ctx.saved_tensors
        of_x, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
            pull, x, weight, mean, variance, None, None, False, ctx.eps, [True, True, True]
        )
        inverse = (variance + ctx.eps).rsqrt()
        of_mean, of_variance = -weight * inverse * of_bias, -0.5 * weight * inverse**2 * of_weight
        return of_x, of_weight, of_bias, of_mean, of_variance, None


def _affine(x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, eps: float) -> Tensor:
    """(x - mean) / sqrt(variance + eps) * weight + bias, of the type of x."""
    return torch.native_batch_norm(x, weight, bias, mean, variance, False, 0.0, eps)[0]


ARGUMENTS = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
"""Of `torch.nn.functional.batch_norm`, in their order."""


def _moments(x: Tensor) -> Moments:
    """Of a group's `(b, C, ...)`."""
    mean, variance = _OwnMoments.apply(x)
    return mean.new_tensor([x.numel() // x.shape[1]]), mean, variance


def _together(counts: Tensor, means: Tensor, variances: Tensor) -> Moments:
    """Of G sets of numbers, `(G, 1)`, `(G, C)` and `(G, C)`, those of their union (Chan 1979)."""
    total = counts.sum(0)
    mean = (counts * means).sum(0) / total
    return total, mean, (counts * (variances + (means - mean) ** 2)).sum(0) / total


def _of_groups(parts: Sequence[Moments]) -> Moments:
    if len(parts) == 1:
        return parts[0]
    counts, means, variances = (torch.stack(column) for column in zip(*parts, strict=True))
    return _together(counts, means, variances)


def _of_all_ranks(own: Moments) -> Moments:
    rows = gather_with_gradient(torch.cat(own)[None], alike=True)  # (R, 1 + 2 C)
    channels = len(own[1])
    return _together(*rows.split([1, channels, channels], dim=1))
