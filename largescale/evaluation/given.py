"""Descriptors that others computed: a file of rows with names, scored on a published ground truth."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from largescale.corpus.decoding.keys import key_of_name
from largescale.corpus.manifest import sha256_of
from largescale.describing.result import open_rows, require_described
from largescale.distributed import World
from largescale.evaluation.config import EvaluateConfig
from largescale.evaluation.context import Subject, claim_folders, store_of
from largescale.evaluation.descriptors.store import unit_rows
from largescale.evaluation.protocol.ground_truth import ListedTruth, Published
from largescale.evaluation.protocol.protocols import landmark_protocols
from largescale.evaluation.report.publish import clock, publish, timed
from largescale.evaluation.results import RESULTS, CorpusUsed, Results
from largescale.evaluation.scoring.query_search import QuerySearch
from largescale.evaluation.task import Described, Task
from largescale.settings import UserError


def evaluate_descriptors(config: EvaluateConfig, published: Published, world: World) -> Results:
    """Score a file of descriptors, whose rows have names, on a published ground truth. The queries are rows of it too.

    Raises:
        UserError: names, rows and ground truth do not fit together; rows that are not finite, or zero.
    """
    assert config.descriptors is not None
    assert config.names is not None
    if not published.may_be(config.protocol):
        raise UserError(f"protocol={config.protocol}, but {config.ground_truth} is a ground truth of {published.family}")
    world.decide(lambda: claim_folders(config))
    world.decide(lambda: (config.out / RESULTS).unlink(missing_ok=True))
    names = pa.array(_read_names(config.names), pa.large_string())
    rows = _read_rows(config.descriptors, names)
    truth = ListedTruth(published, names, names)
    digest, seconds = sha256_of(config.descriptors), dict[str, float]()
    gallery = Described(CorpusUsed(str(config.descriptors), digest[:16], len(rows)), names, [rows])
    family = published.family if config.protocol == "auto" else config.protocol
    task = Task(
        truth, landmark_protocols(family, False), lambda queries: rows[truth.query[queries]], gallery.used, names, gallery, []
    )
    rules = config.rules(family)
    if rules.verification is not None:
        raise UserError("score.verification compares images, which a file of descriptors comes without: leave it out")
    search = QuerySearch(task, rules, store_of(config), digest)
    with clock(seconds, "search"):
        search.run(world)
    protocols = timed(seconds, "score", lambda: world.decide(lambda: search.score(config.out)))
    subject, settings = Subject(str(config.descriptors), digest), rules.model_dump(mode="json")
    return publish(task, protocols, subject, settings, family in config.tuned, world, config.out, seconds)


def _read_names(path: Path) -> list[str]:
    """Keys of the images, a line each, by the rule of the ground truth: with or without folders, suffixes and dots."""
    require_described(path)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as a text with the name of an image in each line ({error})") from None
    return [key_of_name(line.strip()) for line in lines if line.strip()]


def _read_rows(path: Path, names: pa.Array) -> np.ndarray:
    """`(N, D)` float32 rows of unit length."""
    stored = open_rows(path)
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
