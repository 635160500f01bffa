import json
import os
import pickle
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from largescale.corpus.batches.batches import Group, Step
from largescale.corpus.batches.workers import check_loader
from largescale.corpus.config import AugmentConfig, ImagesConfig, LoaderConfig, StorageConfig
from largescale.corpus.corpus import Corpus
from largescale.corpus.images import decode_into
from largescale.corpus.loading import load_pass, load_steps, parts_of
from largescale.corpus.manifest import Manifest, sha256_of
from largescale.corpus.storage.storage import LocalStorage, open_storage
from largescale.settings import UserError
from tests.corpora import change_manifest, encode, make_corpus, photograph, write_corpus
from tests.laws import check_coverage, check_resume, same

AUGMENTED = ImagesConfig(size=24, augment=AugmentConfig(crop_scale=(0.3, 1)))
BAD = {5: b"\xff\xd8 no jpeg", 20: b"nothing"}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = make_corpus(tmp_path_factory.mktemp("corpus") / "c", labels=10, per_label=6, shards=3, unlabeled=4, mixed=True)
    return Corpus.open(str(folder))


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = make_corpus(tmp_path_factory.mktemp("damaged") / "c", labels=6, per_label=4, shards=2, unlabeled=2, replace=BAD)
    return Corpus.open(str(folder))


def columns_of(corpus: Corpus, steps: int = 8, width: int = 10) -> np.ndarray:
    return np.random.default_rng(0).integers(0, len(corpus.manifest), (steps, width))


def steps_of(
    corpus: Corpus, images: ImagesConfig = AUGMENTED, start: int = 0, workers: int = 0, epoch: int = 0, steps: int = 8
) -> Iterator[Step]:
    loader = LoaderConfig(workers=workers)
    return load_steps(corpus, columns_of(corpus, steps), images, epoch=epoch, seed=1, start=start, loader=loader)


def values(step: Step) -> list:
    """Everything that a step holds, copied: its tensors may view memory that is used again."""
    groups = [group.clone() for group in step.groups]
    return [groups, step.places, step.ids, step.used, [(bad.key, bad.shard, bad.error) for bad in step.bad]]


def in_order(step: Step) -> list[torch.Tensor]:
    rows = {int(place): row for group, places in zip(step.groups, step.places, strict=True) for row, place in zip(group, places)}  # noqa: B905
    return [rows[place] for place in range(len(rows))]


