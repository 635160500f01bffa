"""What every loss must obey, written once: `check_loss` checks it of one. B batch, T tuples, N negatives, D dimensions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from largescale.distributed import World, gather_with_gradient
from largescale.testing.worlds import run_world


@dataclass(frozen=True)
class Case:
    """A loss under the laws."""

    name: str
    kind: str
    """`tuples` or `labels`."""
    make: Callable[[], nn.Module]
    """A new loss for descriptors of 6 dimensions and labels 0 ... 7, in float64."""
    brute: Callable[..., float] | None = None
    """The same in plain loops over Python numbers; None for what another library computes."""
    ordered: bool = False
    """Whether the order of the batch has a meaning (N-pair takes the first pair of each class)."""
    smooth: bool = True
    """Whether the gradient is that of the value; else it is a published surrogate."""
    extra: Callable[[int, int], dict[str, Tensor]] = lambda tuples, negatives: {}
    """What a tuple loss wants to know of `T` tuples with `N` negatives."""


Inputs = tuple[Tensor, ...]


def check_loss(
    make: Callable[[], nn.Module],
    kind: Literal["labels", "tuples"] = "labels",
    *,
    ordered: bool = False,
    worlds: Sequence[int] = (1, 2, 4),
) -> None:
    """Raise an AssertionError where a loss breaks a law of this project.

    Half precision is computed with in float32, also within an autocast. The order of a batch has no meaning. Batches that a
    run may meet and that have nothing to learn from (one class, equal descriptors, zeros, ...) give finite values and
    gradients, and are counted in `degenerate`; others are not. What is not finite in the descriptors is not finite in the
    loss. Value and gradients are the same on any number of processes.

    Args:
        make: a new loss for descriptors of 6 dimensions and labels 0 ... 7, the same at every call; to be called in other
            processes too where `worlds` are given, so a function of a module, not a lambda.
        ordered: the order of a batch has a meaning.
        worlds: numbers of processes that are started for the last of the laws; empty: none.
    """
    case = Case(getattr(make, "__name__", "loss"), kind, partial(_in_float64, make), ordered=ordered)
    check_low_precision(case)
    if not ordered:
        check_order(case)
    for dtype in (torch.float32, torch.float64):
        check_degenerate(case, dtype)
    check_nothing_is_counted(case)
    check_faults_show(case)
    check_worlds(partial(_gradients, make, kind), worlds)


def _in_float64(make: Callable[[], nn.Module]) -> nn.Module:
    return make().double()


def _gradients(make: Callable[[], nn.Module], kind: str, world: World) -> dict[str, dict[str, Any]]:
    return world_gradient(world, [Case("loss", kind, partial(_in_float64, make))])


def tuples(seed: int = 0, count: int = 5, negatives: int = 3, dim: int = 6) -> Inputs:
    """Unit rows `(T, D)`, `(T, D)`, `(T, N, D)` whose positives are nearer than most negatives."""
    generator = torch.Generator().manual_seed(seed)
    queries, noise = torch.randn(2, count, dim, generator=generator, dtype=torch.float64)
    others = torch.randn(count, negatives, dim, generator=generator, dtype=torch.float64)
    near = queries[:, None] + others
    return normalize(queries, dim=-1), normalize(queries + 0.8 * noise, dim=-1), normalize(near, dim=-1)


def batch(seed: int = 0, labels: tuple[int, ...] = (0, 1, 0, 2, 2, 1, 0, 3, 2, 1), dim: int = 6) -> Inputs:
    """Unit rows `(B, D)` around the centers of their classes, and labels `(B,)`."""
    generator = torch.Generator().manual_seed(seed)
    centers = torch.randn(8, dim, generator=generator, dtype=torch.float64)
    noise = torch.randn(len(labels), dim, generator=generator, dtype=torch.float64)
    return normalize(centers[list(labels)] + noise, dim=1), torch.tensor(labels)


def inputs(case: Case, seed: int = 0) -> Inputs:
    return tuples(seed) if case.kind == "tuples" else batch(seed)


def extras(case: Case, data: Inputs) -> dict[str, Tensor]:
    return case.extra(*data[2].shape[:2]) if case.kind == "tuples" else {}


def evaluate(
    case: Case, data: Inputs, loss: nn.Module | None = None, extra: dict[str, Tensor] | None = None
) -> tuple[Tensor, list[Tensor]]:
    """The value of a loss, and its gradients with respect to the descriptors."""
    leaves = [x.clone().requires_grad_() if x.is_floating_point() else x for x in data]
    value = (loss or case.make())(*leaves, **(extras(case, data) if extra is None else extra))
    value.backward()
    return value.detach(), [x.grad if x.grad is not None else torch.zeros_like(x) for x in leaves if x.is_floating_point()]


def check_brute_force(case: Case, seed: int) -> None:
    assert case.brute is not None
    data = inputs(case, seed)
    extra = extras(case, data)
    value = case.make()(*data, **extra)
    expected = case.brute(*(x.tolist() for x in data), **{name: x.tolist() for name, x in extra.items()})
    torch.testing.assert_close(value, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-12)


def check_gradient(case: Case, seed: int) -> None:
    data = inputs(case, seed)
    loss, extra = case.make(), extras(case, data)
    leaves = tuple(x.requires_grad_() if x.is_floating_point() else x for x in data)
    assert torch.autograd.gradcheck(lambda *x: loss(*x, **extra), leaves, eps=1e-7, atol=1e-5)


def check_low_precision(case: Case) -> None:
    """bf16 descriptors are taken for what they are and computed with in float32, as others are within an autocast."""
    rough = tuple(x.bfloat16() if x.is_floating_point() else x for x in inputs(case))
    exact = tuple(x.float() if x.is_floating_point() else x for x in rough)
    loss = case.make().float()
    torch.manual_seed(0)
    value, gradients = evaluate(case, rough, loss)
    torch.manual_seed(0)
    expected, wanted = evaluate(case, exact, loss)
    with torch.autocast("cpu", torch.bfloat16):
        torch.manual_seed(0)
        within = loss(*exact, **extras(case, exact))
    assert value.dtype == within.dtype == torch.float32
    torch.testing.assert_close((value, within), (expected, expected))
    for gradient, want in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(gradient, want.bfloat16())


def check_order(case: Case) -> None:
    """Neither the order of a batch nor that of tuples has a meaning."""
    data = inputs(case)
    order = torch.randperm(len(data[0]), generator=torch.Generator().manual_seed(1))
    loss = case.make()
    value, gradients = evaluate(case, data, loss)
    extra = {name: x[order] for name, x in extras(case, data).items()}
    moved, moved_gradients = evaluate(case, tuple(x[order] for x in data), loss, extra)
    torch.testing.assert_close(moved, value, rtol=1e-9, atol=1e-12)
    for gradient, want in zip(moved_gradients, gradients, strict=True):
        torch.testing.assert_close(gradient, want[order], rtol=1e-7, atol=1e-10)


def degenerate(kind: str, dtype: torch.dtype) -> dict[str, Inputs]:
    """Batches that a run may meet and that have nothing to learn from, or nearly."""
    if kind == "tuples":
        q, p, n = (x.to(dtype) for x in tuples())
        same = q[:, None].expand_as(n)
        zeros = torch.zeros_like
        return {
            "identical": (q, q, same),
            "the positive is the query": (q, q, n),
            "a negative is the query": (q, p, same),
            "zeros": (zeros(q), zeros(p), zeros(n)),
            "opposite": (q, -q, -same),
            "no tuples": (q[:0], p[:0], n[:0]),
        }
    x, labels = batch()
    x, count = x.to(dtype), torch.arange(len(labels))
    return {
        "all distinct": (x[:8], count[:8]),
        "one class": (x, labels * 0),
        "one class and one other": (x, (count == 0).long()),
        "singletons": (x[:8], torch.tensor([0, 0, 1, 2, 3, 4, 5, 6])),
        "identical": (x[:1].expand_as(x), labels),
        "identical, one class": (x[:1].expand_as(x), labels * 0),
        "duplicates": (torch.cat([x[:1], x[:1], x[:1], x[3:]]), labels),
        "zeros": (torch.zeros_like(x), labels),
        "one zero": (x * (count > 0)[:, None], labels),
        "opposite": (torch.where((count % 2 == 0)[:, None], x[:1], -x[:1]), labels),
        "one image": (x[:1], labels[:1]),
    }


NOTHING_TO_LEARN = {
    "tuples": ("identical", "a negative is the query", "zeros"),
    "labels": ("all distinct", "one class", "identical", "identical, one class", "zeros", "one image"),
}
"""What is counted, where images are compared with images."""


def check_degenerate(case: Case, dtype: torch.dtype) -> None:
    for what, data in degenerate(case.kind, dtype).items():
        loss = case.make().to(dtype)
        value, gradients = evaluate(case, data, loss)
        parameters = [p.grad for p in loss.parameters() if p.grad is not None]
        for x in (value, *gradients, *parameters):
            assert x.isfinite().all(), f"{case.name}, {what}: {x}"
            assert x.abs().max() < 1e4 if x.numel() else True, f"{case.name}, {what}: {x}"
        if what in NOTHING_TO_LEARN[case.kind] and getattr(loss, "pairs", True):
            assert counted(loss) > 0, f"{case.name}, {what}: not counted"


def counted(loss: nn.Module) -> int:
    """What a loss could not learn from."""
    assert isinstance(loss.degenerate, Tensor)
    return int(loss.degenerate)


def check_nothing_is_counted(case: Case) -> None:
    """Of a batch with something to learn from."""
    loss = case.make()
    evaluate(case, inputs(case), loss)
    assert counted(loss) == 0


def check_faults_show(case: Case) -> None:
    """What is not finite in the network's output is not finite in the loss, where the guard of the run looks."""
    for fault in (torch.nan, torch.inf):
        data = inputs(case)
        data[0][1, 2] = fault
        assert not case.make()(*data, **extras(case, data)).isfinite()


