"""What an evaluation found: dataclasses that are written to, and read from, `results.json` and `queries-PROTOCOL.jsonl`.

Ranks are zero-based and count the rows that are neither junk nor the query itself; distractors count as wrong.
Every field of `ProtocolResult` and `QueryRecord` describes the gallery with all distractors unless it says otherwise.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from largescale.commit import DamagedError, checksum_of, committed_file, read_json, write_json
from largescale.names import Component
from largescale.program.cli import for_torchrun
from largescale.settings import UserError

RESULTS = "results.json"
VERSION = 2

Mark = Literal["right", "wrong", "junk", "distractor", "self"]
Part = Literal["gallery", "distractors"]


@dataclass(frozen=True)
class Interval:
    """A mean over queries with its 95 % percentile-bootstrap interval, clustered by landmark or label. Fractions, not percent."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class CurvePoint:
    """All metrics with the first `distractors` distractors; the prefixes are nested."""

    distractors: int
    metrics: Mapping[str, Interval]


@dataclass(frozen=True)
class Histogram:
    """How often each similarity occurs, over all queries: bin i covers `edges[i]` to `edges[i + 1]`."""

    edges: list[float]
    positives: list[int]
    negatives: list[int]
    distractors: list[int]


@dataclass(frozen=True)
class PrecisionRecall:
    """Mean over queries of the precision at the place where each share of the positives has been found."""

    recall: list[float]
    precision: list[float]


@dataclass(frozen=True)
class Neighbor:
    """A row of a query's ranking, junk and the query's own image included."""

    id: int
    """Image id in its corpus."""
    key: str
    part: Part
    score: float
    mark: Mark
    corpus: int = 0
    """Which of `Results.distractors` the row is from; 0 for the gallery."""
    inliers: int | None = None
    """Local features that agree with the query's; None where they were not compared."""


@dataclass(frozen=True)
class Suspect:
    """A distractor that stands before a positive of two or more queries: perhaps it shows what was asked for."""

    row: Neighbor
    """As the query finds it in whose ranking it stands first."""
    place: int
    """There: zero-based, junk and the query's own image included."""
    queries: int
    """How many queries it stands before a positive of."""
    asked: list[int]
    """Some of them, by image id, the best places first."""


@dataclass(frozen=True)
class Suspects:
    """They are listed, and count as wrong all the same."""

    within: int
    """How many of the first rows of each query were looked at; what comes later is not known."""
    number: int
    """How many were found."""
    worst: list[Suspect]
    """Some of them; first those that reach the best places in two queries."""


@dataclass(frozen=True)
class Full:
    """What descriptors score before they are compressed."""

    metrics: Mapping[str, Interval]
    lost: Mapping[str, float]
    """Of each, by compression; below 0 where it gains."""


@dataclass(frozen=True)
class ProtocolResult:
    """One protocol's scores."""

    protocol: str
    version: int
    hash: str
    rules: str
    """The protocol in one sentence: positives, junk, crop, the query's own image, the AP rule."""
    main: str
    """The name of the metric that stands for the protocol, as in `metrics`."""
    queries: int
    without_positive: int
    """Queries that have no positive: they are in no mean."""
    clusters: int
    """Landmarks or labels over which the intervals are drawn."""
    gallery: int
    distractors: int
    metrics: Mapping[str, Interval]
    distractor_curve: list[CurvePoint]
    """From no distractor to all of them, in increasing order; the last point equals `metrics`."""
    histogram: Histogram
    precision_recall: PrecisionRecall
    suspects: Suspects
    records: Component | Literal[""]
    """The file of `QueryRecord` lines, beside `results.json`."""
    records_checksum: str = ""
    """XXH3 of that file."""
    incomplete: str | None = None
    """`4,961 of 5,063 images` where the gallery lacks some of its benchmark: what was scored is no score of it."""
    full: Full | None = None
    """Of the full descriptors, where compressed ones are scored (score.compression)."""


@dataclass(frozen=True)
class CorpusUsed:
    """A corpus as it was scored."""

    location: str
    fingerprint: str
    images: int


@dataclass(frozen=True)
class Results:
    """`results.json`."""

    source: str
    """The weights file, or the file of descriptors, that was scored."""
    digest: str
    """Of the network's settings and tensors, or of the file of descriptors."""
    metadata: Mapping[str, Any]
    """What the weights file says about itself: step, training corpus."""
    preprocess: Mapping[str, Any]
    """How images became tensors; empty where descriptors were given."""
    gallery: CorpusUsed
    queries: CorpusUsed
    distractors: list[CorpusUsed]
    protocols: list[ProtocolResult]
    machine: Mapping[str, Any]
    """Processes, device, versions of the libraries."""
    seconds: Mapping[str, float]
    """Wall time per stage: embed, seal, search, score."""
    version: int = VERSION
    score: Mapping[str, Any] = field(default_factory=dict)
    """What happened between descriptors and scores: scales, pooling of scales, whitening, expansion, re-ranking."""
    tuned: bool = False
    """Whether `score` was set for this test set alone: such results are no fair comparison."""

    def protocol(self, name: str) -> ProtocolResult:
        return next(result for result in self.protocols if result.protocol == name)

    def main_metrics(self) -> dict[str, float]:
        """The headline of every protocol, `{protocol/metric: value}`."""
        return {f"{result.protocol}/{result.main}": result.metrics[result.main].value for result in self.protocols}


