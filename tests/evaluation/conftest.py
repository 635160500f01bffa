from collections.abc import Iterator

import pytest

from largescale.distributed import World
from tests.evaluation.small import alone


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with alone() as world:
        yield world
