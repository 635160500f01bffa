"""What the steps of an evaluation share: the corpora, the network, and what is described, transformed and searched."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np

from largescale.commit import claim_folder
from largescale.corpus.corpus import Corpus
from largescale.distributed import World
from largescale.embedding import Embedder
from largescale.evaluation.config import FITTED, SCALES, EvaluateConfig, ScoreConfig
from largescale.evaluation.descriptors.derived import derive, digest_of
from largescale.evaluation.descriptors.fitting import fitted, images_to_fit
from largescale.evaluation.descriptors.store import SEALED, Descriptors, network_digest
from largescale.evaluation.plan import EvaluationPlan
from largescale.evaluation.results import CorpusUsed
from largescale.evaluation.scoring.query_search import QuerySearch
from largescale.evaluation.search.verification import Photographs, Verifier
from largescale.evaluation.search.visiting import checked_anchors
from largescale.evaluation.task import Described, QueryRows, Task
from largescale.models.metric import COSINE, Space
from largescale.models.network import RetrievalNet
from largescale.models.sharing.folder import Contents
from largescale.models.sharing.sources import Source, of_network, open_contents, told
from largescale.models.transform.fused import as_computed, ways_of
from largescale.models.transform.transform import Transform
from largescale.models.whitening import Whitening
from largescale.precision import Resolved, agreed
from largescale.program.extras import cv2
from largescale.program.inputs import seen_by
from largescale.settings import UserError

Network = RetrievalNet | Contents | Source
"""In memory, alone or with all that its descriptors depend on, or what `open_contents` opens."""
Scales = Sequence[Descriptors]
IN_MEMORY = "a network in memory"
TYPICAL = 10_000
"""Rows from which a typical length is taken."""


@dataclass(frozen=True)
class Subject:
    """What is scored."""

    source: str
    digest: str
    metadata: Mapping[str, Any] = field(default_factory=dict)
    preprocess: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Context:
    """An evaluation that was opened; the steps in `stage` take it one after the other."""

    config: EvaluateConfig
    world: World
    plan: EvaluationPlan
    contents: Contents
    """The network, and how it describes an image where `config` does not say otherwise."""
    subject: Subject
    way: str
    """In which the network is computed: the ways are equal to rounding, and not to the bit."""
    should_stop: Callable[[], bool]
    seconds: dict[str, float] = field(default_factory=dict)
    """Of each step that was taken."""

    @staticmethod
    def open(network: Network, config: EvaluateConfig, world: World, should_stop: Callable[[], bool]) -> "Context":
        if isinstance(network, RetrievalNet):
            network = of_network(network, {})
        if isinstance(network, Contents):
            source, contents = IN_MEMORY, network
        else:
            source = told(network)
            contents, _ = open_contents(network, multiscale=config.scales not in (None, "single"))
            contents.network.to(world.device)
        _check_metric(contents.network, config)
        _check_dimensions(contents, config)
        _check_libraries(config)
        config = _as_described(config, contents)
        seen = _preprocess(config, world)
        subject = Subject(source, network_digest(contents.network), contents.about, seen)
        way = ways_of(as_computed(contents.network, seen["precision"], world.device), world)
        world.decide(lambda: claim_folders(config))
        return Context(config, world, EvaluationPlan.open(config), contents, subject, way, should_stop)

    @property
    def network(self) -> RetrievalNet:
        return self.contents.network

    @property
    def in_memory(self) -> bool:
        """Whether the network belongs to somebody who goes on with it."""
        return self.subject.source == IN_MEMORY

    @property
    def precision(self) -> Resolved:
        """In which descriptors are computed, whatever `config` says."""
        return cast("Resolved", self.subject.preprocess["precision"])

    @property
    def unit(self) -> bool:
        """Whether descriptors have length 1."""
        return self.network.metric == "cosine"

    @property
    def embedder(self) -> Embedder:
        """Of whole passes: ranks own shards."""
        config = self.config
        return Embedder(
            config.images, config.batch_size, config.loader, self.world.device, self.precision, should_stop=self.should_stop
        )

    @property
    def store(self) -> Path:
        return store_of(self.config)

    @cached_property
    def sets(self) -> Mapping[str, Scales]:
        """Everything that must be described, by its role; distractors are shared by all evaluations of the network."""
        plan, sets = self.plan, {"gallery": self._scales(self.plan.gallery)}
        if not plan.leave_one_out:
            order = np.argsort(plan.truth.query)
            boxes = None if plan.boxes is None else plan.boxes[order]
            sets["queries"] = self._scales(plan.queries, plan.truth.query[order], boxes)
        sets |= {f"distractors {i}": self._scales(corpus) for i, corpus in enumerate(plan.distractors)}
        if plan.whitening is not None:
            ids = images_to_fit(plan.whitening.manifest, self.config.whitening_images)
            sets["whitening"] = self._scales(plan.whitening, ids)
        return sets

    def _scales(self, corpus: Corpus, ids: np.ndarray | None = None, boxes: np.ndarray | None = None) -> Scales:
        identity = {"network": self.subject.digest, "preprocess": self.subject.preprocess, "computed": self.way}
        return [
            Descriptors(self.store, corpus, identity, self.network.dim, scale, ids, boxes, self.unit) for scale in self.scales
        ]

    @property
    def scales(self) -> tuple[float, ...]:
        return self.contents.settings.scales if self.config.scales is None else SCALES[self.config.scales]

    @property
    def tuned(self) -> bool:
        return self.plan.family in self.config.tuned

    @property
    def rules(self) -> ScoreConfig:
        return self.config.rules(self.plan.family)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What happens between descriptors and scores, as the results say it."""
        rules, own = self.rules, self.contents.settings
        corpus = self.plan.whitening.manifest.fingerprint if self.plan.whitening and rules.is_fitted else None
        of_scales = own.exponent if self.scales == own.scales else self.network.scale_exponent
        more: dict[str, Any] = {
            "metric": self.network.metric,
            "scales": list(self.scales),
            "exponent": of_scales if rules.exponent == "auto" else rules.exponent,
            "whitening_corpus": corpus,
        }
        if rules.whitening == "own":
            more |= {"whitening": own.whitening, "dim": self._kept}
        if self._own is not None:
            more |= {"whitening_corpus": f"of the model, {self.contents.transform.digest}"}
        return {**rules.model_dump(mode="json"), **more}

    @property
    def _own(self) -> Whitening | None:
        """The whitening of the model, where it is asked for and there is one."""
        return self.contents.whitening if self.rules.whitening == "own" else None

    @property
    def _kept(self) -> int | None:
        """Dimensions that are kept; None: all."""
        own = self.contents.settings.dim if self.rules.whitening == "own" else self.network.dim
        return self.rules.dim or (None if own == self.network.dim else own)

    @cached_property
    def transform(self) -> Transform:
        exponent, kind = self.settings["exponent"], self.rules.whitening
        if kind not in FITTED:
            return Transform(exponent, self._own, self._kept, self.unit)
        scales = self.sets["whitening"]
        parts = self._transformed(scales, Transform(exponent))
        path = self.store / f"whitening-{digest_of(kind, exponent, [described.directory.name for described in scales])}.npz"
        whitening = fitted(path, kind, scales[0].manifest, scales[0].ids, parts, self.world)
        return Transform(exponent, whitening, self.rules.dim)

    def _transformed(self, scales: Scales, transform: Transform) -> Sequence[np.ndarray]:
        """`(n_i, D)` rows of each shard."""
        if len(scales) == 1 and not transform.changes:
            return scales[0].parts()
        stored, dtype = [described.parts() for described in scales], scales[0].dtype
        key = digest_of(transform.digest, [described.directory.name for described in scales])
        directory = self.store / f"{scales[0].manifest.name}-transformed-{key}"

        def of_shard(number: int) -> np.ndarray:
            return transform([parts[number] for parts in stored]).astype(dtype)

        return derive(directory, len(stored[0]), of_shard, self.world)

    @cached_property
    def task(self) -> Task:
        """Raises: UserError where something is not sealed."""
        self.world.decide(self._check_sealed)
        plan = self.plan
        parts = {role: self._transformed(scales, self.transform) for role, scales in self.sets.items() if role != "whitening"}
        gallery, *distractors = (
            Described(_used(self.sets[role][0].corpus), self.sets[role][0].manifest.keys, rows)
            for role, rows in parts.items()
            if role != "queries"
        )
        asked = "gallery" if plan.leave_one_out else "queries"
        rows = _rows(parts[asked], np.searchsorted(self.sets[asked][0].ids, plan.truth.query))
        queries, space = _used(plan.queries), COSINE if self.unit else self.world.decide(lambda: _space(gallery.parts))
        return Task(plan.truth, plan.protocols, rows, queries, plan.queries.manifest.keys, gallery, distractors, space)

    def _check_sealed(self) -> None:
        for directory in (described.directory for scales in self.sets.values() for described in scales):
            if not (directory / SEALED).exists():
                raise UserError(f"{directory} is not sealed, so there is no score: run the steps embed and seal first")

    @cached_property
    def search(self) -> QuerySearch:
        names = {role: [described.directory.name for described in scales] for role, scales in self.sets.items()}
        anchors = self.world.decide(self._anchors)
        filed = None if anchors is None else hashlib.sha256(anchors.tobytes()).hexdigest()
        identity = digest_of(names, self.transform.digest, filed)
        return QuerySearch(self.task, self.rules, self.store, identity, anchors=anchors, verifier=self._verifier())

    def _verifier(self) -> Verifier | None:
        if self.rules.verification is None:
            return None
        plan = self.plan
        images = Photographs(plan.queries, plan.truth.query, plan.boxes, (plan.gallery, *plan.distractors))
        return Verifier(self.rules.verification, images, self.store, self.world, self.should_stop)

    def _anchors(self) -> np.ndarray | None:
        """`(C, D)` of a two-stage search; by default those of the model."""
        if self.rules.two_stage is None:
            return None
        return checked_anchors(self.anchors(self.rules.two_stage.anchors), self.network.dim, self.task.space)

    def anchors(self, file: Path | None) -> np.ndarray:
        """`(C, D)` those of a file, or of the model, as they are.

        Raises:
            UserError: there are none.
        """
        if file is not None:
            if not file.exists():
                raise UserError(f"there is no file of anchors {file}: give anchors=FILE.npy, (C, {self.network.dim})")
            return np.load(file)
        if self.contents.anchors is None:
            raise UserError(
                f"{self.subject.source} has no class anchors: train with loss.name=class_anchor, or give anchors=FILE.npy"
            )
        return self.contents.anchors.numpy()


