"""Every loss under every law."""

from typing import Any

import pytest
import torch

from largescale.distributed import World
from largescale.testing import loss_laws as laws
from largescale.testing.loss_laws import Case
from tests.losses.cases import CASES, LIBRARY

EVERY = CASES + LIBRARY
pytestmark = pytest.mark.filterwarnings("ignore::Warning:pytorch_metric_learning")


def _named(cases: list[Case]) -> list[Any]:
    return [pytest.param(case, id=case.name) for case in cases]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("case", _named([case for case in CASES if case.brute]))
def test_brute_force(case: Case, seed: int) -> None:
    laws.check_brute_force(case, seed)


@pytest.mark.slow
@pytest.mark.parametrize("case", _named([case for case in CASES if case.smooth]))
def test_gradient(case: Case) -> None:
    for seed in range(2):
        laws.check_gradient(case, seed)


@pytest.mark.parametrize("case", _named(EVERY))
def test_low_precision(case: Case) -> None:
    laws.check_low_precision(case)


@pytest.mark.parametrize("case", _named([case for case in EVERY if not case.ordered]))
def test_order(case: Case) -> None:
    laws.check_order(case)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("case", _named(EVERY))
def test_degenerate(case: Case, dtype: torch.dtype) -> None:
    laws.check_degenerate(case, dtype)


@pytest.mark.parametrize("case", _named([case for case in EVERY if case.name != "sup_ap alone"]))
def test_nothing_is_counted(case: Case) -> None:
    """But a query alone in its class, where it is not its own positive."""
    laws.check_nothing_is_counted(case)


@pytest.mark.parametrize("case", _named(EVERY))
def test_faults_show(case: Case) -> None:
    laws.check_faults_show(case)


def _world_gradients(world: World) -> dict[str, dict[str, Any]]:
    return laws.world_gradient(world, EVERY)


@pytest.mark.slow
def test_number_of_processes() -> None:
    """Value and gradient of a step do not depend on how many processes computed it."""
    laws.check_worlds(_world_gradients, (1, 2, 4))
