"""The evaluation stage: plan, embed, seal, search, score. Whatever is done already is not done again."""

import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import torch

from largescale.corpus.corpus import Corpus
from largescale.corpus.manifest import sha256_of
from largescale.distributed import World
from largescale.evaluation.config import SCALES, EvaluateConfig, ScoreConfig
from largescale.evaluation.descriptors.derived import derive, digest_of
from largescale.evaluation.descriptors.fitting import fitted, images_to_fit
from largescale.evaluation.descriptors.sizes import check_sizes
from largescale.evaluation.descriptors.store import SEALED, Descriptors, describe, network_digest, seal, unit_rows
from largescale.evaluation.plan import Plan
from largescale.evaluation.protocol.ground_truth import ListedTruth, Published
from largescale.evaluation.protocol.protocols import landmark_protocols
from largescale.evaluation.results import RESULTS, CorpusUsed, ProtocolResult, Results, read_results, write_results
from largescale.evaluation.search.search import Search
from largescale.evaluation.task import Described, Rows, Task
from largescale.models.metric import COSINE, Space
from largescale.models.network import RetrievalNet
from largescale.models.transform import Transform
from largescale.settings import UserError

Network = RetrievalNet | Path
Scales = Sequence[Descriptors]
T = TypeVar("T")
TYPICAL = 10_000
"""Rows from which a typical length is taken."""


@dataclass(frozen=True)
class Subject:
    """What is scored."""

    source: str
    digest: str
    metadata: Mapping[str, Any] = field(default_factory=dict)
    preprocess: Mapping[str, Any] = field(default_factory=dict)


def evaluate(network: Network, config: EvaluateConfig, world: World, should_stop: Callable[[], bool] = lambda: False) -> Results:
    """Score a network on the corpora of `config` and write the results to `config.out`.

    The network is left as it was, and so is the random state. Every rank of the world must call this with the same weights.

    Args:
        network: in memory, or a weights file.
        should_stop: asked by each rank for itself while it embeds and searches; must not wait for other ranks.

    Returns:
        The same on every rank; what `config.out` holds where the same evaluation has been done before.

    Raises:
        UserError: corpora, ground truth or descriptors that cannot be scored.
        Stopped: `should_stop` said so; the same call goes on later.
    """
    stage = Stage.open(network, config, world, should_stop)
    done = stage.done()
    if done is not None:
        return done
    stage.embed()
    stage.seal()
    stage.search()
    return stage.score()


def embed_task(network: Network, config: EvaluateConfig, world: World, should_stop: Callable[[], bool] = lambda: False) -> Task:
    """What an evaluation searches, embedded, sealed and transformed but not scored; the descriptors stay in the store.

    Raises:
        UserError, Stopped: as `evaluate`.
    """
    stage = Stage.open(network, config, world, should_stop)
    stage.embed()
    stage.seal()
    return stage.task