def store_of(config: EvaluateConfig) -> Path:
    return config.store or config.out / "descriptors"


def claim_folders(config: EvaluateConfig) -> None:
    """Raises: UserError: the folder of the results, or of the descriptors, holds something that is not ours."""
    claim_folder(config.out, "evaluation", "out=")
    claim_folder(store_of(config), "descriptors", "store=")


def _as_described(config: EvaluateConfig, contents: Contents) -> EvaluateConfig:
    """Images and numbers as the model has them where `config` says nothing."""
    own, images = contents.settings, config.images
    values = {name: getattr(images, name) or getattr(own, name) for name in ("size", "fit", "interpolation")}
    precision = own.precision if config.precision == "auto" else config.precision
    seen = seen_by(contents.network.contract, images.model_copy(update=values))
    return config.model_copy(update={"images": seen, "precision": precision})


def _check_dimensions(contents: Contents, config: EvaluateConfig) -> None:
    network, own = contents.network, contents.settings
    for score in (config.score, *config.tuned.values()):
        most = own.dim if score.whitening == "own" else network.dim
        if (score.dim or 0) > most:
            raise UserError(f"score.dim={score.dim}: this network's descriptors have {most} dimensions; use {most} or fewer")
        whitened = score.is_fitted or (score.whitening == "own" and contents.whitening is not None)
        if score.dim not in (None, own.dim, *contents.about.get("matryoshka", ())) and not whitened:
            raise UserError(
                f"score.dim={score.dim}: the first dimensions of what is not whitened mean nothing, unless the network was "
                "trained to be cut there (loss.matryoshka); set score.whitening=pca or learned"
            )


