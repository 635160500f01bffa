"""Worlds of 1, 2 and 4 real processes."""

import os
import time
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn

from largescale.distributed import World, _fresh_store, gather_with_gradient
from tests.world import free_port, run_world, start_world


def _objective_gradient(world: World, seed: int) -> np.ndarray:
    """The averaged gradient of a global objective over 10 rows that are split unevenly over the ranks."""
    torch.manual_seed(seed)
    layer = nn.Linear(6, 3, dtype=torch.float64)
    rows = torch.randn(10, 6, dtype=torch.float64)
    everyone = gather_with_gradient(layer(rows[world.share(10)]))
    (everyone @ everyone.T).square().sum().log().backward()
    gradient = layer.weight.grad
    torch.distributed.all_reduce(gradient)
    return (gradient / world.size).numpy()


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("size", [1, 2, 4])
def test_gather_gives_the_gradient_of_one_process(size: int) -> None:
    torch.manual_seed(5)
    layer = nn.Linear(6, 3, dtype=torch.float64)
    rows = layer(torch.randn(10, 6, dtype=torch.float64))
    (rows @ rows.T).square().sum().log().backward()
    for gradient in run_world(size, _objective_gradient, 5):
        np.testing.assert_allclose(gradient, layer.weight.grad, rtol=1e-12)


def _decisions(world: World) -> tuple[object, ...]:
    def fail() -> None:
        raise ValueError("only rank 0 saw this")

    with pytest.raises(ValueError, match="only rank 0"):
        world.decide(fail)
    number = world.decide(lambda: world.rank + 41)
    columns = list(range(7))[world.share(7)]
    return number, world.any(world.rank == world.size - 1), world.gather(world.rank), world.sum(1.0, world.rank), columns


@pytest.mark.slow
@pytest.mark.distributed
def test_decisions_are_shared() -> None:
    answers = run_world(3, _decisions)
    assert all(answer[:4] == (41, True, [0, 1, 2], [3.0, 3.0]) for answer in answers)
    assert [column for answer in answers for column in answer[4]] == list(range(7))


def _groups(world: World) -> tuple[bool, bool]:
    row = torch.zeros(1)
    return world.group_of(row) is None, replace(world, device=torch.device("cuda")).group_of(row) is world.control


@pytest.mark.slow
@pytest.mark.distributed
def test_beside_a_gpu_the_memory_of_the_node_has_a_group_of_its_own() -> None:
    assert run_world(1, _groups) == [(True, True)]


def _agreements(world: World) -> list[int]:
    def fail_on_the_last() -> int:
        if world.rank == world.size - 1:
            raise OSError("no space left")
        return world.rank

    with pytest.raises(OSError, match="no space left"):
        world.agree(fail_on_the_last)
    return world.agree(lambda: world.rank + 1)


@pytest.mark.slow
@pytest.mark.distributed
def test_an_error_of_any_rank_is_raised_on_every_rank() -> None:
    assert run_world(3, _agreements) == [[1, 2, 3]] * 3


class TestARankThatDiesAsItStarts:
    @pytest.mark.slow
    @pytest.mark.distributed
    def test_before_the_others_found_its_store(self) -> None:
        members, _ = start_world(2, _decisions, patience_s=3)
        members[0].kill()
        began = time.monotonic()
        members[1].join(timeout=300)
        assert members[1].exitcode is not None, "it waits for ever"
        assert time.monotonic() - began < 45

    @pytest.mark.slow
    def test_after_it_has_said_that_it_is_here(self, monkeypatch: pytest.MonkeyPatch) -> None:
        of_torchrun = dist.TCPStore("127.0.0.1", free_port(), is_master=True)
        of_torchrun.set("here/1", "a word of a rank that died")
        places = {"RANK": 0, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": of_torchrun.port}
        for name, value in (places | {"TORCHELASTIC_USE_AGENT_STORE": True}).items():
            monkeypatch.setitem(os.environ, name, str(value))
        with pytest.raises(dist.DistStoreError, match="rank 0 waited 1 s for rank 1, which has died as it started"):
            _fresh_store(timedelta(seconds=1))
