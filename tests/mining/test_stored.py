"""Descriptors that a generation carries: which, how many, and that nobody sees how many ranks wrote them."""

from pathlib import Path

import numpy as np
import pytest
import torch

from largescale.corpus.corpus import Corpus
from largescale.corpus.plan import plan_pool
from largescale.distributed import World
from largescale.mining import Generation, Generations
from largescale.mining.miner import excluded_clusters
from largescale.mining.search.select import cluster_keys
from largescale.mining.stored import StoredPool, choose_stored, eligible
from tests.corpora import make_corpus
from tests.mining.test_miner import BLACK, CONFIG, EPOCH, PLAN, SEED, STEP, Colors, miner, plan_tuples
from tests.world import run_world

STORED = CONFIG.model_copy(update={"stored": 30})


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 labels of 4 images and 20 without a label, of which one cannot be used."""
    replaced = {60: BLACK}
    return make_corpus(tmp_path_factory.mktemp("stored") / "corpus", 12, 4, shards=5, unlabeled=20, mixed=True, replace=replaced)


def mine(world: World, corpus: Path, run: Path) -> tuple[Generation, dict[int, np.ndarray]]:
    """The generation, and this rank's descriptors of the pool by image id."""
    made, tuples = miner(world, corpus, run, STORED)
    generation = made.run(Colors(), EPOCH, STEP, tuples)
    assert generation is not None
    pool, *_ = made._embed(Colors(), EPOCH, tuples)
    return generation, dict(zip(pool.ids.tolist(), pool.rows.numpy(), strict=True))


@pytest.mark.slow
@pytest.mark.distributed
def test_carried_descriptors_are_those_of_the_pool_in_every_world(corpus: Path, tmp_path: Path) -> None:
    manifest = Corpus.open(str(corpus)).manifest
    tuples = plan_tuples(manifest, PLAN, SEED, EPOCH)
    tables = []
    for size in (1, 2):
        found = run_world(size, mine, corpus, tmp_path / str(size))
        pool = {image: row for _, own in found for image, row in own.items()}
        for generation, _ in found:
            stored = generation.stored
            assert stored is not None
            np.testing.assert_array_equal(stored.descriptors, np.stack([pool[image] for image in stored.ids.tolist()]))
            mined = np.unique(generation.negatives[~np.isnan(generation.similarities)])
            assert set(stored.ids.tolist()) <= set(mined.tolist())
            counts = eligible(cluster_keys(manifest.label[stored.ids], stored.ids), excluded_clusters(tuples))
            assert counts.min() >= 30
            assert len(stored.ids) <= 30 + 2 * 4
            tables.append(stored.table().tobytes())
    assert len(set(tables)) == 1


@pytest.mark.slow
@pytest.mark.distributed
def test_a_share_that_is_damaged_makes_the_generation_absent(corpus: Path, tmp_path: Path) -> None:
    run_world(2, mine, corpus, tmp_path)
    generations = Generations(tmp_path, Corpus.open(str(corpus)).manifest.fingerprint)
    path = generations.path(EPOCH, STEP) / "stored-00001.npy"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert generations.read(EPOCH, STEP) is None


def test_where_negatives_are_few_others_of_the_pool_follow(corpus: Path) -> None:
    manifest = Corpus.open(str(corpus)).manifest
    excluded = excluded_clusters(plan_tuples(manifest, PLAN, SEED, EPOCH))
    negatives = np.array([1, 5, 50, 61])
    config = STORED.model_copy(update={"pool": 40})
    pool = plan_pool(manifest, 40, SEED, EPOCH)
    ids = choose_stored(manifest, config, negatives, excluded, SEED, EPOCH)
    assert set(ids[:4].tolist()) == set(negatives.tolist())
    assert len(set(ids.tolist())) == len(ids)
    assert np.isin(ids[4:], pool).all()
    np.testing.assert_array_equal(ids, choose_stored(manifest, config, negatives, excluded, SEED, EPOCH))
    assert not np.array_equal(ids, choose_stored(manifest, config, negatives, excluded, SEED, EPOCH + 1))
    everything = choose_stored(manifest, config.model_copy(update={"stored": 1000}), negatives, excluded, SEED, EPOCH)
    assert set(everything.tolist()) == {*pool.tolist(), *negatives.tolist()}


def test_eligible_counts_like_a_loop() -> None:
    rng = np.random.default_rng(0)
    keys, excluded = rng.integers(-4, 6, 30), rng.integers(-5, 7, (50, 2))
    excluded[:20, 1] = excluded[:20, 0]
    expected = [sum(key not in pair for key in keys.tolist()) for pair in excluded.tolist()]
    assert eligible(keys, excluded).tolist() == expected
    assert eligible(keys[:0], excluded).tolist() == [0] * 50


def test_shares_come_together_in_their_order() -> None:
    rows = torch.randn(5, 3).numpy()
    whole = StoredPool(np.arange(5), np.arange(5) + 2**40, rows)
    shares = [StoredPool(whole.places[own], whole.ids[own], rows[own]).table() for own in ([3, 1], [], [4, 0, 2])]
    again = StoredPool.read(shares)
    assert again is not None
    assert again.table().tobytes() == whole.table().tobytes()
    assert StoredPool.read([]) is None
