import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

from largescale.corpus.config import LabelPlanConfig, StorageConfig, TuplePlanConfig
from largescale.corpus.manifest import Manifest, Shard
from largescale.corpus.plan import check_clusters, plan_labels, plan_pool, plan_tuples
from largescale.corpus.reading import Corpus
from largescale.corpus.storage import LocalStorage
from largescale.distributed import World
from largescale.settings import UserError
from tests.corpora import make_corpus
from tests.laws import check_shares


def manifest_of(sizes: np.ndarray, shards: int = 1, unlabelled: int = 0) -> Manifest:
    """A manifest without images: labels of the given sizes, spread evenly over shards."""
    label = np.concatenate([np.repeat(np.arange(len(sizes)), sizes), np.full(unlabelled, -1)]).astype(np.int32)
    parts = [len(part) for part in np.array_split(label, shards)]
    columns = {"key": np.zeros(len(label), np.int8), "label": label}
    columns["shard"] = np.repeat(np.arange(shards, dtype=np.int32), parts)
    entries = tuple(Shard(f"{i}.tar", count, 0, "") for i, count in enumerate(parts))
    return Manifest(LocalStorage("synthetic", StorageConfig()), "synthetic", "0123456789abcdef", entries, {}, {}, columns)


def shards_at_a_time(manifest: Manifest, steps: np.ndarray, span: int) -> int:
    """The most shards that any `span` steps in sequence touch."""
    shard = manifest.shard[steps.reshape(len(steps), -1)]
    return max(len(np.unique(shard[start : start + span])) for start in range(len(steps) - span + 1))


class TestTuples:
    config = TuplePlanConfig(per_step=5, per_epoch=60)

    def test_positives_are_other_images_of_the_label(self) -> None:
        manifest = manifest_of(np.array([1, 2, 5, 9, 1, 30, 40]), unlabelled=10)
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
        plan = plan_tuples(manifest, TuplePlanConfig(per_step=10, per_epoch=2000, window=4), 0, 0)
        steps = np.stack([plan.queries, plan.positives], axis=1).reshape(-1, 10, 2)
        assert shards_at_a_time(manifest, steps, 5) <= 8
        assert len(np.unique(manifest.shard[steps])) == 40

    @pytest.mark.parametrize("sizes", [[1, 1, 1], []])
    def test_nothing_to_draw_from(self, sizes: list[int]) -> None:
        with pytest.raises(UserError, match=r"offers 0 queries .* build the corpus with pairs or labels"):
            plan_tuples(manifest_of(np.array(sizes, int), unlabelled=5), self.config, 0, 0)

    def test_too_few_clusters(self) -> None:
        check_clusters(manifest_of(np.full(6, 3)), 5)
        with pytest.raises(UserError, match="5 labels; 5 negatives from different clusters need at least 6"):
            check_clusters(manifest_of(np.full(5, 3)), 5)


