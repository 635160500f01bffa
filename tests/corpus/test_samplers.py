import tracemalloc
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import sparse

from largescale.corpus.alike import batches_of_alike
from largescale.corpus.config import LabelPlanConfig
from largescale.corpus.corpus import Corpus
from largescale.corpus.manifest import Manifest
from largescale.corpus.samplers import plan_askers, plan_labels
from largescale.distributed import World
from largescale.models.network import RetrievalNet
from largescale.settings import UserError
from largescale.training.planning.planners import LabelPlanner
from largescale.training.progress import Progress
from tests.corpora import make_corpus
from tests.corpus.synthetic import manifest_of, shards_at_a_time
from tests.laws import check_shares


def some_graph(labels: int, seed: int) -> sparse.csr_matrix:
    """Half of the labels have neighbors."""
    rng = np.random.default_rng(seed)
    pairs = rng.integers(labels, size=(2, 3 * labels))
    pairs = pairs[:, (pairs[0] != pairs[1]) & (pairs < labels / 2).all(0)]
    near = sparse.csr_matrix((rng.random(pairs.shape[1]) + 0.1, tuple(pairs)), shape=(labels, labels))
    return (near + near.T).tocsr()


class TestPasses:
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
    @pytest.mark.parametrize(("epoch", "alike"), [(0, False), (1, False), (2, False), (0, True), (1, True)])
    def test_law_of_batches(self, sizes: list[int], labels: int, images: int, epoch: int, alike: bool) -> None:
        sizes = np.asarray(sizes)
        manifest, config = manifest_of(sizes, unlabeled=7), LabelPlanConfig(classes_per_batch=labels, images_per_class=images)
        near = some_graph(len(sizes), epoch) if alike else None
        plan = plan_labels(manifest, config, 3, epoch, near)
        assert len(plan.steps) == len(plan_labels(manifest, config, 3, epoch).steps)
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

    def test_labels_equally_often_with_their_images_in_turn(self) -> None:
        manifest = manifest_of(np.array([4, 8, 40, 400]))
        steps = plan_labels(manifest, LabelPlanConfig(classes_per_batch=2, images_per_class=4, balance="labels"), 0, 0).steps
        assert np.allclose(np.bincount(manifest.label[steps].ravel()) / steps.size, 0.25, atol=0.02)
        for label in range(4):
            times = np.bincount(steps.ravel(), minlength=len(manifest))[manifest.label == label]
            assert times.max() - times.min() <= 1

    def test_labels_meet_different_labels(self) -> None:
        """All chunks of a label sit in other company: batches are not the same labels again and again."""
        manifest = manifest_of(np.full(200, 40))
        plan = plan_labels(manifest, LabelPlanConfig(classes_per_batch=10, images_per_class=4), 0, 0)
        label = manifest.label[plan.steps[:, ::4]]  # (steps, P)
        company = [len(np.unique(label[(label == number).any(axis=1)])) for number in range(200)]
        assert np.mean(company) > 60  # 10 batches x 9 others, less those met twice

    def test_a_window_keeps_labels_in_few_shards(self) -> None:
        manifest = manifest_of(np.random.default_rng(0).integers(5, 15, 1000), shards=50)
        plan = plan_labels(manifest, LabelPlanConfig(classes_per_batch=8, images_per_class=4, shuffle_window=5), 0, 0)
        assert shards_at_a_time(manifest, plan.steps, 4) <= 20  # two windows meet, labels at boundaries reach into a next shard
        assert len(np.unique(manifest.shard[plan.steps])) == 50
        assert plan.statistics.planned > 0.7 * plan.statistics.available

    @pytest.mark.parametrize("per_epoch", [7, 40, 250])
    def test_an_epoch_of_so_many_batches(self, per_epoch: int) -> None:
        """Less than a pass, or several: 96 images of 24 labels make 24 batches of 2 x 2."""
        manifest = manifest_of(np.full(24, 4))
        config = LabelPlanConfig(classes_per_batch=2, images_per_class=2, per_epoch=per_epoch)
        plan = plan_labels(manifest, config, 0, 0)
        assert plan.steps.shape == (per_epoch, 4)
        for start in range(0, per_epoch, 24):
            assert len(np.unique(plan.steps[start : start + 24])) == 4 * len(plan.steps[start : start + 24])
        planned = min(4 * per_epoch, 96)
        assert (plan.statistics.planned, plan.statistics.repeated) == (planned, 4 * per_epoch - planned)
        if per_epoch > 48:
            assert (plan.steps[:24] != plan.steps[24:48]).any()
        one_pass = plan_labels(manifest, LabelPlanConfig(classes_per_batch=2, images_per_class=2), 0, 0).steps
        assert (plan.steps[:24] == one_pass[:per_epoch]).all()

    def test_too_few_labels(self) -> None:
        with pytest.raises(UserError, match="has 3 labels with two or more images, a batch takes 16"):
            plan_labels(manifest_of(np.array([5, 5, 5, 1])), LabelPlanConfig(), 0, 0)