class TestAccess:
    @pytest.mark.slow
    def test_random_access_equals_the_stream_equals_the_tar(self, corpus: Corpus) -> None:
        streamed = [sample for shard in range(3) for sample in corpus.stream(shard)]
        assert [image for image, _ in streamed] == list(range(64))
        assert corpus.read(range(64)) == [data for _, data in streamed]
        with tarfile.open(f"{corpus.manifest.storage.location}/shard-00001.tar") as tar:
            names = [member.name for member in tar if member.name.endswith(".jpg")]
            assert corpus.read([22, 30]) == [tar.extractfile(names[i]).read() for i in (0, 8)]  # type: ignore[union-attr]

    @pytest.mark.parametrize("wanted", [[22], [42], [23, 24, 41], [], [22, 42], list(range(22, 43))])
    def test_a_stream_of_some_images(self, corpus: Corpus, wanted: list[int]) -> None:
        assert [image for image, _ in corpus.stream(1, np.array(wanted, int))] == wanted

    @pytest.mark.slow
    def test_a_stream_skips_what_nobody_asked_for(self, tmp_path: Path) -> None:
        many = Corpus.open(str(make_corpus(tmp_path / "many", labels=50, per_label=4, shards=1)))
        wanted = np.array([0, 3, 60, 61, 199])
        assert [(i, data) for i, data in many.stream(0, wanted)] == list(zip(wanted.tolist(), many.read(wanted), strict=True))

    def test_another_process_reads_the_same(self, corpus: Corpus) -> None:
        copy = pickle.loads(pickle.dumps(corpus))
        assert copy.read([63, 0]) == corpus.read([63, 0])
        assert len(pickle.dumps(corpus)) < 3000

    @pytest.mark.slow
    def test_a_fork_reads_the_same(self, corpus: Corpus) -> None:
        expected = corpus.read([1, 50])
        child = os.fork()
        if child == 0:
            os._exit(0 if corpus.read([1, 50]) == expected else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert corpus.read([1, 50]) == expected

    @pytest.mark.slow
    def test_descriptors_are_bounded(self, tmp_path: Path) -> None:
        folder = make_corpus(tmp_path / "many", labels=10, per_label=4, shards=20)
        many = Corpus(Manifest.open(LocalStorage(str(folder), StorageConfig(), open_shards=3)))
        before = len(os.listdir("/proc/self/fd"))
        many.read(range(40))
        assert len(os.listdir("/proc/self/fd")) <= before + 3

    def test_a_tar_of_another_build(self, tmp_path: Path) -> None:
        folder = make_corpus(tmp_path / "mixed")
        manifest = json.loads((folder / "manifest.json").read_text())
        change_manifest(folder, shards=manifest["shards"][::-1])
        with pytest.raises(UserError, match=r"shard-00001\.tar is not the shard of the manifest: expected image 000000"):
            list(Corpus.open(str(folder)).stream(0))

    @pytest.mark.slow
    def test_a_tar_that_was_cut_before_it_was_hashed(self, tmp_path: Path) -> None:
        folder = make_corpus(tmp_path / "cut")
        shard = folder / "shard-00000.tar"
        os.truncate(shard, shard.stat().st_size // 2)
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["shards"][0] |= {"bytes": shard.stat().st_size, "sha256": sha256_of(shard)}
        change_manifest(folder, shards=manifest["shards"])
        corpus = Corpus(Manifest.read(open_storage(str(folder), StorageConfig())))
        with pytest.raises(UserError, match=r"shard-00000\.tar is not the shard of the manifest: it ends before image 0000\d\d"):
            list(corpus.stream(0))
        with pytest.raises(UserError, match=r"shard-00000\.tar is not the shard of the manifest: expected [\d,]+ bytes at"):
            corpus.read(range(12))


class TestSteps:
    @pytest.mark.slow
    def test_groups_of_equal_shape_in_the_order_of_the_plan(self, corpus: Corpus) -> None:
        images = ImagesConfig(size=28)
        for step, ids in zip(steps_of(corpus, images), columns_of(corpus), strict=True):
            assert (step.ids == ids).all()
            assert [len(group) for group in step.groups] == [len(places) for places in step.places]
            assert all(group.is_contiguous(memory_format=torch.channels_last) for group in step.groups)
            for image, row in zip(ids, in_order(step), strict=True):
                stored = int(corpus.manifest.width[image]), int(corpus.manifest.height[image])
                expected = np.empty((*row.shape[1:], 3), np.uint8)
                decode_into(expected, corpus.read([image])[0], images, stored)
                assert (row.permute(1, 2, 0).numpy() == expected).all()

    @pytest.mark.slow
    def test_augmentation_depends_on_seed_epoch_and_image_only(self, corpus: Corpus) -> None:
        def pixels(columns: np.ndarray, seed: int = 1, epoch: int = 0) -> dict[int, torch.Tensor]:
            steps = load_steps(corpus, columns, AUGMENTED, epoch=epoch, seed=seed, loader=LoaderConfig(workers=0))
            return {int(i): row for step in steps for i, row in zip(step.ids, in_order(step), strict=True)}

        columns = columns_of(corpus)
        first, other = pixels(columns), pixels(columns[::-1, ::-1].reshape(10, 8))
        assert all(torch.equal(first[i], other[i]) for i in first)
        for changed in (pixels(columns, seed=2), pixels(columns, epoch=1)):
            assert sum(torch.equal(first[i], changed[i]) for i in first) < len(first) / 4

    @pytest.mark.slow
    def test_resume(self, corpus: Corpus) -> None:
        check_resume(lambda start: map(values, steps_of(corpus, start=start, workers=2)), (3, 8))

    @pytest.mark.slow
    def test_the_number_of_workers_changes_nothing(self, corpus: Corpus) -> None:
        here = [values(step) for step in steps_of(corpus)]
        assert same(here, [values(step) for step in steps_of(corpus, workers=2)])

    @pytest.mark.slow
    def test_bad_images_are_replaced_and_reported(self, damaged: Corpus) -> None:
        columns = np.array([[0, 5, 20, 24], [4, 20, 6, 25]])
        for workers in (0, 1):
            first, second = load_steps(damaged, columns, AUGMENTED, epoch=0, seed=0, loader=LoaderConfig(workers=workers))
            assert first.ids.tolist() == [0, 5, 20, 24]
            assert first.used.tolist() == [0, 6, 21, 24]
            assert second.used.tolist() == [4, 21, 6, 25]
            found = {bad.key: bad for bad in first.bad}
            assert sorted(found) == ["000005", "000020"]
            assert (found["000020"].shard, found["000020"].error) == (
                "shard-00001.tar",
                "no picture of a format that is read: it begins with b'nothing'",
            )
            assert [bad.key for bad in second.bad] == ["000020"]

    def test_replacements_stay_in_the_label_while_it_has_good_images(self, damaged: Corpus) -> None:
        assert damaged.replacement(7, {7}) == 4
        assert damaged.replacement(7, {7, 4, 5}) == 6
        with pytest.raises(UserError, match=r"all 4 images of label .* are bad"):
            damaged.replacement(7, {4, 5, 6, 7})
        assert damaged.replacement(24, {24}) == 25
        assert damaged.replacement(25, {25}) == 0

    def test_nothing_but_bad_images(self, tmp_path: Path) -> None:
        corpus = Corpus.open(str(write_corpus(tmp_path / "bad", [(b"bad", 8, 8)] * 40, np.zeros(40, np.int64))))
        with pytest.raises(UserError, match=r"16 images in a row are bad, the first is 000000 of shard-00000\.tar: no picture"):
            list(load_steps(corpus, np.array([[0]]), AUGMENTED, epoch=0, seed=0, loader=LoaderConfig(workers=0)))

    @pytest.mark.slow
    def test_a_rank_without_images(self, corpus: Corpus) -> None:
        columns = np.empty((3, 0), np.int64)
        steps = list(load_steps(corpus, columns, AUGMENTED, epoch=0, seed=0, loader=LoaderConfig(workers=1)))
        assert [(step.groups, step.places) for step in steps] == [([], [])] * 3

    @pytest.mark.slow
    def test_steps_may_be_kept(self, corpus: Corpus) -> None:
        """The memory of a step is used again only when nothing views it any more."""
        kept = [step.groups[0][1:] for step in steps_of(corpus, workers=1, steps=30)]
        fresh = [step.groups[0][1:].clone() for step in steps_of(corpus, workers=1, steps=30)]
        assert same(kept, fresh)

    @pytest.mark.slow
    def test_memory_is_used_again(self, corpus: Corpus) -> None:
        places = {step.groups[0].data_ptr() for step in steps_of(corpus, workers=1, steps=40)}
        assert len(places) <= LoaderConfig().prefetch + 2


def groups_of(corpus: Corpus, ids: np.ndarray, rank: int = 0, size: int = 1, workers: int = 0, batch: int = 4) -> list[Group]:
    images, loader = ImagesConfig(size=28), LoaderConfig(workers=workers)
    groups = load_pass(corpus, parts_of(corpus.manifest, ids, batch, share=(rank, size)), images, batch=batch, loader=loader)
    return [Group(group.images.clone(), group.ids, group.bad) for group in groups]


class TestPass:
    @pytest.mark.slow
    @pytest.mark.parametrize(("size", "workers"), [(1, 0), (1, 2), (2, 0), (2, 1), (5, 0)])
    def test_ranks_and_workers_together_visit_each_image_once(self, corpus: Corpus, size: int, workers: int) -> None:
        ids = np.arange(64)
        parts = [[i for group in groups_of(corpus, ids, rank, size, workers) for i in group.ids] for rank in range(size)]
        check_coverage(parts, ids)

    @pytest.mark.slow
    def test_groups_depend_on_neither_ranks_nor_workers(self, corpus: Corpus) -> None:
        ids = np.unique(np.random.default_rng(0).integers(0, 64, 40))
        alone = {tuple(group.ids): group.images for group in groups_of(corpus, ids)}
        shared = [group for rank in range(3) for group in groups_of(corpus, ids, rank, 3)]
        spread = groups_of(corpus, ids, workers=2)
        for groups in (shared, spread):
            assert sorted(tuple(group.ids) for group in groups) == sorted(alone)
            assert all(torch.equal(alone[tuple(group.ids)], group.images) for group in groups)

    def test_groups_are_of_one_shard_and_at_most_a_batch(self, corpus: Corpus) -> None:
        for group in groups_of(corpus, np.arange(64)):
            assert len(np.unique(corpus.manifest.shard[group.ids])) == 1
            assert 1 <= len(group.ids) <= 4
            stored = {(corpus.manifest.width[i], corpus.manifest.height[i]) for i in group.ids}
            assert len(stored) == 1

    @pytest.mark.slow
    def test_equal_to_steps_without_augmentation(self, corpus: Corpus) -> None:
        passed = {
            int(i): row for group in groups_of(corpus, np.arange(64)) for i, row in zip(group.ids, group.images, strict=True)
        }
        for step in steps_of(corpus, ImagesConfig(size=28)):
            assert all(torch.equal(passed[int(i)], row) for i, row in zip(step.ids, in_order(step), strict=True))

    @pytest.mark.slow
    def test_a_pass_never_augments(self, corpus: Corpus) -> None:
        loader = LoaderConfig(workers=0)
        config = ImagesConfig(size=28, augment=AugmentConfig(crop_scale=(0.1, 0.2), flip=1))
        plain = groups_of(corpus, np.arange(64))
        augmented = load_pass(corpus, parts_of(corpus.manifest, np.arange(64), 4), config, batch=4, loader=loader)
        assert all(torch.equal(a.images, b.images) for a, b in zip(plain, augmented, strict=True))

    def test_bad_images_are_left_out_and_reported(self, damaged: Corpus) -> None:
        groups = groups_of(damaged, np.arange(26), batch=3)
        check_coverage([group.ids for group in groups], set(range(26)) - set(BAD))
        assert sorted(bad.key for group in groups for bad in group.bad) == ["000005", "000020"]
        assert all(len(group.ids) == len(group.images) for group in groups)

    def test_a_group_of_bad_images_only(self, damaged: Corpus) -> None:
        (group,) = groups_of(damaged, np.array([20]))
        assert group.images.shape == (0, 3, 21, 28)
        assert len(group.bad) == 1

    @pytest.mark.slow
    def test_boxes_are_cut_out_and_scaled_as_the_whole(self, tmp_path: Path) -> None:
        pixels = [photograph(i, 0, 80, 60) for i in range(3)]
        corpus = Corpus.open(str(write_corpus(tmp_path / "q", [(encode(p), 80, 60) for p in pixels], np.full(3, -1))))
        boxes = np.array([[0, 0, 40, 40], [10, 10, 50, 50], [0, 0, 80, 60]])
        loader = LoaderConfig(workers=1)
        parts = parts_of(corpus.manifest, np.arange(3), 4, boxes=boxes)
        groups = list(load_pass(corpus, parts, ImagesConfig(size=40), batch=4, loader=loader))
        assert {tuple(group.ids.tolist()): tuple(group.images.shape) for group in groups} == {
            (0, 1): (2, 3, 20, 20),
            (2,): (1, 3, 30, 40),
        }

    def test_nothing_to_read(self, corpus: Corpus) -> None:
        assert groups_of(corpus, np.array([], int)) == []


class TestLoader:
    @pytest.mark.slow
    def test_the_random_numbers_of_the_training_are_left_alone(self, corpus: Corpus) -> None:
        torch.manual_seed(0)
        expected = torch.rand(3)
        torch.manual_seed(0)
        list(steps_of(corpus, workers=1, steps=1))
        assert torch.equal(torch.rand(3), expected)

    def test_too_little_shared_memory(self, corpus: Corpus) -> None:
        with pytest.raises(UserError, match=r"/dev/shm has .* lower loader\.workers"):
            check_loader(corpus.manifest, ImagesConfig(), 10**9, LoaderConfig(workers=1))
        check_loader(corpus.manifest, ImagesConfig(), 10, LoaderConfig(workers=1))

    @pytest.mark.slow
    def test_an_error_of_a_worker_is_a_sentence(self, tmp_path: Path) -> None:
        folder = make_corpus(tmp_path / "cut")
        os.truncate(folder / "shard-00001.tar", 5000)
        corpus = Corpus.open(str(folder))
        for run in (
            steps_of(corpus, workers=1),
            load_pass(corpus, parts_of(corpus.manifest, np.arange(24), 4), AUGMENTED, batch=4, loader=LoaderConfig(workers=1)),
        ):
            with pytest.raises(UserError, match=r"shard-00001\.tar: expected [\d,]+ bytes, found 5,000"):
                list(run)