class TestLabels:
    @pytest.mark.parametrize(
        ("sizes", "labels", "images"),
        [
            ([4] * 20, 5, 4),
            (np.random.default_rng(0).integers(1, 30, 60), 16, 4),
            (np.random.default_rng(1).integers(2, 6, 40), 3, 2),
            ([500, *[3] * 20], 4, 2),
            ([2, 2, 2], 3, 4),
        ],
    )
    @pytest.mark.parametrize("epoch", range(3))
    def test_law_of_batches(self, sizes: list[int], labels: int, images: int, epoch: int) -> None:
        sizes = np.asarray(sizes)
        manifest = manifest_of(sizes, unlabelled=7)
        plan = plan_labels(manifest, LabelPlanConfig(labels=labels, images=images), 3, epoch)
        label = manifest.label[plan.steps].reshape(-1, labels, images)  # (steps, P, K)
        assert (label == label[:, :, :1]).all()
        assert all(len(set(batch)) == labels for batch in label[:, :, 0].tolist())
        assert label.min() >= 0
        used, times = np.unique(plan.steps, return_counts=True)
        repeats = sizes[manifest.label[used]] < images
        assert (times[~repeats] == 1).all()
        assert (sizes[manifest.label[used]] > 1).all()
        short = [row for row in plan.steps.reshape(-1, images) if sizes[manifest.label[row[0]]] < images]
        assert all(
            set(np.unique(row, return_counts=True)[1]) <= {images // n, -(-images // n)} for row in short for n in [len(set(row))]
        )
        statistics = plan.statistics
        assert (statistics.planned, statistics.repeated) == (len(used), plan.steps.size - len(used))
        assert (statistics.available, statistics.single_labels) == (sizes[sizes > 1].sum(), (sizes == 1).sum())

    def test_little_is_left_over(self) -> None:
        statistics = plan_labels(manifest_of(np.random.default_rng(0).integers(8, 60, 500)), LabelPlanConfig(), 0, 0).statistics
        assert statistics.planned > 0.94 * statistics.available

    def test_labels_meet_different_labels(self) -> None:
        """All chunks of a label sit in other company: batches are not the same labels again and again."""
        manifest = manifest_of(np.full(200, 40))
        plan = plan_labels(manifest, LabelPlanConfig(labels=10, images=4), 0, 0)
        label = manifest.label[plan.steps[:, ::4]]  # (steps, P)
        company = [len(np.unique(label[(label == number).any(axis=1)])) for number in range(200)]
        assert np.mean(company) > 60  # 10 batches x 9 others, less those met twice

    def test_a_window_keeps_labels_in_few_shards(self) -> None:
        manifest = manifest_of(np.random.default_rng(0).integers(5, 15, 1000), shards=50)
        plan = plan_labels(manifest, LabelPlanConfig(labels=8, images=4, window=5), 0, 0)
        assert shards_at_a_time(manifest, plan.steps, 4) <= 20  # two windows meet, labels at borders reach into a next shard
        assert len(np.unique(manifest.shard[plan.steps])) == 50
        assert plan.statistics.planned > 0.7 * plan.statistics.available

    @pytest.mark.parametrize("per_epoch", [7, 40, 250])
    def test_an_epoch_of_so_many_batches(self, per_epoch: int) -> None:
        """Less than a pass, or several: 96 images of 24 labels make 24 batches of 2 x 2."""
        manifest = manifest_of(np.full(24, 4))
        config = LabelPlanConfig(labels=2, images=2, per_epoch=per_epoch)
        plan = plan_labels(manifest, config, 0, 0)
        assert plan.steps.shape == (per_epoch, 4)
        for start in range(0, per_epoch, 24):
            assert len(np.unique(plan.steps[start : start + 24])) == 4 * len(plan.steps[start : start + 24])
        planned = min(4 * per_epoch, 96)
        assert (plan.statistics.planned, plan.statistics.repeated) == (planned, 4 * per_epoch - planned)
        if per_epoch > 48:
            assert (plan.steps[:24] != plan.steps[24:48]).any()
        one_pass = plan_labels(manifest, LabelPlanConfig(labels=2, images=2), 0, 0).steps
        assert (plan.steps[:24] == one_pass[:per_epoch]).all()

    def test_too_few_labels(self) -> None:
        with pytest.raises(UserError, match="has 3 labels with two or more images, a batch takes 16"):
            plan_labels(manifest_of(np.array([5, 5, 5, 1])), LabelPlanConfig(), 0, 0)


def test_ranks_together_read_the_plan() -> None:
    steps = plan_labels(manifest_of(np.full(50, 9)), LabelPlanConfig(labels=7, images=3), 0, 0).steps

    def share_of(rank: int, size: int) -> np.ndarray:
        return steps[:, World(rank, size, rank, size, torch.device("cpu"), None).share(steps.shape[1])]

    check_shares(steps, share_of, sizes=(1, 2, 3, 4, 8))


def test_pool() -> None:
    manifest = manifest_of(np.full(100, 10))
    pool = plan_pool(manifest, 300, 0, 0)
    assert len(np.unique(pool)) == 300
    assert (np.diff(pool) > 0).all()
    assert (pool != plan_pool(manifest, 300, 0, 1)).any()
    assert (plan_pool(manifest, None, 0, 0) == np.arange(1000)).all()
    assert (plan_pool(manifest, 5000, 0, 0) == np.arange(1000)).all()


@pytest.mark.parametrize("window", [None, 8])
def test_millions_of_images(window: int | None) -> None:
    """7.4 million images of 100,000 labels: an epoch is planned in under 3 s (of this process) and 1 GB."""
    manifest = manifest_of(np.random.default_rng(0).multinomial(7_400_000, np.full(100_000, 1e-5)), shards=300)
    for plan in (
        lambda: plan_labels(manifest, LabelPlanConfig(window=window), 0, 0),
        lambda: plan_tuples(manifest, TuplePlanConfig(window=window, per_epoch=1_000_000), 0, 0),
    ):
        tracemalloc.start()
        start = time.process_time()
        plan()
        assert time.process_time() - start < 3
        assert tracemalloc.get_traced_memory()[1] < 1e9
        tracemalloc.stop()