def check_worlds(gradients: Callable[[World], dict[str, dict[str, Any]]], sizes: Sequence[int]) -> None:
    """Value and gradient of a step do not depend on how many processes computed it.

    Args:
        gradients: what `world_gradient` gives, in each process.
    """
    found = [run_world(size, gradients, timeout_s=300) for size in sizes]
    for size, answers in zip(sizes, found, strict=True):
        for answer in answers:
            for name, wanted in found[0][0].items():
                for parameter, expected in wanted.items():
                    message = f"{name} {parameter}, {size} ranks"
                    np.testing.assert_allclose(answer[name][parameter], expected, rtol=1e-9, atol=1e-12, err_msg=message)


def world_gradient(world: World, cases: list[Case]) -> dict[str, dict[str, Any]]:
    """The averaged gradients, in each loss, of a layer whose rows are shared unevenly among the ranks, and the value."""
    answers = {}
    for case in cases:
        torch.manual_seed(0)
        layer, loss = nn.Linear(6, 6, dtype=torch.float64), case.make()
        torch.manual_seed(1)
        value = _objective(world, case, layer, loss)
        value.backward()
        parameters = dict(layer.named_parameters()) | {f"loss.{name}": p for name, p in loss.named_parameters()}
        answers[case.name] = {name: _average(world, p.grad) for name, p in parameters.items() if p.grad is not None}
        answers[case.name]["value"] = _average(world, value.detach())
    return answers


def _average(world: World, x: Tensor) -> Any:
    torch.distributed.all_reduce(x)
    return (x / world.size).numpy()


def _objective(world: World, case: Case, layer: nn.Module, loss: nn.Module) -> Tensor:
    """What a rank returns, so that the objective of the step is its mean over ranks."""
    if case.kind == "labels":
        x, labels = batch()
        return loss(gather_with_gradient(layer(x[world.share(len(x))])), labels)
    data, own = tuples(), world.share(5)
    extra = {name: x[own] for name, x in case.extra(5, 3).items()}
    part = len(range(5)[own]) / 5 if loss.reduction == "mean" else 1
    return world.size * part * loss(*(layer(x[own]) for x in data), **extra)
