"""Queries that are the gallery do not find themselves."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from largescale.config import load
from largescale.corpus.corpus import Corpus
from largescale.evaluation import EvaluateConfig
from largescale.evaluation.plan import EvaluationPlan
from largescale.evaluation.protocol.ground_truth import LabelTruth
from largescale.settings import UserError
from tests.conftest import ROOT
from tests.corpora import make_corpus, write_corpus
from tests.evaluation.small import add_ground_truth, settings


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


@pytest.mark.parametrize(
    ("name", "lists", "main"),
    [
        ("gldv2", [{"public": ["000001"], "private": []}, {"public": [], "private": ["000003"]}], "map_at_100"),
        ("ilias", [{"good": ["000000", "000001"]}, {"good": ["000002"]}], "map_at_1000"),
    ],
)
def test_galleries_beside_their_queries_are_planned_by_their_files(tmp_path: Path, name: str, lists: list, main: str) -> None:
    everything = make_corpus(tmp_path / "all", labels=4, per_label=4)
    ids = {"queries": range(0, 2), "gallery": range(2, 6), "distractors": range(6, 16)}
    corpora = {role: part_of(tmp_path / role, everything, some) for role, some in ids.items()}
    asked = [{"key": f"{n:06d}", "box": None, **of_query} for n, of_query in enumerate(lists)]
    add_ground_truth(corpora["queries"], {"protocol": name, "queries": asked, "gallery": None})
    path = ROOT / f"configs/evaluation/{name}.yaml"
    given = [f"{role}={corpora[role]}" for role in corpora if load(EvaluateConfig, [str(path)]).model_dump()[role]]
    found = EvaluationPlan.open(load(EvaluateConfig, [str(path), *given, f"out={tmp_path / 'out'}"]))
    assert {protocol.main for protocol in found.protocols} == {main}
    assert len(found.distractors) == len(given) - 2
    assert f"{found.protocols[0].name}: " in found.summary()


def test_further_metrics_are_asked_for_by_name(tmp_path: Path) -> None:
    gallery = make_corpus(tmp_path / "a")

    def metrics(*names: str) -> tuple[str, ...]:
        return EvaluationPlan.open(settings(tmp_path / "out", gallery=str(gallery), metrics=names)).protocols[0].metrics

    assert metrics("precision_at_1", "recall_at_1") == (*metrics(), "precision_at_1")
    with pytest.raises(UserError, match=r"metrics=precision: .*known are .*precision_at_K.*, and package.module:function"):
        metrics("precision")
    with pytest.raises(UserError, match=r"metrics=own\.precision cannot be imported .*expected package\.module:name"):
        metrics("own.precision")
