"""Compressed rankings against plain numpy, and scored again in full."""

import numpy as np
import pytest

from largescale.distributed import World
from largescale.evaluation.config import ScoreConfig
from largescale.evaluation.protocol.relevance import GalleryRows, Judged
from largescale.evaluation.scoring.query_search import world_exchange
from largescale.evaluation.search import counting
from largescale.evaluation.search.compression import Compressed, Compression, rounded, signs, unit
from largescale.evaluation.search.counting import Counted
from tests.world import run_world

KINDS: tuple[Compression, ...] = ("int8", "binary")


def _rows(count: int, seed: int) -> np.ndarray:
    return unit(np.random.default_rng(seed).random((count, 16)).astype(np.float32))


def test_bytes_and_bits() -> None:
    rows = np.array([[0.5, -1.0, 0.25], [0.0, 0.0, 0.0]], np.float32)
    np.testing.assert_allclose(rounded(rows)[0], unit(np.array([[64, -127, 32]], np.float32))[0], atol=1e-7)
    np.testing.assert_array_equal(rounded(rows)[1], 0)
    np.testing.assert_allclose(signs(rows)[0], np.array([1, -1, 1]) / np.sqrt(3), rtol=1e-6)


ROWS, QUERIES, LEFT_OUT = 300, 7, 5


def _gallery() -> GalleryRows:
    """In two parts, the last rows left out, some in a group of distractors."""
    rows, group = _rows(ROWS, 0), np.zeros(ROWS, np.int8)
    group[40:90], group[-LEFT_OUT:] = 1, -1
    return GalleryRows([rows[:170], rows[170:]], group)


def _expected(kind: Compression, first: int) -> np.ndarray:
    """`(Q, N)` places of the rows, from the products of all at once."""
    rows, queries = _rows(ROWS, 0)[:-LEFT_OUT], _rows(QUERIES, 1)
    center = rows.mean(axis=0, dtype=np.float64).astype(np.float32)
    coarse = queries @ rounded(rows).T if kind == "int8" else unit(queries - center) @ signs(rows - center).T
    order = np.argsort(-coarse, axis=1, kind="stable")
    best = np.sort(order[:, :first], axis=1)
    lead = np.argsort(-np.take_along_axis(queries @ rows.T, best, axis=1), axis=1, kind="stable")
    return np.concatenate([np.take_along_axis(best, lead, axis=1), order[:, first:]], axis=1)


def _counted(world: World, small: bool) -> dict[tuple[Compression, int], Counted]:
    judged = Judged.of([{"right": [3 * q, 50 + q, 200]} for q in range(QUERIES)], ["right"])
    with pytest.MonkeyPatch.context() as patch:
        if small:
            patch.setattr(counting, "BLOCK", 16)
            patch.setattr(counting, "CHUNK", 32)
        return {
            (kind, first): Compressed(kind, _gallery()).count(_rows(QUERIES, 1), judged, first, 100, world_exchange(world))
            for kind in KINDS
            for first in (0, 20, 300)
        }


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("small", [False, True])
def test_every_world_ranks_as_numpy_does_block_by_block(small: bool) -> None:
    """In blocks of 16 rows as in one; the counts are those of the places."""
    for size in (1, 2):
        for found in run_world(size, _counted, small):
            for (kind, first), counted in found.items():
                expected = _expected(kind, first)
                np.testing.assert_array_equal(counted.top_row, expected[:, :100])
                for q, row in np.ndindex(QUERIES, 3):
                    judged = [3 * q, 50 + q, 200]
                    before = expected[q, : np.flatnonzero(expected[q] == judged[row])[0]]
                    others = before[~np.isin(before, judged)]
                    groups = [int((_gallery().group[others] == group).sum()) for group in (0, 1)]
                    assert counted.before[3 * q + row].tolist() == groups


def test_one_way_of_ranking() -> None:
    with pytest.raises(ValueError, match="choose one"):
        ScoreConfig(compression="int8", rerank="diffusion")
    assert ScoreConfig(compression="binary").mixes_rows