def _check_libraries(config: EvaluateConfig) -> None:
    """Raises: UserError: a library that is first used when all is described is not installed."""
    if any(score.verification is not None for score in (config.score, *config.tuned.values())):
        _ = cv2.SIFT_create


def _check_metric(network: RetrievalNet, config: EvaluateConfig) -> None:
    whitened = any(score.is_fitted for score in (config.score, *config.tuned.values()))
    if network.metric == "l2" and whitened:
        raise UserError(
            "score.whitening makes unit rows, but this network's descriptors are compared by distance (model.metric=l2), lengths "
            "included: use score.whitening=none"
        )


def _space(parts: Sequence[np.ndarray]) -> Space:
    """By the median length of rows that are spread evenly over the gallery."""
    stride = -(-max(1, sum(map(len, parts))) // TYPICAL)
    lengths = [np.linalg.norm(part[::stride].astype(np.float32), axis=1) for part in parts]
    return Space.of_length(float(np.median(np.concatenate(lengths))))


def _rows(parts: Sequence[np.ndarray], position: np.ndarray) -> QueryRows:
    """Descriptors of queries by their number; `position` `(queries,)` is that of each among the rows."""
    start = np.cumsum([0, *map(len, parts)])

    def rows(queries: slice) -> np.ndarray:
        part = np.searchsorted(start, position[queries], "right") - 1
        return np.stack([parts[p][i - start[p]] for p, i in zip(part, position[queries], strict=True)])

    return rows


def _preprocess(config: EvaluateConfig, world: World) -> dict[str, Any]:
    """What decides, beside the query's box, which numbers the network sees."""
    images = config.images.model_dump(mode="json", include={"size", "fit", "interpolation", "crop_share", "multiple", "least"})
    return {**images, "precision": agreed(config.precision, world)}


def _used(corpus: Corpus) -> CorpusUsed:
    return CorpusUsed(corpus.manifest.storage.location, corpus.manifest.fingerprint, len(corpus.manifest))
