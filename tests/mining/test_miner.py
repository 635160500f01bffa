"""A pass gives the same bits in every world; what it cannot use is named; a pass that was killed leaves nothing."""

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from largescale.corpus.config import BadImagesConfig, ImagesConfig, LoaderConfig, TuplePlanConfig
from largescale.corpus.corpus import Corpus
from largescale.corpus.manifest import Manifest
from largescale.corpus.plan import Tuples, plan_pool, plan_tuples
from largescale.distributed import World
from largescale.embedding import Embedder
from largescale.mining import Generation, Generations, Miner, MiningConfig
from largescale.mining.search.select import NO_IMAGE
from largescale.models.backbones.contract import Contract
from largescale.models.build import build_network
from largescale.models.config import ModelConfig
from largescale.settings import UserError
from tests.corpora import encode, make_corpus
from tests.evaluation.small import alone
from tests.mining.reference import nearest
from tests.world import kill_in_world, run_world

SEED, EPOCH, STEP = 1, 3, 12
PLAN = TuplePlanConfig(per_step=4, per_epoch=40)
CONFIG = MiningConfig(batch_size=4)
CONFIGS = {
    "all images": CONFIG,
    "small blocks": CONFIG.model_copy(update={"block_bytes": 2**20}),
    "a part of the images": CONFIG.model_copy(update={"pool": 25}),
    "too few clusters": CONFIG.model_copy(update={"pool": 4}),
    "approximate": CONFIG.model_copy(update={"index": "IVF4,SQ8", "depth": 8, "min_recall": 0.9}),
    "by distance": CONFIG,
    "automatic, too large for exact search": CONFIG.model_copy(update={"exact_bytes": 35_000}),
}
APPROXIMATE = ("approximate", "automatic, too large for exact search")


class Colors(nn.Module):
    """Descriptors of 4 x 4 mean colors; a black image has none that is finite, a white one has none that is not zero."""

    dim, metric, contract = 48, "cosine", Contract()

    def forward(self, images: Tensor) -> Tensor:
        colors = nn.functional.adaptive_avg_pool2d(images, 4).flatten(1)
        descriptors = nn.functional.normalize(colors - colors.mean(1, keepdim=True))
        black, white = images.amax((1, 2, 3)) < -1, images.amin((1, 2, 3)) > 2
        return descriptors.masked_fill(black[:, None], torch.nan).masked_fill(white[:, None], 0)


def miner(
    world: World, corpus: Path, run: Path, config: MiningConfig, budget: float = 0.1, **settings: Any
) -> tuple[Miner, Tuples]:
    opened = Corpus.open(str(corpus))
    embedder = Embedder.in_world(world, ImagesConfig(size=64), config.batch_size, LoaderConfig(workers=0), "fp32", **settings)
    made = Miner(config, opened, world, embedder, run, seed=SEED, bad_images=BadImagesConfig(budget=budget))
    return made, plan_tuples(opened.manifest, PLAN, SEED, EPOCH)


def mine_all(world: World, corpus: Path, runs: Path) -> dict[str, Generation | None]:
    """Every configuration, with a real network."""
    torch.manual_seed(0)
    network = build_network(ModelConfig(backbone="squeezenet1_1"))
    with_lengths = build_network(ModelConfig(backbone="squeezenet1_1", normalize=False))
    found = {}
    for name, config in CONFIGS.items():
        made, tuples = miner(world, corpus, runs / name, config)
        found[name] = made.run(with_lengths if name == "by distance" else network, EPOCH, STEP, tuples)
    return found


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """68 images of three shapes; 12 labels and 20 images without one; labels cross the boundaries of shards."""
    return make_corpus(tmp_path_factory.mktemp("mining") / "corpus", 12, 4, shards=5, unlabeled=20, mixed=True)


@pytest.fixture(scope="module")
def passes(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[dict[str, Generation]]]:
    """For worlds of 1, 2 and 4, for each rank, the generations."""
    return {size: run_world(size, mine_all, corpus, tmp_path_factory.mktemp(f"runs{size}")) for size in (1, 2, 4)}


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("name", [name for name in CONFIGS if name not in APPROXIMATE])
def test_every_rank_of_every_world_gets_the_same_bits(
    passes: dict[int, list[dict[str, Generation]]], name: str, size: int
) -> None:
    [alone] = passes[1]
    for rank in passes[size]:
        assert rank[name].negatives.tobytes() == alone[name].negatives.tobytes()
        assert rank[name].similarities.tobytes() == alone[name].similarities.tobytes()
        assert rank[name].queries.tobytes() == alone[name].queries.tobytes()