class TestAlike:
    def test_groups_of_alike_labels_are_the_batches(self) -> None:
        """Twelve groups of four labels: each batch is a whole group, in random order, with other images in each epoch."""
        group = np.random.default_rng(0).permutation(48) % 12
        near = sparse.csr_matrix((group[:, None] == group) & ~np.eye(48, dtype=bool), dtype=float)
        manifest, config = manifest_of(np.full(48, 12)), LabelPlanConfig(classes_per_batch=4, images_per_class=3)
        plans = [plan_labels(manifest, config, 0, epoch, near).steps for epoch in (0, 0, 1)]
        groups = group[manifest.label[plans[0]]]
        assert (groups == groups[:, :1]).all()
        assert np.bincount(groups[:, 0]).tolist() == [4] * 12
        assert (np.diff(groups[:, 0]) == 0).mean() < 0.3
        assert (plans[0] == plans[1]).all()
        assert (plans[0] != plans[2]).any()

    def test_the_nearest_to_all_of_the_batch_joins(self) -> None:
        """0 is near 1, both are rather near 2, and 3 is near 1 alone."""
        near = np.zeros((6, 6))
        for a, b, weight in [(0, 1, 5), (0, 2, 3), (1, 2, 3), (1, 3, 4), (4, 5, 1)]:
            near[a, b] = near[b, a] = weight
        for seed in range(8):
            found = batches_of_alike(np.ones(6, int), sparse.csr_matrix(near), 3, np.random.default_rng(seed))
            assert {frozenset(batch) for batch in found.tolist()} <= {
                *(frozenset({0, 1, 2}), frozenset({3, 4, 5})),
                *(frozenset({1, 3, 0}), frozenset({2, 4, 5})),
                *(frozenset({4, 5, other}) for other in range(4)),
                *(frozenset(range(4)) - {other} for other in range(4)),
            }

    def test_askers_are_images_of_every_label(self) -> None:
        manifest = manifest_of(np.array([1, 2, 3, 9]), unlabeled=3)
        askers = plan_askers(manifest, LabelPlanConfig(classes_per_batch=2, images_per_class=3), 0, 5)
        assert np.bincount(askers.query_labels).tolist() == [0, 2, 3, 3]
        assert (manifest.label[askers.positives] == askers.query_labels).all()
        assert (askers.positives != askers.queries).all()
        assert len(np.unique(askers.queries)) == len(askers.queries) == len(np.unique(askers.positives))
        assert {*plan_askers(manifest, LabelPlanConfig(images_per_class=1), 0, 0).query_labels.tolist()} == {0, 1, 2, 3}

    @pytest.mark.slow
    def test_every_epoch_has_the_steps_of_the_first(self) -> None:
        """Windows cut a pass in other places in each epoch."""
        manifest = manifest_of(np.random.default_rng(0).integers(5, 15, 1000), shards=50)
        config = LabelPlanConfig(classes_per_batch=8, images_per_class=4, shuffle_window=5)
        assert len({len(plan_labels(manifest, config, 0, epoch).steps) for epoch in range(3)}) == 2
        [world] = [World(0, 1, 0, 1, torch.device("cpu"), None)]
        planner = LabelPlanner(config, 0, world, SimpleNamespace(manifest=manifest))  # type: ignore[arg-type]
        plans = [planner.plan(Progress(epoch=epoch), _unasked) for epoch in range(3)]
        assert [None if plan is None else len(plan.columns) for plan in plans] == [planner.steps] * 3


def _unasked() -> RetrievalNet:
    raise AssertionError("random labels need no network")


class TestShots:
    @pytest.mark.slow
    def test_so_many_images_of_each_label_the_same_in_every_epoch(self) -> None:
        manifest = manifest_of(np.array([9, 3, 1, 20, 7]), unlabeled=4)
        config = LabelPlanConfig(classes_per_batch=4, images_per_class=2, shots=5, per_epoch=50)
        subsets = [np.unique(plan_labels(manifest, config, 0, epoch).steps) for epoch in range(3)]
        assert np.bincount(manifest.label[subsets[0]], minlength=5).tolist() == [5, 3, 0, 5, 5]
        assert all((subset == subsets[0]).all() for subset in subsets)
        assert plan_labels(manifest, config, 0, 0).statistics.available == 18

    def test_each_seed_draws_its_own(self) -> None:
        manifest = manifest_of(np.full(10, 50))
        config = LabelPlanConfig(classes_per_batch=10, images_per_class=1, shots=1)
        draws = {tuple(np.unique(plan_labels(manifest, config, seed, 0).steps)) for seed in range(5)}
        assert len(draws) == 5
        assert all(manifest.label[list(draw)].tolist() == list(range(10)) for draw in draws)

    def test_one_shot_has_no_two_images_to_compare(self) -> None:
        with pytest.raises(UserError, match=r"0 labels with two or more images, .* raise batches.shots"):
            plan_labels(manifest_of(np.full(10, 50)), LabelPlanConfig(classes_per_batch=5, images_per_class=2, shots=1), 0, 0)


