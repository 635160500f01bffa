"""Queries that are the gallery do not find themselves."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from largescale.corpus.corpus import Corpus
from largescale.evaluation.plan import EvaluationPlan
from largescale.evaluation.protocol.ground_truth import LabelTruth
from largescale.settings import UserError
from tests.corpora import make_corpus, write_corpus
from tests.evaluation.small import settings


def part_of(directory: Path, source: Path, ids: range) -> Path:
    """Some images of a corpus as a corpus of their own, under the keys 000000, 000001, ..."""
    corpus = Corpus.open(str(source))
    manifest = corpus.manifest
    images = zip(corpus.read(ids), manifest.width[ids].tolist(), manifest.height[ids].tolist(), strict=True)
    return write_corpus(directory, images, np.asarray(manifest.label[ids]), names=manifest.label_names.to_pylist())


def plan(out: Path, gallery: Path, queries: Path, **values: str) -> EvaluationPlan:
    return EvaluationPlan.open(settings(out, gallery=str(gallery), queries=str(queries), **values))


def test_the_same_corpus_given_twice_leaves_each_image_out(tmp_path: Path) -> None:
    gallery = make_corpus(tmp_path / "a")
    copy = Path(shutil.copytree(gallery, tmp_path / "b"))
    for queries in (gallery, copy):
        found = plan(tmp_path / "out", gallery, queries)
        assert found.leave_one_out
        assert found.protocols[0].name == "labels-leave-one-out"


def test_queries_cut_from_the_gallery_are_refused(tmp_path: Path) -> None:
    gallery = make_corpus(tmp_path / "a", labels=6, per_label=4)
    with pytest.raises(UserError, match="12 of 12 query images are in the gallery too"):
        plan(tmp_path / "out", gallery, part_of(tmp_path / "last", gallery, range(12, 24)))


def test_queries_of_the_gallery_by_their_keys_leave_themselves_out(tmp_path: Path) -> None:
    gallery = make_corpus(tmp_path / "a", labels=6, per_label=4)
    found = plan(tmp_path / "out", gallery, part_of(tmp_path / "first", gallery, range(12)))
    assert found.protocols[0].name == "labels-query-within-gallery"
    assert isinstance(found.truth, LabelTruth)
    assert found.truth.own is not None
    assert found.truth.own.tolist() == list(range(12))


def test_a_pair_of_corpora_is_scored_as_before(tmp_path: Path) -> None:
    everything = make_corpus(tmp_path / "all", labels=4, per_label=4)
    queries, gallery = (part_of(tmp_path / name, everything, range(start, 16, 2)) for name, start in (("q", 0), ("g", 1)))
    assert plan(tmp_path / "out", gallery, queries).protocols[0].name == "labels-query-gallery"


@pytest.mark.slow
def test_inshop_asks_with_views_that_are_not_in_the_gallery(tmp_path: Path) -> None:
    everything = make_corpus(tmp_path / "all", labels=4, per_label=4)
    queries, gallery = (part_of(tmp_path / name, everything, range(start, 16, 2)) for name, start in (("q", 0), ("g", 1)))
    found = plan(tmp_path / "out", gallery, queries, protocol="inshop")
    assert found.family == "inshop"
    assert found.protocols[0].metrics[:4] == ("recall_at_1", "recall_at_10", "recall_at_20", "recall_at_30")
    with pytest.raises(UserError, match="protocol=inshop asks with views that are not in the gallery"):
        plan(tmp_path / "out", gallery, gallery, protocol="inshop")
