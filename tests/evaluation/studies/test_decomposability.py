"""The decomposability gap: ROADMAP's definition, by brute force and by hand."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from largescale.corpus.config import ImagesConfig, LoaderConfig
from largescale.corpus.corpus import Corpus
from largescale.evaluation.studies.config import DecomposabilityConfig
from largescale.evaluation.studies.decomposability import batches_of, bound, bound_of, mean_precision, measure
from largescale.evaluation.studies.studies import StudyContext, studies
from largescale.models.metric import COSINE, Space
from tests.corpora import make_corpus
from tests.evaluation.small import alone, make_weights


def _brute(x: np.ndarray, label: np.ndarray) -> float:
    values = []
    for q in range(len(x)):
        others = sorted((i for i in range(len(x)) if i != q), key=lambda i: -float(x[q] @ x[i]))
        hits, total = 0, 0.0
        for rank, i in enumerate(others, 1):
            if label[i] == label[q]:
                hits += 1
                total += hits / rank
        if hits:
            values.append(total / hits)
    return float(np.mean(values))


def test_precision_is_that_of_plain_loops() -> None:
    random = np.random.default_rng(0)
    x, label = random.standard_normal((30, 5)), random.integers(0, 6, 30)
    assert mean_precision(x, label) == pytest.approx(_brute(x, label))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return Corpus.open(str(make_corpus(tmp_path_factory.mktemp("gap") / "corpus", labels=8, per_label=8, size=48)))


@pytest.mark.slow
def test_batches_have_every_image_once(corpus: Corpus) -> None:
    for size in (8, 16, 32, 64):
        batches = batches_of(corpus.manifest, size)
        assert batches.shape == (64 // size, size)
        assert len(np.unique(batches)) == 64
    assert len(batches_of(corpus.manifest, 128)) == 0
    assert len(batches_of(corpus.manifest, 4)) == 0


@pytest.mark.slow
def test_a_gap_is_what_batches_hide(corpus: Corpus) -> None:
    """A batch of everything has none; the smaller the batch, the more of the images that stand before a match it lacks."""
    label = corpus.manifest.label
    perfect = np.eye(8)[label]
    mixed = perfect + 0.5 * np.random.default_rng(0).standard_normal(perfect.shape)
    study = measure([(Path("perfect"), perfect, COSINE), (Path("mixed"), mixed, COSINE)], corpus.manifest, (8, 64, 128), 1000)
    gaps = {(row["weights"], row["batch"]): row["gap"] for row in study.rows}
    assert gaps["perfect", 8] == gaps["perfect", 64] == 0
    assert gaps["mixed", 8] > 10
    assert gaps["mixed", 64] == pytest.approx(0)
    assert ("mixed", 128) not in gaps
    row = next(row for row in study.rows if row["weights"] == "mixed")
    assert row["map_rectangle %"] == pytest.approx(100 * _brute(mixed, label))
    assert "<svg" in study.plots["gap"]


@pytest.mark.parametrize(
    ("positives", "negatives", "expected"),
    [((1, 1), (1, 1), 1 / 6), ((2, 2), (2, 2), 0.183333), ((4, 4), (60, 60), 0.451255), ((5,), (9,), 0)],
)
def test_the_bound_is_that_of_batches_without_common_scores(
    positives: tuple[int, ...], negatives: tuple[int, ...], expected: float
) -> None:
    assert bound(np.array(positives), np.array(negatives)) == pytest.approx(expected, abs=1e-6)


def test_a_gap_of_batches_without_fault_stays_below_its_bound() -> None:
    """Every order in which two perfectly ranked batches may be mixed; one of them reaches the bound."""
    gaps = []
    for own in itertools.combinations(range(7), 3):  # places of the own batch: a match, then two others; 2 + 2 in the other
        marks, mine, theirs = [], iter([1, 0, 0]), iter([1, 1, 0, 0])
        marks = [next(mine) if place in own else next(theirs) for place in range(7)]
        gaps.append(1 - np.mean([np.sum(marks[: i + 1]) / (i + 1) for i in np.flatnonzero(marks)]))
    assert max(gaps) == pytest.approx(bound(np.array([1, 2]), np.array([2, 2])))


def test_the_bound_of_batches_leaves_each_query_out() -> None:
    """Two batches of two classes with two images each: a query has one match in its own batch and two in the other."""
    labels = np.array([[0, 0, 1, 1], [0, 0, 1, 1]])
    assert bound_of(labels) == pytest.approx(bound(np.array([1, 2]), np.array([2, 2])))


def test_precision_by_distance_is_that_of_plain_loops() -> None:
    """Lengths of a descriptor count: 1 - |q - x|² / 2 in place of the product."""
    random = np.random.default_rng(0)
    x, label = 5 * random.standard_normal((30, 5)), random.integers(0, 6, 30)
    far = -np.square(x[:, None] - x).sum(2)
    order = np.argsort(-(far - 1e9 * np.eye(30)), axis=1)[:, :-1]
    right = label[order] == label[:, None]
    precision = (right.cumsum(1) / np.arange(1, 30) * right).sum(1) / np.maximum(right.sum(1), 1)
    assert mean_precision(x, label, Space(4.0)) == pytest.approx(precision[right.any(1)].mean())
    assert mean_precision(x, label, Space(4.0)) != pytest.approx(mean_precision(x, label))


@pytest.mark.slow
def test_of_weights(corpus: Corpus, tmp_path: Path) -> None:
    weights = [make_weights(tmp_path / f"{seed}.safetensors", seed) for seed in (0, 1)]
    common = {"images": ImagesConfig(size=48), "batch_size": 8, "loader": LoaderConfig(workers=0), "out": tmp_path / "out"}
    gallery = str(corpus.manifest.storage.location)
    config = DecomposabilityConfig(weights=weights[0], against=weights[1:], gallery=gallery, sizes=(8, 64), **common)
    with alone() as world:
        study = studies["decomposability"](config, StudyContext(config, world))
    assert [(row["weights"], row["batch"]) for row in study.rows] == [(str(file), size) for file in weights for size in (8, 64)]
    assert study.write(tmp_path / "out").read_text().count("<svg") == 1