@pytest.mark.distributed
def test_blocks_do_not_matter(passes: dict[int, list[dict[str, Generation]]]) -> None:
    [alone] = passes[1]
    assert alone["small blocks"].negatives.tobytes() == alone["all images"].negatives.tobytes()


@pytest.mark.distributed
@pytest.mark.parametrize("name", CONFIGS)
def test_negatives_obey_the_rule(passes: dict[int, list[dict[str, Generation]]], corpus: Path, name: str) -> None:
    """From different clusters, none of the query's or the positive's, from the pool, nearest first."""
    manifest = Corpus.open(str(corpus)).manifest
    tuples, pool = plan_tuples(manifest, PLAN, SEED, EPOCH), plan_pool(manifest, CONFIGS[name].pool, SEED, EPOCH)
    for generation in (passes[1][0][name], passes[4][2][name]):
        np.testing.assert_array_equal(generation.queries, tuples.queries)
        mined = ~np.isnan(generation.similarities)
        assert np.isin(generation.negatives[mined], pool).all()
        labels = np.where(manifest.label >= 0, manifest.label, -2 - np.arange(len(manifest)))[generation.negatives]  # (Q, N)
        assert all(len(set(row)) == 5 for row in labels.tolist())
        assert not (labels == tuples.query_labels[:, None]).any()
        assert not (labels == tuples.positive_labels[:, None]).any()
        ordered = np.where(mined, generation.similarities, -np.inf)
        assert (ordered[:, 1:] <= ordered[:, :-1]).all()


@pytest.mark.slow
@pytest.mark.distributed
def test_by_distance_the_similarity_is_that_of_descriptors_with_their_lengths(
    passes: dict[int, list[dict[str, Generation]]], corpus: Path
) -> None:
    found, opened = passes[1][0]["by distance"], Corpus.open(str(corpus))
    torch.manual_seed(0)
    build_network(ModelConfig(backbone="squeezenet1_1"))
    network, images = build_network(ModelConfig(backbone="squeezenet1_1", normalize=False)), ImagesConfig(size=64)
    embedder = Embedder(images, 4, LoaderConfig(workers=0), torch.device("cpu"), "fp32")
    groups = list(embedder.embed(network, opened, np.arange(68)))
    rows = torch.cat([group.descriptors for group in groups])[np.argsort(np.concatenate([group.ids for group in groups]))]
    far = (rows[found.queries][:, None].double() - rows[found.negatives].double()).square().sum(2)
    np.testing.assert_allclose(found.similarities, 1 - far / 2, rtol=1e-6)
    assert (found.negatives != passes[1][0]["all images"].negatives).any()


@pytest.mark.slow
def test_an_index_that_an_earlier_life_trained_serves_the_resumed_run(corpus: Path, tmp_path: Path) -> None:
    """One run mines two epochs with other weights; another ends after the first, and goes on in a new process."""
    networks = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        networks.append(build_network(ModelConfig(backbone="squeezenet1_1")))
    config = CONFIG.model_copy(update={"index": "IVF8,Flat", "depth": 8, "min_recall": 0.1})
    with alone() as world:
        whole, tuples = miner(world, corpus, tmp_path / "whole", config)
        first, second = (whole.run(network, EPOCH + i, STEP + i, tuples) for i, network in enumerate(networks))
        cut, _ = miner(world, corpus, tmp_path / "cut", config)
        cut.run(networks[0], EPOCH, STEP, tuples)
        resumed = miner(world, corpus, tmp_path / "cut", config)[0].run(networks[1], EPOCH + 1, STEP + 1, tuples)
        anew = miner(world, corpus, tmp_path / "anew", config)[0].run(networks[1], EPOCH + 1, STEP + 1, tuples)
    assert first is not None
    assert second is not None
    assert resumed is not None
    assert anew is not None
    np.testing.assert_array_equal(second.index, first.index)
    np.testing.assert_array_equal(resumed.index, second.index)
    np.testing.assert_array_equal(resumed.negatives, second.negatives)
    assert (anew.negatives != second.negatives).any()


