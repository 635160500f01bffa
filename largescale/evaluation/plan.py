"""What an evaluation will score on what: corpora, ground truth and protocols that fit together."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow.compute as pc

from largescale.corpus.corpus import Corpus
from largescale.evaluation.config import EvaluateConfig
from largescale.evaluation.protocol.ground_truth import LabelTruth, ListedTruth, Published, Truth, labels_in_gallery
from largescale.evaluation.protocol.metrics import metric_of
from largescale.evaluation.protocol.protocols import (
    INSHOP,
    LABELS,
    LEAVE_ONE_OUT,
    UKBENCH,
    WITHIN_GALLERY,
    Protocol,
    landmark_protocols,
)
from largescale.settings import UserError

SOME = 0.1
"""Share of the queries that may have a copy in the gallery: published sets have a few."""


@dataclass(frozen=True)
class EvaluationPlan:
    """An evaluation before it begins."""

    gallery: Corpus
    queries: Corpus
    distractors: Sequence[Corpus]
    truth: Truth
    family: str
    """The name of the protocol before its levels."""
    protocols: Sequence[Protocol]
    boxes: np.ndarray | None
    """`(queries, 4)` regions in stored pixels that are described, in the order of the truth; None: whole images."""
    whitening: Corpus | None
    """What whitening is fitted on."""

    @staticmethod
    def open(config: EvaluateConfig) -> "EvaluationPlan":
        """Open the corpora and resolve the ground truth.

        Raises:
            UserError: no gallery; a ground truth that does not fit the corpora or the protocol that was asked for.
        """
        if config.gallery is None:
            raise UserError("gallery is not set: nothing to search; give gallery=CORPUS (make shards builds one)")
        gallery = Corpus.open(config.gallery, config.storage)
        queries = _queries(config, gallery)
        distractors = [Corpus.open(location, config.storage) for location in config.distractors]
        whitening = Corpus.open(config.whitening_corpus, config.storage) if config.whitening_corpus else None
        published = _published(config, queries, gallery)
        if published is None:
            of_labels = config.protocol if config.protocol in OF_LABELS else "labels"
            truth, protocols = OF_LABELS[of_labels](gallery, queries)
            protocols = with_further_metrics(protocols, config.metrics)
            return EvaluationPlan(gallery, queries, distractors, truth, of_labels, protocols, None, whitening)
        listed = ListedTruth(published, gallery.manifest.keys, queries.manifest.keys)
        boxes = _boxes(listed, queries) if config.crop and any(listed.boxes) else None
        family = published.family if config.protocol == "auto" else config.protocol
        protocols = with_further_metrics(landmark_protocols(family, config.crop), config.metrics)
        return EvaluationPlan(gallery, queries, distractors, listed, family, protocols, boxes, whitening)

    @property
    def leave_one_out(self) -> bool:
        """Whether the queries are the images of the gallery."""
        return isinstance(self.truth, LabelTruth) and self.truth.leave_one_out

    def summary(self) -> str:
        """What a dry run prints."""
        corpora = [("gallery", self.gallery), ("queries", self.queries), *(("distractors", c) for c in self.distractors)]
        corpora += [("whitening", self.whitening)] if self.whitening else []
        lines = [f"{role:12}{len(c.manifest):>12,} images   {c.manifest.storage.location}" for role, c in corpora]
        lines.append(f"{'asked':12}{len(self.truth.query):>12,} queries of {len(set(self.truth.cluster)):,} landmarks or labels")
        return "\n".join([*lines, *(f"{protocol.name}: {protocol.rules}" for protocol in self.protocols)])


def _queries(config: EvaluateConfig, gallery: Corpus) -> Corpus:
    """The corpus of the queries: the gallery itself where it holds the same images, which then leave themselves out."""
    if config.queries is None:
        return gallery
    queries = Corpus.open(config.queries, config.storage)
    same = queries.manifest.fingerprint == gallery.manifest.fingerprint
    return gallery if same else queries


def _own_rows(gallery: Corpus, queries: Corpus) -> np.ndarray:
    """`(queries,)` row of the gallery with the key and the bytes of each image, else -1: one list made both corpora."""
    row = pc.fill_null(pc.index_in(queries.manifest.keys, value_set=gallery.manifest.keys), -1).to_numpy(zero_copy_only=False)
    same = (row >= 0) & (gallery.manifest.checksum[row] == queries.manifest.checksum)
    return np.where(same, row, -1).astype(np.int64)


def _check_copies(gallery: Corpus, queries: Corpus, own: np.ndarray) -> None:
    """Raise UserError where most queries would find their own image: the two corpora were cut from the same images."""
    copies = np.flatnonzero(np.isin(queries.manifest.checksum, gallery.manifest.checksum) & (own < 0))
    if len(copies) <= SOME * len(queries.manifest):
        return
    key = queries.manifest.keys[int(copies[0])].as_py()
    raise UserError(
        f"{len(copies):,} of {len(queries.manifest):,} query images are in the gallery too (the first is {key}): each would find "
        "itself first, and the score would say nothing; take them out of one of the two, or give the gallery alone, whose images "
        "leave themselves out"
    )


def _published(config: EvaluateConfig, queries: Corpus, gallery: Corpus) -> Published | None:
    """The ground truth that comes with the queries, else with the gallery; None where labels are scored."""
    if config.protocol in OF_LABELS:
        return None
    for corpus in (queries, gallery):
        values = corpus.manifest.ground_truth
        if values is not None:
            published = Published.parse(values, f"{corpus.manifest.storage.location}/ground_truth.json")
            if not published.may_be(config.protocol):
                raise UserError(
                    f"protocol={config.protocol}, but {corpus.manifest.name} has a ground truth of {published.family}"
                )
            return published
    if config.protocol != "auto":
        raise UserError(f"protocol={config.protocol}, but neither queries nor gallery have a ground truth; try protocol=labels")
    return None


def _label_truth(gallery: Corpus, queries: Corpus) -> tuple[Truth, Sequence[Protocol]]:
    names = gallery.manifest.label_names
    if queries is gallery:
        return LabelTruth(gallery.manifest.label, gallery.manifest.label, names.to_pylist(), True), [LEAVE_ONE_OUT]
    own = _own_rows(gallery, queries)
    _check_copies(gallery, queries, own)
    theirs = queries.manifest.label_names
    labels = labels_in_gallery(queries.manifest.label, theirs, names)
    every = [*names.to_pylist(), *theirs.to_pylist()]
    protocol = WITHIN_GALLERY if (own >= 0).any() else LABELS
    return LabelTruth(labels, gallery.manifest.label, every, False, own), [protocol]


def _inshop_truth(gallery: Corpus, queries: Corpus) -> tuple[Truth, Sequence[Protocol]]:
    """Queries are other views of the items of the gallery."""
    if queries is gallery or (_own_rows(gallery, queries) >= 0).any():
        raise UserError(
            "protocol=inshop asks with views that are not in the gallery; give the two corpora that make shards builds of it: "
            "queries=OUT/query gallery=OUT/gallery"
        )
    return _label_truth(gallery, queries)[0], [INSHOP]


def _ukbench_truth(gallery: Corpus, queries: Corpus) -> tuple[Truth, Sequence[Protocol]]:
    """Objects are labels of four images; every image is a query."""
    labels = gallery.manifest.label
    others = np.flatnonzero(np.bincount(labels + 1, minlength=1)[1:] != 4)
    if queries is not gallery or labels.min(initial=0) < 0 or len(others):
        found = f"found {len(others):,} of another size" if len(others) else "give one gallery, all labeled, and no queries"
        raise UserError(f"protocol=ukbench: each image asks for the 4 of its label, so labels have 4 images; {found}")
    return LabelTruth(labels, labels, gallery.manifest.label_names.to_pylist(), True), [UKBENCH]


OF_LABELS: Mapping[str, Callable[[Corpus, Corpus], tuple[Truth, Sequence[Protocol]]]] = {
    "labels": _label_truth,
    "inshop": _inshop_truth,
    "ukbench": _ukbench_truth,
}
"""What is right where labels say it, by the name of the protocol."""


def _boxes(truth: ListedTruth, queries: Corpus) -> np.ndarray:
    """Boxes within their images; the whole image for queries without one."""
    sizes = np.stack([queries.manifest.width[truth.query], queries.manifest.height[truth.query]], axis=1)
    whole = np.concatenate([np.zeros_like(sizes), sizes], axis=1)
    boxes = np.array([box or full for box, full in zip(truth.boxes, whole.tolist(), strict=True)], dtype=np.float64)
    boxes = boxes.clip(0, np.tile(sizes, 2))
    empty = np.flatnonzero((boxes[:, 2:] - boxes[:, :2] < 1).any(axis=1))
    if len(empty):
        key = queries.manifest.keys[int(truth.query[empty[0]])].as_py()
        raise UserError(f"the box of query {key} is {truth.boxes[empty[0]]}, outside its image; run make shards again")
    return boxes


def with_further_metrics(protocols: Sequence[Protocol], metrics: Sequence[str]) -> list[Protocol]:
    """The protocols, scored by these metrics besides their own.

    Raises:
        UserError: there is no such metric.
    """
    for name in metrics:
        metric_of(name)
    return [replace(protocol, metrics=tuple(dict.fromkeys((*protocol.metrics, *metrics)))) for protocol in protocols]
