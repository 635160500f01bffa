"""Compressed rankings against plain numpy, and scored again in full."""

from pathlib import Path

import numpy as np
import pytest

from largescale.distributed import World
from largescale.evaluation.config import ScoreConfig
from largescale.evaluation.protocol.relevance import GalleryRows
from largescale.evaluation.search.compression import Compressed, rescored, rounded, signs, unit
from tests.world import run_world


def _rows(count: int, seed: int) -> np.ndarray:
    return unit(np.random.default_rng(seed).random((count, 16)).astype(np.float32))


def test_bytes_and_bits() -> None:
    rows = np.array([[0.5, -1.0, 0.25], [0.0, 0.0, 0.0]], np.float32)
    np.testing.assert_allclose(rounded(rows)[0], unit(np.array([[64, -127, 32]], np.float32))[0], atol=1e-7)
    np.testing.assert_array_equal(rounded(rows)[1], 0)
    np.testing.assert_allclose(signs(rows)[0], np.array([1, -1, 1]) / np.sqrt(3), rtol=1e-6)


def test_first_rows_in_full_order() -> None:
    coarse, full = np.array([[0.9, 0.8, 0.7, -0.2]]), np.array([[0.1, 0.5, 0.9, 1.0]])
    scores = rescored(coarse, full, 2)
    assert np.argsort(-scores[0]).tolist() == [1, 0, 2, 3]
    assert np.abs(scores).max() <= 1
    assert np.argsort(-rescored(coarse, full, 9)[0]).tolist() == [3, 2, 1, 0]


def _scores(world: World, folder: Path) -> dict[str, np.ndarray]:
    rows, queries = _rows(300, 0), _rows(7, 1)
    group = np.zeros(300, np.int8)
    group[-5:] = -1
    gallery = GalleryRows([rows[:170], rows[170:]], group)
    found = {}
    for kind in ("int8", "binary"):
        compressed = Compressed(kind, gallery, folder / kind, world)
        found |= {f"{kind} {first}": compressed.scores(queries, first) for first in (0, 20, 300)}
    return found


@pytest.mark.slow
@pytest.mark.distributed
def test_every_world_ranks_as_numpy_does(tmp_path: Path) -> None:
    rows, queries = _rows(300, 0), _rows(7, 1)
    center = rows[:295].mean(axis=0, dtype=np.float64).astype(np.float32)
    expected = {"int8": queries @ rounded(rows).T, "binary": unit(queries - center) @ signs(rows - center).T}
    for coarse in expected.values():
        coarse[:, 295:] = -1  # what is not searched takes no place among the first
    for size in (1, 2):
        for found in run_world(size, _scores, tmp_path / str(size)):
            for kind, coarse in expected.items():
                np.testing.assert_allclose(found[f"{kind} 0"], coarse, atol=1e-5)
                order = np.argsort(-(queries @ rows.T), axis=1)
                np.testing.assert_array_equal(np.argsort(-found[f"{kind} 300"], axis=1)[:, :50], order[:, :50])
                first = np.sort(np.argsort(-found[f"{kind} 20"], axis=1)[:, :20], axis=1)
                np.testing.assert_array_equal(first, np.sort(np.argsort(-found[f"{kind} 0"], axis=1)[:, :20], axis=1))


def test_one_way_of_ranking() -> None:
    with pytest.raises(ValueError, match="choose one"):
        ScoreConfig(compression="int8", rerank="diffusion")
    assert ScoreConfig(compression="binary").mixes_rows