@pytest.mark.distributed
def test_statistics_say_what_happened(passes: dict[int, list[dict[str, Generation]]]) -> None:
    for size, ranks in passes.items():
        whole, few = ranks[0]["all images"], ranks[0]["too few clusters"]
        assert (whole.epoch, whole.step) == (EPOCH, STEP)
        assert whole.statistics["pool"] == 68
        assert whole.statistics["short_queries"] == whole.statistics["random_negatives"] == whole.statistics["faults"] == 0
        assert whole.statistics["similarity"] == pytest.approx(whole.similarities.mean(), rel=1e-6)
        expected = np.sqrt(2 - 2 * whole.similarities.astype(np.float64)).mean()
        assert whole.statistics["distance"] == pytest.approx(expected, rel=1e-3)
        assert (whole.statistics["exchanged_bytes"] > 0) == (size > 1)
        assert few.statistics["pool"] == 4
        assert few.statistics["short_queries"] == 40
        assert few.statistics["random_negatives"] == np.isnan(few.similarities).sum() >= 40
        for name in APPROXIMATE:
            assert 0.9 <= ranks[0][name].statistics["recall"] <= 1
        assert "recall" not in whole.statistics
        assert {"seconds_embed", "seconds_index", "seconds_search", "seconds"} <= whole.statistics.keys()


BLACK, WHITE = (encode(np.full((48, 64, 3), value, np.uint8)) for value in (0, 255))


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    replaced = {3: BLACK, 4: WHITE, 21: b"no image", 60: BLACK, 61: BLACK}
    return make_corpus(tmp_path_factory.mktemp("faulty") / "corpus", 12, 4, shards=5, size=64, unlabeled=20, replace=replaced)


def mine_faulty(world: World, corpus: Path, run: Path, budget: float) -> Generation | str:
    made, tuples = miner(world, corpus, run, CONFIG, budget)
    try:
        return made.run(Colors(), EPOCH, STEP, replace(tuples, queries=np.where(tuples.queries < 6, 3, tuples.queries)))
    except UserError as error:
        return str(error)


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("size", [1, 2])
def test_what_cannot_be_used_is_named_and_never_mined(faulty: Path, tmp_path: Path, size: int) -> None:
    generations = run_world(size, mine_faulty, faulty, tmp_path, 0.1)
    for generation in generations:
        assert sorted((fault.key, "descriptor" in fault.error) for fault in generation.faults) == [
            ("000003", True),
            ("000004", True),
            ("000021", False),
            ("000060", True),
            ("000061", True),
        ]
        assert {fault.shard for fault in generation.faults} == {"shard-00000.tar", "shard-00001.tar", "shard-00004.tar"}
        assert generation.statistics["faults"] == 5
        assert generation.statistics["pool"] == 68 - 5
        mined = ~np.isnan(generation.similarities)
        assert not np.isin(generation.negatives[mined], [3, 4, 21, 60, 61]).any()
        lost = np.isin(generation.queries, [3, 21])
        assert lost.any()
        np.testing.assert_array_equal(~mined.all(1), lost)
        assert generation.statistics["short_queries"] == lost.sum()
        assert generation.negatives.tobytes() == generations[0].negatives.tobytes()


@pytest.mark.slow
@pytest.mark.distributed
def test_too_many_faults_stop_every_rank(faulty: Path, tmp_path: Path) -> None:
    for message in run_world(2, mine_faulty, faulty, tmp_path, 0.05):
        assert "5 of 68 images could not be mined, the first is 0000" in message
        assert "bad_images.budget=0.05 allows 3" in message
    assert Generations(tmp_path, Corpus.open(str(faulty)).manifest.fingerprint).read(EPOCH, STEP) is None


def mine_colors(world: World, corpus: Path, run: Path, config: MiningConfig) -> Generation | None:
    made, tuples = miner(world, corpus, run, config)
    return made.run(Colors(), EPOCH, STEP, tuples)


@pytest.fixture(scope="module")
def colors(corpus: Path) -> np.ndarray:
    """`(68, 48)` float64 descriptors of all images."""
    embedder = Embedder(ImagesConfig(size=64), 4, LoaderConfig(workers=0), torch.device("cpu"), "fp32")
    groups = list(embedder.embed(Colors(), Corpus.open(str(corpus)), np.arange(68)))
    order = np.argsort(np.concatenate([group.ids for group in groups]))
    return torch.cat([group.descriptors for group in groups])[order].double().numpy()