@dataclass(frozen=True)
class Stage:
    """The steps of an evaluation, each of which goes on where it was stopped."""

    config: EvaluateConfig
    world: World
    plan: Plan
    network: RetrievalNet
    subject: Subject
    should_stop: Callable[[], bool]
    seconds: dict[str, float] = field(default_factory=dict)

    @staticmethod
    def open(network: Network, config: EvaluateConfig, world: World, should_stop: Callable[[], bool]) -> "Stage":
        source, metadata = "a network in memory", dict[str, Any]()
        if isinstance(network, Path):
            source = str(network)
            network, metadata = RetrievalNet.from_file(network)
            network.to(world.device)
        _check_metric(network, config)
        subject = Subject(source, network_digest(network), metadata, _preprocess(config, network))
        return Stage(config, world, Plan.open(config), network, subject, should_stop)

    @property
    def unit(self) -> bool:
        """Whether descriptors have length 1."""
        return self.network.metric == "cosine"

    @property
    def store(self) -> Path:
        return self.config.store or self.config.out / "descriptors"

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
        identity = {"network": self.subject.digest, "preprocess": self.subject.preprocess}
        scales = SCALES[self.config.scales]
        return [Descriptors(self.store, corpus, identity, self.network.dim, scale, ids, boxes, self.unit) for scale in scales]

    def embed(self) -> None:
        """Describe the images that are not described yet.

        Raises:
            UserError: images, or boxes of queries, that are too small for the network.
            Stopped: a stop was asked for; what is committed stays.
        """
        with _clock(self.seconds, "embed"):
            self.check_sizes()
            for scales in self.sets.values():
                describe([self.network] * len(scales), scales, self.config, self.world, self.should_stop)

    def check_sizes(self) -> None:
        """Raises: UserError: images, or boxes of queries, that are too small for the network at some scale."""
        for scales in self.sets.values():
            self.world.decide(partial(check_sizes, self.network, scales, self.config.images))

    def seal(self) -> None:
        """Check every row once.

        Raises:
            UserError: the list of what is missing or faulty.
        """
        with _clock(self.seconds, "seal"):
            seal([described for scales in self.sets.values() for described in scales], self.world, self.config.out)

    def search(self) -> None:
        """Count, for each query, what stands before its positives; keep its best rows."""
        with _clock(self.seconds, "search"):
            self._search.run(self.world, self.should_stop)

    def score(self) -> Results:
        """From the counts on disk to `results.json`; the same on every rank."""
        search = self._search
        protocols = _timed(self.seconds, "score", lambda: self.world.decide(lambda: search.score(self.config.out)))
        return _publish(self.task, protocols, self.subject, self.settings, self.tuned, self.world, self.config.out, self.seconds)

    def measure(self) -> list[ProtocolResult]:
        """The scores alone, for studies: no records, and no more of a query's best rows than expansion needs."""
        expansion = self.rules.query_expansion
        search = replace(self._search, kept=expansion.neighbors + 1 if expansion else 1)
        search.run(self.world, self.should_stop)
        return self.world.decide(search.score)

    def done(self) -> Results | None:
        """The results in OUT, where they are of this network, preprocessing, corpora, settings and protocols."""
        return self.world.decide(self._take_done)

    @property
    def tuned(self) -> bool:
        return self.plan.family in self.config.tuned

    @property
    def rules(self) -> ScoreConfig:
        return self.config.rules(self.plan.family)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What happens between descriptors and scores, as the results say it."""
        corpus = self.plan.whitening.manifest.fingerprint if self.plan.whitening and self.rules.whitening != "none" else None
        exponent = self.network.scale_exponent if self.rules.exponent == "auto" else self.rules.exponent
        more = {
            "metric": self.network.metric,
            "scales": list(SCALES[self.config.scales]),
            "exponent": exponent,
            "whitening_corpus": corpus,
        }
        return {**self.rules.model_dump(mode="json"), **more}

    @cached_property
    def transform(self) -> Transform:
        exponent, kind = self.settings["exponent"], self.rules.whitening
        if kind == "none":
            return Transform(exponent, unit=self.unit)
        scales = self.sets["whitening"]
        parts = self._transformed(scales, Transform(exponent))
        path = self.store / f"whitening-{digest_of(kind, exponent, [described.directory.name for described in scales])}.npz"
        whitening = fitted(path, kind, scales[0].manifest, scales[0].ids, parts, self.world)
        return Transform(exponent, whitening, self.rules.dim)

    def _transformed(self, scales: Scales, transform: Transform) -> Sequence[np.ndarray]:
        """`(n_i, D)` rows of each shard."""
        if len(scales) == 1 and transform.whitening is None:
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
    def _search(self) -> Search:
        names = {role: [described.directory.name for described in scales] for role, scales in self.sets.items()}
        return Search(self.task, self.rules, self.store, digest_of(names, self.transform.digest))

    def _take_done(self) -> Results | None:
        """Results of something else are removed."""
        if not (self.config.out / RESULTS).exists():
            return None
        plan, results = self.plan, read_results(self.config.out)
        used = [results.gallery, results.queries, *results.distractors]
        found = [results.digest, results.preprocess, [corpus.fingerprint for corpus in used], results.score, results.tuned]
        wanted = [corpus.manifest.fingerprint for corpus in (plan.gallery, plan.queries, *plan.distractors)]
        hashes = [protocol.hash for protocol in plan.protocols]
        asked = [self.subject.digest, self.subject.preprocess, wanted, self.settings, self.tuned]
        if (found, [protocol.hash for protocol in results.protocols]) == (asked, hashes):
            return results
        (self.config.out / RESULTS).unlink()
        return None


def _check_metric(network: RetrievalNet, config: EvaluateConfig) -> None:
    whitened = any(score.whitening != "none" for score in (config.score, *config.tuned.values()))
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


def _rows(parts: Sequence[np.ndarray], position: np.ndarray) -> Rows:
    """Descriptors of queries by their number; `position` `(queries,)` is that of each among the rows."""
    start = np.cumsum([0, *map(len, parts)])

    def rows(queries: slice) -> np.ndarray:
        part = np.searchsorted(start, position[queries], "right") - 1
        return np.stack([parts[p][i - start[p]] for p, i in zip(part, position[queries], strict=True)])

    return rows


def evaluate_descriptors(config: EvaluateConfig, published: Published, world: World) -> Results:
    """Score a file of descriptors, whose rows have names, on a published ground truth. The queries are rows of it too.

    Raises:
        UserError: names, rows and ground truth do not fit together; rows that are not finite, or zero.
    """
    assert config.descriptors is not None
    assert config.names is not None
    if not published.may_be(config.protocol):
        raise UserError(f"protocol={config.protocol}, but {config.ground_truth} is a ground truth of {published.family}")
    world.decide(lambda: (config.out / RESULTS).unlink(missing_ok=True))
    names = pa.array(config.names.read_text().split(), pa.large_string())
    rows = _read_rows(config.descriptors, names)
    truth = ListedTruth(published, names, names)
    digest, seconds = sha256_of(config.descriptors), dict[str, float]()
    gallery = Described(CorpusUsed(str(config.descriptors), digest[:16], len(rows)), names, [rows])
    family = published.family if config.protocol == "auto" else config.protocol
    task = Task(
        truth, landmark_protocols(family, False), lambda queries: rows[truth.query[queries]], gallery.used, names, gallery, []
    )
    rules = config.rules(family)
    search = Search(task, rules, config.store or config.out / "descriptors", digest)
    with _clock(seconds, "search"):
        search.run(world)
    protocols = _timed(seconds, "score", lambda: world.decide(lambda: search.score(config.out)))
    subject, settings = Subject(str(config.descriptors), digest), rules.model_dump(mode="json")
    return _publish(task, protocols, subject, settings, family in config.tuned, world, config.out, seconds)


def _preprocess(config: EvaluateConfig, network: RetrievalNet) -> dict[str, Any]:
    """What decides, beside the query's box, which numbers the network sees."""
    device = next(network.parameters()).device.type
    images = config.images.model_dump(mode="json", include={"size", "fit"})
    return {**images, "precision": "bfloat16" if device == "cuda" else "float32"}


