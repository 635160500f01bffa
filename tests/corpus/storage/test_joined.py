import pickle
from pathlib import Path

import numpy as np
import pytest

from largescale.corpus.config import LabelPlanConfig, StorageConfig, TuplePlanConfig
from largescale.corpus.corpus import Corpus
from largescale.corpus.plan import plan_tuples
from largescale.corpus.samplers import plan_labels
from largescale.settings import UserError
from tests.corpora import make_corpus


@pytest.fixture
def parts(tmp_path: Path) -> list[str]:
    first = make_corpus(tmp_path / "a", labels=6, per_label=4, shards=2, unlabeled=2)
    second = make_corpus(tmp_path / "b", labels=3, per_label=8, shards=3, size=40)
    return [str(first), str(second)]


def joined(parts: list[str], tmp_path: Path, weights: list[float] | None = None) -> Corpus:
    return Corpus.open(parts, StorageConfig(cache=tmp_path / "cache"), weights)


@pytest.mark.slow
def test_images_and_labels_of_all_corpora_are_there(parts: list[str], tmp_path: Path) -> None:
    corpus, (first, second) = joined(parts, tmp_path), map(Corpus.open, parts)
    manifest = corpus.manifest
    assert len(manifest) == 26 + 24
    assert manifest.label.tolist() == [*first.manifest.label.tolist(), *(second.manifest.label + 6).tolist()]
    assert manifest.label_names.to_pylist()[:7:6] == ["a:label 0", "b:label 0"]
    assert corpus.read(range(50)) == [*first.read(range(26)), *second.read(range(24))]
    streamed = [sample for shard in range(5) for sample in corpus.stream(shard)]
    assert [id for id, _ in streamed] == list(range(50))
    assert [data for _, data in streamed] == corpus.read(range(50))
    again = pickle.loads(pickle.dumps(corpus))
    assert again.read([0, 49]) == corpus.read([0, 49])


@pytest.mark.slow
def test_the_same_corpora_are_the_same_corpus(parts: list[str], tmp_path: Path) -> None:
    assert joined(parts, tmp_path).manifest.fingerprint == joined(parts, tmp_path / "elsewhere").manifest.fingerprint
    assert joined(parts, tmp_path).manifest.fingerprint != joined(parts[::-1], tmp_path).manifest.fingerprint


@pytest.mark.slow
def test_pairs_are_those_of_all_corpora(tmp_path: Path) -> None:
    parts = [
        str(make_corpus(tmp_path / name, labels=2, per_label=3, size=size, pairs=True)) for name, size in (("a", 32), ("b", 40))
    ]
    pairs = joined(parts, tmp_path).manifest.pairs
    assert pairs is not None
    assert pairs["query"].tolist() == list(range(12))
    assert (pairs["query"] // 6 == pairs["positive"] // 6).all()
    parts.append(str(make_corpus(tmp_path / "c", size=48)))
    with pytest.raises(UserError, match="/c has no pairs and the other corpora have"):
        joined(parts, tmp_path)


@pytest.mark.slow
def test_weights_say_how_often_a_corpus_is_drawn(parts: list[str], tmp_path: Path) -> None:
    alike, weighted = joined(parts, tmp_path).manifest, joined(parts, tmp_path, [3, 1]).manifest
    config = TuplePlanConfig(per_step=2, per_epoch=12)
    drawn = {
        name: np.mean([(plan_tuples(manifest, config, 0, epoch).queries < 26).mean() for epoch in range(40)])
        for name, manifest in (("alike", alike), ("weighted", weighted))
    }
    assert drawn["alike"] == pytest.approx(24 / 48, abs=0.08)
    assert drawn["weighted"] > 0.65
    steps = [
        plan_labels(weighted, LabelPlanConfig(classes_per_batch=2, images_per_class=2), 0, epoch).steps for epoch in range(40)
    ]
    times = np.bincount(np.concatenate([step.ravel() for step in steps]), minlength=50)
    assert times[2:26].mean() == pytest.approx(3 * times[26:].mean(), rel=0.2)


def test_what_cannot_be_joined(parts: list[str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has a corpus twice"):
        joined([parts[0], parts[0]], tmp_path)
    with pytest.raises(UserError, match="corpus_weights has 3 numbers for 2 corpora"):
        joined(parts, tmp_path, [1, 2, 3])
