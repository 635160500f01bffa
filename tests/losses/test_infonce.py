"""InfoNCE over tuples: what is left out, and the other tuples of a step over every number of ranks."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from largescale.distributed import World
from largescale.losses.tuples.infonce import InfoNCELoss
from largescale.testing.loss_laws import tuples
from largescale.training.settings.config import EngineConfig
from tests.training.small import TUPLES, WIDTH, small_engine, tuple_batches
from tests.world import run_world

CLASSES = torch.tensor([[0, 0, 1, 2], [1, 1, 0, 3], [2, 2, 3, 4], [0, 0, 3, 4], [-9, -8, 0, 1]])


def test_similar_negatives_are_left_out() -> None:
    q, p, n = tuples()
    cosines = (q[:, None] * n).sum(2)
    cap = float(cosines.median()) + 1e-6
    kept = torch.cat([(q * p).sum(1, keepdim=True), cosines.masked_fill(cosines > cap, -torch.inf)], 1) / 0.1
    torch.testing.assert_close(InfoNCELoss(0.1, similarity_cap=cap)(q, p, n), -kept.log_softmax(1)[:, 0].mean())


def test_others_without_the_own_class() -> None:
    q, p, n = tuples()
    others, allowed = n.flatten(0, 1), torch.arange(15).repeat(5, 1) % 4 > 0
    logits = torch.cat(
        [(q * p).sum(1, keepdim=True), (q[:, None] * n).sum(2), (q @ others.T).masked_fill(~allowed, -torch.inf)], 1
    )
    found = InfoNCELoss(0.2)(q, p, n, others=others, allowed=allowed)
    torch.testing.assert_close(found, -(logits / 0.2).log_softmax(1)[:, 0].mean())


def _steps(world: World) -> list[list[float]]:
    """Losses and gradient norms of three steps, whole and in chunks."""
    found = []
    first = world.share(TUPLES).start
    for chunk in (None, 3):
        engine = small_engine(world, EngineConfig(gradcache_chunk=chunk), InfoNCELoss(0.1))
        numbers: list[float] = []
        for step in range(3):
            batches = [replace(batch, first=first, classes=CLASSES) for batch in tuple_batches(world, step)]
            numbers += [float(engine.backward(batches)), engine.step(1.0).norm]
        found.append(numbers)
    return found


def _by_hand(x: torch.Tensor) -> float:
    """One step in plain loops; `(T, 2 + N, D)`."""
    total = 0.0
    for t in range(TUPLES):
        negatives = [x[t, column] for column in range(2, WIDTH)]
        for u in range(TUPLES):
            for column in range(WIDTH):
                if u != t and CLASSES[u, column] not in CLASSES[t, :2]:
                    negatives.append(x[u, column])
        logits = torch.stack([x[t, 0] @ row for row in (x[t, 1], *negatives)]) / 0.1
        total += float(logits.logsumexp(0) - logits[0])
    return total / TUPLES


def _first_step(world: World) -> tuple[float, float]:
    engine = small_engine(world, EngineConfig(), InfoNCELoss(0.1))
    [batch] = tuple_batches(world, 0)
    value = engine.backward([replace(batch, classes=CLASSES)])
    return float(value), _by_hand(engine.module.seen.unflatten(0, (TUPLES, WIDTH)))


@pytest.mark.slow
@pytest.mark.distributed
def test_other_tuples_on_every_number_of_ranks() -> None:
    value, expected = run_world(1, _first_step)[0]
    assert value == pytest.approx(expected, rel=1e-5)
    alone = run_world(1, _steps)[0]
    np.testing.assert_allclose(alone[1], alone[0], rtol=1e-4)
    for size in (2, 4):
        for answer in run_world(size, _steps):
            np.testing.assert_allclose(answer, alone, rtol=1e-4)