AXES = ("distractors", "score", "protocol")
"""Of the chart that shows the rows of `distractor_curve`."""


def distractor_curve(results: Results) -> list[Mapping[str, Any]]:
    """The headline of every protocol among growing numbers of distractors, with its 95 % interval."""
    points = [(result, point, point.metrics[result.main]) for result in results.protocols for point in result.distractor_curve]
    return [
        {
            "distractors": point.distractors,
            "protocol": f"{result.protocol}/{result.main}",
            "score": x.value,
            "low": x.low,
            "high": x.high,
        }
        for result, point, x in points
    ]


@dataclass(frozen=True)
class Missed:
    """A positive below the places that `QueryRecord.top` shows."""

    id: int
    key: str
    rank: int
    score: float


@dataclass(frozen=True)
class QueryRecord:
    """A line of `queries-PROTOCOL.jsonl`."""

    id: int
    """Image id in the corpus of the queries."""
    key: str
    box: tuple[float, float, float, float] | None
    """In the ground truth, in pixels of the stored image: x0, y0, x1, y1; cut out where the protocol's name says crop."""
    label: str
    """The label's or landmark's name: the cluster of the bootstrap."""
    ap: float | None
    """The protocol's main average precision; None where there is no positive."""
    positives: int
    first_hit: int | None
    """Rank of the best positive."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    top: list[Neighbor] = field(default_factory=list)
    missed: list[Missed] = field(default_factory=list)
    """The lowest-ranked positives, the worst first."""
    precision: list[float] = field(default_factory=list)
    """At 0.1, 0.2, … 1 of the positives found; empty where there is none."""


def scale(metric: str) -> int:
    """What people multiply a value by to print it: percent, but UKBench's N-S as it is, 4 at best."""
    return 1 if metric == "ns" else 100


def shown(metric: str, value: float) -> str:
    return f"{scale(metric) * value:.2f}"


def lost_by_compression(result: ProtocolResult) -> str | None:
    """The headline of the full descriptors in a sentence, where compressed ones were scored."""
    if result.full is None:
        return None
    full, lost = result.full.metrics[result.main], result.full.lost[result.main]
    return f"{result.main} {shown(result.main, full.value)} by the full descriptors; compression loses {shown(result.main, lost)}"


_results = TypeAdapter(Results)
_record = TypeAdapter(QueryRecord)


def write_results(directory: Path, results: Results) -> None:
    """Write `results.json`; it is the marker of an evaluation, so the record files come before it."""
    write_json(directory / RESULTS, _results.dump_python(results, mode="json"))


def read_results(directory: Path) -> Results:
    """Raises: UserError when the folder holds no results, damaged ones, or those of another version."""
    path = directory / RESULTS
    try:
        results = _results.validate_python(read_json(path))
    except FileNotFoundError:
        raise UserError(
            f"{path} does not exist: no evaluation has finished in this folder; torchrun {for_torchrun('evaluate')} makes one"
        ) from None
    except DamagedError as error:
        raise DamagedError(f"{error}; or evaluate again") from None
    except ValidationError as error:
        raise UserError(f"{path} cannot be read as results of version {VERSION}; evaluate again\n{error}") from None
    if results.version != VERSION:
        raise UserError(f"{path}: expected version {VERSION}, found {results.version}; evaluate again into another folder")
    return results


@contextmanager
def record_file(path: Path) -> Iterator[Callable[[Iterable[QueryRecord]], None]]:
    """A function that appends records; the file appears when all are written."""

    def append(records: Iterable[QueryRecord]) -> None:
        file.writelines(_record.dump_json(record) + b"\n" for record in records)

    with committed_file(path) as temporary, temporary.open("wb") as file:
        yield append


def read_records(path: Path, checksum: str = "") -> Iterator[QueryRecord]:
    """
    Args:
        checksum: that `results.json` has of the file.

    Raises:
        DamagedError: the file is gone, or not the one that was written.
    """
    if checksum and (fault := records_fault(path, checksum)):
        raise DamagedError(f"{path} {fault}; evaluate again")
    with path.open("rb") as file:
        for line in file:
            yield _record.validate_json(line)


def records_fault(path: Path, checksum: str) -> str | None:
    """What is wrong with a file of records, or None."""
    if not path.is_file():
        return "is gone"
    return None if checksum_of(path) == checksum else "is damaged: its checksum is not the one in results.json"