def _used(corpus: Corpus) -> CorpusUsed:
    return CorpusUsed(corpus.manifest.storage.location, corpus.manifest.fingerprint, len(corpus.manifest))


def _publish(
    task: Task,
    protocols: list[ProtocolResult],
    subject: Subject,
    settings: Mapping[str, Any],
    tuned: bool,
    world: World,
    out: Path,
    seconds: dict[str, float],
) -> Results:
    results = Results(
        source=subject.source,
        digest=subject.digest,
        metadata=subject.metadata,
        preprocess=subject.preprocess,
        gallery=task.gallery.used,
        queries=task.queries,
        distractors=[described.used for described in task.distractors],
        protocols=protocols,
        machine=_machine(world),
        seconds=world.decide(lambda: seconds),
        score=settings,
        tuned=tuned,
    )
    world.decide(lambda: write_results(out, results))
    return results


def _machine(world: World) -> dict[str, Any]:
    device = torch.cuda.get_device_name(world.device) if world.device.type == "cuda" else platform.processor() or "cpu"
    return {"processes": world.size, "device": device, "torch": torch.__version__, "numpy": np.__version__}


@contextmanager
def _clock(seconds: dict[str, float], name: str) -> Iterator[None]:
    start = time.monotonic()
    yield
    seconds[name] = round(time.monotonic() - start, 3)


def _timed(seconds: dict[str, float], name: str, work: Callable[[], T]) -> T:
    with _clock(seconds, name):
        return work()


def _read_rows(path: Path, names: pa.Array) -> np.ndarray:
    """`(N, D)` float32 rows of unit length."""
    try:
        stored = np.load(path, mmap_mode="r")
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as a .npy file of numbers ({error})") from None
    if stored.ndim != 2 or len(stored) != len(names):
        raise UserError(
            f"{path} has shape {stored.shape}, but there are {len(names):,} names; rows and names do not belong together"
        )
    rows = np.array(stored, dtype=np.float32)
    with np.errstate(invalid="ignore", divide="ignore"):
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    faulty = np.flatnonzero(~unit_rows(rows))
    if len(faulty):
        some = ", ".join(names[int(row)].as_py() for row in faulty[:20])
        raise UserError(f"no score: {len(faulty):,} rows of {path} are zero or not finite: {some}")
    return rows