RULES = [
    {},
    {"pool": 25},
    {"semi_hard": True},
    {"similarity_cap": 0.3},
    {"semi_hard": True, "similarity_cap": 0.4, "duplicate": 0.6},
]


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("rule", [*RULES, {"order": "farthest"}], ids=str)
def test_equals_brute_force_over_the_pool(corpus: Path, tmp_path: Path, colors: np.ndarray, rule: dict[str, Any]) -> None:
    """Where too few images are eligible, random ones take the last places, and the queries are counted."""
    manifest, config = Corpus.open(str(corpus)).manifest, CONFIG.model_copy(update=rule)
    tuples, ids = plan_tuples(manifest, PLAN, SEED, EPOCH), plan_pool(manifest, config.pool, SEED, EPOCH)
    clusters = np.where(manifest.label >= 0, manifest.label, -2 - np.arange(68))
    excluded = np.stack([clusters[tuples.queries], clusters[tuples.positives]], 1).tolist()
    sign = -1 if config.order == "farthest" else 1
    of_positive = (colors[tuples.queries] * colors[tuples.positives]).sum(1) if config.semi_hard else np.full(40, np.inf)
    limits = np.minimum(of_positive, np.inf if config.similarity_cap is None else config.similarity_cap)
    similarities = sign * (colors[tuples.queries] @ colors[ids].T)
    expected, values = nearest(similarities, ids, clusters[ids], excluded, 5, limits, config.duplicate or np.inf)
    for generation in run_world(2, mine_colors, corpus, tmp_path, config):
        mined = ~np.isnan(generation.similarities)
        np.testing.assert_array_equal(mined, expected != NO_IMAGE)
        np.testing.assert_array_equal(generation.negatives[mined], expected[mined])
        np.testing.assert_allclose(generation.similarities[mined], sign * values[mined], rtol=0, atol=1e-7)
        assert generation.statistics["short_queries"] == (~mined).any(1).sum()


class Countdown:
    """Answers `should_stop`: no, until a certain call; then what `act` says, every time."""

    def __init__(self, at: int, act: Callable[[], bool]) -> None:
        self.calls, self.at, self.act = 0, at, act

    def __call__(self) -> bool:
        self.calls += 1
        return 0 < self.at <= self.calls and self.act()


def die() -> bool:
    os.kill(os.getpid(), signal.SIGKILL)
    return True


def stop() -> bool:
    return True


class Mortal(Generations):
    """Dies when it has written its part, or before it commits."""

    def __init__(self, like: Generations, stage: str) -> None:
        self.directory, self.fingerprint, self.stage = like.directory, like.fingerprint, stage

    def write_part(self, *arguments: Any) -> tuple[str, str]:
        written = super().write_part(*arguments)
        return written if self.stage != "write" else (str(die()), "")

    def commit(self, *arguments: Any) -> None:
        if self.stage == "commit":
            die()
        super().commit(*arguments)


def mine_disturbed(world: World, corpus: Path, run: Path, stage: str, victim: int, at: int) -> tuple[Generation | None, int]:
    """A rank is killed in a stage, or asked to stop; also returns how often it asked whether to stop."""
    met = world.rank == victim
    asked = Countdown(at if met else 0, stop if stage == "stop" else die)
    made, tuples = miner(world, corpus, run, CONFIG, should_stop=asked)
    if met:
        made.generations = Mortal(made.generations, stage)
    return made.run(Colors(), EPOCH, STEP, tuples), asked.calls


@pytest.fixture(scope="module")
def undisturbed(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Generation, int]]:
    return run_world(2, mine_disturbed, corpus, tmp_path_factory.mktemp("undisturbed"), "nothing", -1, 0)


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize(("stage", "victim"), [("embed", 1), ("search", 0), ("write", 1), ("commit", 0)])
def test_a_killed_rank_leaves_nothing_and_the_next_pass_is_the_same(
    corpus: Path, tmp_path: Path, undisturbed: list[tuple[Generation, int]], stage: str, victim: int
) -> None:
    at = {"embed": 2, "search": undisturbed[victim][1]}.get(stage, 0)  # the last question is that of the search
    kill_in_world(victim, mine_disturbed, corpus, tmp_path, stage, victim, at)
    manifest: Manifest = Corpus.open(str(corpus)).manifest
    assert Generations(tmp_path, manifest.fingerprint).read(EPOCH, STEP) is None
    again = run_world(2, mine_disturbed, corpus, tmp_path, "nothing", -1, 0)[0][0]
    assert again.negatives.tobytes() == undisturbed[0][0].negatives.tobytes()
    assert [path.name for path in (tmp_path / "negatives").iterdir()] == [f"gen-{EPOCH:06d}-{STEP:06d}"]


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("question", ["first", "last"])
def test_a_stop_of_one_rank_stops_all(
    corpus: Path, tmp_path: Path, undisturbed: list[tuple[Generation, int]], question: str
) -> None:
    at = 1 if question == "first" else undisturbed[1][1]
    assert [generation for generation, _ in run_world(2, mine_disturbed, corpus, tmp_path, "stop", 1, at)] == [None, None]
    assert not (tmp_path / "negatives").exists()
