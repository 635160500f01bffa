"""The evaluation stage: plan, embed, seal, search and score, write. Whatever is done already is not done again."""

import platform
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from largescale.corpus.manifest import sha256_of
from largescale.corpus.reading import Corpus
from largescale.distributed import World
from largescale.evaluation.config import EvaluateConfig
from largescale.evaluation.ground_truth import ListedTruth, Published
from largescale.evaluation.plan import Plan
from largescale.evaluation.protocols import landmark_protocols
from largescale.evaluation.results import RESULTS, CorpusUsed, Results, read_results, write_results
from largescale.evaluation.search import search
from largescale.evaluation.store import Descriptors, describe, network_digest, seal, unit_rows
from largescale.evaluation.task import Described, Task
from largescale.models.network import RetrievalNet
from largescale.settings import UserError


@dataclass(frozen=True)
class Subject:
    """What is scored."""

    source: str
    digest: str
    metadata: Mapping[str, Any] = field(default_factory=dict)
    preprocess: Mapping[str, Any] = field(default_factory=dict)


def evaluate(
    network: RetrievalNet | Path,
    config: EvaluateConfig,
    world: World,
    should_stop: Callable[[], bool] = lambda: False,
) -> Results:
    """Score a network on the corpora of `config` and write the results to `config.out`.

    The network is left as it was, and so is the random state. Every rank of the world must call this with the same weights.

    Args:
        network: in memory, or a weights file.
        should_stop: asked by each rank for itself while it embeds; must not wait for other ranks.

    Returns:
        The same on every rank; what `config.out` holds where the same evaluation has been done before.

    Raises:
        UserError: corpora, ground truth or descriptors that cannot be scored.
        Stopped: `should_stop` said so; the same call goes on later.
    """
    source, metadata = "a network in memory", dict[str, Any]()
    if isinstance(network, Path):
        source = str(network)
        network, metadata = RetrievalNet.from_file(network)
        network.to(world.device)
    plan, seconds = Plan.open(config), dict[str, float]()
    subject = Subject(source, network_digest(network), metadata, _preprocess(config, network))
    done = world.decide(lambda: _take_done(config.out, subject, plan))
    if done is not None:
        return done
    store = config.store or config.out / "descriptors"
    sets = _sets(plan, store, subject, network.dim)
    with _clock(seconds, "embed"):
        for wanted in sets.values():
            describe(network, [wanted], config, world, should_stop)
    with _clock(seconds, "seal"):
        seal(list(sets.values()), world, config.out)
    results = _score(_task(plan, sets), subject, world, config.out, seconds)
    if config.store is None:
        world.decide(lambda: shutil.rmtree(store, ignore_errors=True))
    return results


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
    digest = sha256_of(config.descriptors)
    gallery = Described(CorpusUsed(str(config.descriptors), digest[:16], len(rows)), names, [rows])
    protocols = landmark_protocols(published.family, crop=False)
    task = Task(truth, protocols, lambda queries: rows[truth.query[queries]], gallery.used, names, gallery, [])
    return _score(task, Subject(str(config.descriptors), digest), world, config.out, {})


def _preprocess(config: EvaluateConfig, network: RetrievalNet) -> dict[str, Any]:
    """What decides, beside the query's box, which numbers the network sees."""
    device = next(network.parameters()).device.type
    images = config.images.model_dump(mode="json", include={"size", "fit"})
    return {**images, "precision": "bfloat16" if device == "cuda" else "float32"}


def _take_done(out: Path, subject: Subject, plan: Plan) -> Results | None:
    """The results in `out`, where they are of this network, preprocessing, corpora and protocols; others are removed."""
    if not (out / RESULTS).exists():
        return None
    results = read_results(out)
    corpora = [results.gallery, results.queries, *results.distractors]
    found = (results.digest, results.preprocess, [used.fingerprint for used in corpora], [p.hash for p in results.protocols])
    wanted = [corpus.manifest.fingerprint for corpus in (plan.gallery, plan.queries, *plan.distractors)]
    if found == (subject.digest, subject.preprocess, wanted, [protocol.hash for protocol in plan.protocols]):
        return results
    (out / RESULTS).unlink()
    return None


def _sets(plan: Plan, store: Path, subject: Subject, dim: int) -> dict[str, Descriptors]:
    """Everything that must be described, by its role; distractors are shared by all evaluations of the network."""
    identity = {"network": subject.digest, "preprocess": subject.preprocess}
    sets = {"gallery": Descriptors(store, plan.gallery, identity, dim)}
    if not plan.leave_one_out:
        order = np.argsort(plan.truth.query)
        boxes = None if plan.boxes is None else plan.boxes[order]
        sets["queries"] = Descriptors(store, plan.queries, identity, dim, 1.0, plan.truth.query[order], boxes)
    return sets | {f"distractors {i}": Descriptors(store, corpus, identity, dim) for i, corpus in enumerate(plan.distractors)}


def _task(plan: Plan, sets: Mapping[str, Descriptors]) -> Task:
    gallery, *distractors = (_described(wanted) for role, wanted in sets.items() if role != "queries")
    asked = sets["gallery" if plan.leave_one_out else "queries"]
    parts = asked.parts()
    start = np.cumsum([0, *map(len, parts)])
    position = np.searchsorted(asked.ids, plan.truth.query)  # (queries,)

    def rows(queries: slice) -> np.ndarray:
        part = np.searchsorted(start, position[queries], "right") - 1
        return np.stack([parts[p][i - start[p]] for p, i in zip(part, position[queries], strict=True)])

    return Task(plan.truth, plan.protocols, rows, _used(plan.queries), plan.queries.manifest.keys, gallery, distractors)


def _described(wanted: Descriptors) -> Described:
    return Described(_used(wanted.corpus), wanted.manifest.keys, wanted.parts())


def _used(corpus: Corpus) -> CorpusUsed:
    return CorpusUsed(corpus.manifest.storage.location, corpus.manifest.fingerprint, len(corpus.manifest))


def _score(task: Task, subject: Subject, world: World, out: Path, seconds: dict[str, float]) -> Results:
    with _clock(seconds, "search"):
        protocols = search(task, world, out)
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
