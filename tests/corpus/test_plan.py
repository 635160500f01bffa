import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from largescale.corpus.config import TuplePlanConfig
from largescale.corpus.corpus import Corpus
from largescale.corpus.plan import check_clusters, plan_pool, plan_tuples
from largescale.settings import UserError
from tests.corpora import make_corpus
from tests.corpus.synthetic import manifest_of, shards_at_a_time


class TestTuples:
    config = TuplePlanConfig(per_step=5, per_epoch=60)

    def test_positives_are_other_images_of_the_label(self) -> None:
        manifest = manifest_of(np.array([1, 2, 5, 9, 1, 30, 40]), unlabeled=10)
        plan = plan_tuples(manifest, self.config, 0, 0)
        assert len(plan.queries) == len(np.unique(plan.queries)) == 60
        assert (plan.queries != plan.positives).all()
        assert (plan.query_labels == plan.positive_labels).all()
        assert (plan.query_labels == manifest.label[plan.queries]).all()
        assert not set(plan.query_labels) & {-1, 0, 4}
        assert (plan.statistics.available, plan.statistics.planned, plan.statistics.single_labels) == (86, 60, 2)

    def test_every_other_image_may_be_the_positive(self) -> None:
        manifest = manifest_of(np.array([4, 4]))
        config = TuplePlanConfig(per_step=1, per_epoch=8)
        plans = [plan_tuples(manifest, config, 0, epoch) for epoch in range(100)]
        pairs = {(q, p) for plan in plans for q, p in zip(plan.queries.tolist(), plan.positives.tolist(), strict=True)}
        assert pairs == {(q, p) for q in range(8) for p in range(8) if q // 4 == p // 4 and q != p}

    def test_pairs_are_rows_of_the_file(self, tmp_path: Path) -> None:
        manifest = Corpus.open(str(make_corpus(tmp_path / "pairs", labels=6, per_label=4, pairs=True))).manifest
        plan = plan_tuples(manifest, TuplePlanConfig(per_step=4, per_epoch=1000), 0, 0)
        assert manifest.pairs is not None
        rows = set(zip(manifest.pairs["query"].tolist(), manifest.pairs["positive"].tolist(), strict=True))
        assert set(zip(plan.queries.tolist(), plan.positives.tolist(), strict=True)) == rows
        assert (plan.statistics.available, plan.statistics.planned) == (24, 24)

    def test_whole_steps_with_negatives(self) -> None:
        plan = plan_tuples(manifest_of(np.full(7, 4)), TuplePlanConfig(per_step=5, per_epoch=1000), 0, 0)
        negatives = np.arange(25 * 3).reshape(25, 3)
        steps = plan.steps(negatives)
        assert steps.shape == (5, 5, 5)
        assert (steps[2, 4] == [plan.queries[14], plan.positives[14], *negatives[14]]).all()

    def test_depends_on_corpus_seed_and_epoch(self) -> None:
        manifest = manifest_of(np.full(50, 10))
        first = plan_tuples(manifest, self.config, 0, 0)
        assert (plan_tuples(manifest, self.config, 0, 0).queries == first.queries).all()
        for seed, epoch in ((1, 0), (0, 1)):
            assert (plan_tuples(manifest, self.config, seed, epoch).queries != first.queries).any()

    def test_a_window_keeps_queries_and_positives_in_few_shards(self) -> None:
        manifest = manifest_of(np.full(400, 10), shards=40)
        plan = plan_tuples(manifest, TuplePlanConfig(per_step=10, per_epoch=2000, shuffle_window=4), 0, 0)
        steps = np.stack([plan.queries, plan.positives], axis=1).reshape(-1, 10, 2)
        assert shards_at_a_time(manifest, steps, 5) <= 8
        assert len(np.unique(manifest.shard[steps])) == 40

    @pytest.mark.parametrize("sizes", [[1, 1, 1], []])
    def test_nothing_to_draw_from(self, sizes: list[int]) -> None:
        with pytest.raises(UserError, match=r"offers 0 queries .* build the corpus with pairs or labels"):
            plan_tuples(manifest_of(np.array(sizes, int), unlabeled=5), self.config, 0, 0)

    def test_too_few_clusters(self) -> None:
        check_clusters(manifest_of(np.full(6, 3)), 5)
        with pytest.raises(UserError, match="5 labels; 5 negatives from different clusters need at least 6"):
            check_clusters(manifest_of(np.full(5, 3)), 5)


def test_pool() -> None:
    manifest = manifest_of(np.full(100, 10))
    pool = plan_pool(manifest, 300, 0, 0)
    assert len(np.unique(pool)) == 300
    assert (np.diff(pool) > 0).all()
    assert (pool != plan_pool(manifest, 300, 0, 1)).any()
    assert (plan_pool(manifest, None, 0, 0) == np.arange(1000)).all()
    assert (plan_pool(manifest, 5000, 0, 0) == np.arange(1000)).all()


@pytest.mark.slow
@pytest.mark.parametrize("window", [None, 8])
def test_millions_of_images(window: int | None) -> None:
    """7.4 million images of 100,000 labels: an epoch is planned in 1 GB."""
    manifest = manifest_of(np.random.default_rng(0).multinomial(7_400_000, np.full(100_000, 1e-5)), shards=300)
    tracemalloc.start()
    plan_tuples(manifest, TuplePlanConfig(shuffle_window=window, per_epoch=1_000_000), 0, 0)
    assert tracemalloc.get_traced_memory()[1] < 1e9
    tracemalloc.stop()