class TestSuperPairs:
    config = LabelPlanConfig(classes_per_batch=6, images_per_class=3, super_pairs=5)

    @staticmethod
    def manifest(sizes: np.ndarray, supers: list[str]) -> Manifest:
        manifest = manifest_of(sizes)
        vars(manifest)["super_labels"] = np.unique(supers, return_inverse=True)[1]
        return manifest

    def test_halves_of_every_pair(self) -> None:
        sizes = np.random.default_rng(0).integers(1, 9, 40)
        sizes[::4] = 1  # labels with one image are in no batch
        manifest = self.manifest(sizes, ["a"] * 10 + ["b"] * 8 + ["c"] * 22)
        assert manifest.super_labels is not None
        steps = plan_labels(manifest, self.config, 0, 0).steps
        assert steps.shape == (15, 18)
        label = manifest.label[steps].reshape(-1, 6, 3)
        assert (label == label[:, :, :1]).all()
        assert all(len(set(batch)) == 6 for batch in label[:, :, 0].tolist())
        assert (sizes[label] > 1).all()
        supers = manifest.super_labels[label[:, :, 0]]  # (steps, P)
        halves = [tuple(np.unique(batch, return_counts=True)[0]) for batch in supers]
        assert all((np.unique(batch, return_counts=True)[1] == 3).all() for batch in supers)
        assert sorted(halves) == sorted(list(combinations(range(3), 2)) * 5)
        assert halves != sorted(halves)
        distinct = [len(set(row)) == min(3, sizes[manifest.label[row[0]]]) for row in steps.reshape(-1, 3)]
        assert all(distinct)

    def test_batches_differ_by_epoch_and_not_between_calls(self) -> None:
        manifest = self.manifest(np.full(20, 9), ["a"] * 10 + ["b"] * 10)
        first = plan_labels(manifest, self.config, 0, 0).steps
        assert (plan_labels(manifest, self.config, 0, 0).steps == first).all()
        assert (plan_labels(manifest, self.config, 0, 1).steps != first).any()
        assert len({tuple(batch) for batch in first}) == 5

    @pytest.mark.slow
    def test_names_tell_super_labels(self, tmp_path: Path) -> None:
        named = ["fish/ray", "fish/shark", "tree/oak", "tree/pine"]
        manifest = Corpus.open(str(make_corpus(tmp_path / "named", labels=4, names=named))).manifest
        assert manifest.super_labels is not None
        assert manifest.super_labels.tolist() == [0, 0, 1, 1]
        steps = plan_labels(manifest, LabelPlanConfig(classes_per_batch=4, images_per_class=2, super_pairs=2), 0, 0).steps
        assert steps.shape == (2, 8)
        with pytest.raises(
            UserError, match=r"2 super-labels, the smallest with 2 labels .* batches.classes_per_batch to 4 or fewer"
        ):
            plan_labels(manifest, self.config, 0, 0)

    @pytest.mark.slow
    def test_no_super_labels(self, tmp_path: Path) -> None:
        manifest = Corpus.open(str(make_corpus(tmp_path / "plain"))).manifest
        assert manifest.super_labels is None
        with pytest.raises(UserError, match=r"has no super-labels, which batches.super_pairs needs"):
            plan_labels(manifest, self.config, 0, 0)

    def test_contradictions(self) -> None:
        with pytest.raises(ValueError, match="use an even number of labels, and neither per_epoch nor shuffle_window"):
            LabelPlanConfig(classes_per_batch=5, super_pairs=1)


def test_ranks_together_read_the_plan() -> None:
    steps = plan_labels(manifest_of(np.full(50, 9)), LabelPlanConfig(classes_per_batch=7, images_per_class=3), 0, 0).steps

    def share_of(rank: int, size: int) -> np.ndarray:
        return steps[:, World(rank, size, rank, size, torch.device("cpu"), None).share(steps.shape[1])]

    check_shares(steps, share_of, sizes=(1, 2, 3, 4, 8))


@pytest.mark.slow
@pytest.mark.parametrize("config", [LabelPlanConfig(), LabelPlanConfig(shuffle_window=8), LabelPlanConfig(shots=20)])
def test_millions_of_images(config: LabelPlanConfig) -> None:
    """7.4 million images of 100,000 labels: an epoch is planned in 1 GB."""
    manifest = manifest_of(np.random.default_rng(0).multinomial(7_400_000, np.full(100_000, 1e-5)), shards=300)
    tracemalloc.start()
    plan_labels(manifest, config, 0, 0)
    assert tracemalloc.get_traced_memory()[1] < 1e9
    tracemalloc.stop()
