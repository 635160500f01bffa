"""A FAISS index on a GPU, and the paths around it that need none."""

import logging
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
import torch

from largescale.distributed import World
from largescale.mining import MiningConfig, ShardedIndex
from largescale.mining.search import factory, faster, placed
from largescale.mining.search.placed import PlacedIndex, has_gpu
from tests.evaluation.small import alone
from tests.world import run_world

needs_gpu = pytest.mark.skipif(
    not (torch.cuda.is_available() and hasattr(faiss, "StandardGpuResources")), reason="needs a GPU and FAISS for it"
)
CPU = torch.device("cpu")


def rows(count: int, dim: int = 32, seed: int = 0) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(count, dim, generator=torch.Generator().manual_seed(seed)))


def index(world: World, kind: str, **settings: Any) -> ShardedIndex:
    pool, ids = rows(2000).to(world.device), torch.arange(2000, device=world.device)
    return ShardedIndex(MiningConfig(index=kind, **settings), world, pool, ids, ids // 4)


def asked(world: World) -> tuple[torch.Tensor, torch.Tensor]:
    queries = rows(60, seed=1).to(world.device)
    return queries, torch.zeros(60, 2, dtype=torch.int64, device=world.device)


def test_without_a_gpu_an_index_is_in_the_memory_of_the_node(monkeypatch: pytest.MonkeyPatch) -> None:
    empty = faiss.serialize_index(faiss.index_factory(8, "Flat", faiss.METRIC_INNER_PRODUCT))
    flat = PlacedIndex(empty, CPU, 2**20, half=False)
    assert (flat.approximate, flat.most, flat.visit_twice()) == (False, None, False)
    assert not has_gpu(CPU)
    monkeypatch.delattr(faiss, "StandardGpuResources", raising=False)  # as in faiss-cpu
    assert not has_gpu(torch.device("cuda"))


@pytest.mark.slow
def test_lists_are_visited_until_there_are_no_more() -> None:
    trained = faiss.index_factory(32, "IVF8,Flat", faiss.METRIC_INNER_PRODUCT)
    trained.train(rows(500).numpy())
    lists = PlacedIndex(faiss.serialize_index(trained), CPU, 2**20, half=False)
    assert lists.approximate
    assert [lists.visit_twice() for _ in range(4)] == [True, True, True, False]
    assert lists.index.nprobe == 8


def test_a_gpu_that_cannot_hold_an_index_leaves_it_where_it_is(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Resources:
        def setTempMemory(self, size: int) -> None:  # noqa: N802
            assert size == 2**20

    def refuse(*arguments: Any) -> None:
        raise RuntimeError("index type not supported\nat file.cpp:1")

    monkeypatch.setattr(placed, "has_gpu", lambda device: True)
    monkeypatch.setattr(faiss, "StandardGpuResources", Resources, raising=False)
    monkeypatch.setattr(faiss, "GpuClonerOptions", lambda: Resources(), raising=False)
    monkeypatch.setattr(faiss, "index_cpu_to_gpu", refuse, raising=False)
    with caplog.at_level(logging.WARNING):
        assert placed.to_gpu(faiss.IndexFlatIP(8), torch.device("cuda", 0), 2**20, half=True) is None
    assert "stays in the memory of the node, a GPU cannot hold it: index type not supported" in caplog.text


@pytest.mark.slow
def test_what_a_gpu_does_not_give_is_searched_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if FAISS gave four neighbors at most: queries that lack clusters get the true ones all the same."""
    with alone() as world:
        exact, flat = index(world, "exact"), index(world, "Flat", depth=2)
        assert flat._factory is not None
        flat._factory._index.most = 4
        truth, found = (made.search(*asked(world)) for made in (exact, flat))
    for wanted, column in zip(truth, found, strict=True):
        assert torch.equal(wanted, column)


@pytest.mark.slow
def test_the_faster_of_two_exact_searches_is_taken_and_named(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with alone() as world, caplog.at_level(logging.INFO):
        kind = faster.faster_exact(world, lambda kind: index(world, kind), *asked(world))
        monkeypatch.setattr(
            faster, "_seconds", lambda world, made, *_: 1.0 if isinstance(made._search, factory.FactorySearch) else 2.0
        )
        assert faster.faster_exact(world, lambda kind: index(world, kind), *asked(world)) == "Flat"
    assert kind in faster.KINDS
    assert f"exact search by mining.index={kind} for this run" in caplog.text


@pytest.mark.distributed
@needs_gpu
@pytest.mark.parametrize("kind", ["Flat", "IVF16,Flat", "IVF16,SQ8", "IVF16,PQ8"])
def test_on_a_gpu_the_same_is_found(kind: str, tmp_path: Path) -> None:
    settings = {"index_search": "nprobe=16"} if kind.startswith("IVF") else {}
    [(on_gpu, there)] = run_world(1, find, kind, settings, gpu=True)
    [(on_cpu, _)] = run_world(1, find, "exact", {})
    assert there
    shared = (on_gpu[:, :, None] == on_cpu[:, None]).any(2).mean()
    assert shared == 1 if kind in ("Flat", "IVF16,Flat") else shared > 0.9


def find(world: World, kind: str, settings: dict[str, Any]) -> tuple[np.ndarray, bool]:
    made = index(world, kind, **settings)
    found = made.search(*asked(world)).ids.cpu().numpy()
    return found, made._factory is not None and made._factory._index.most is not None
