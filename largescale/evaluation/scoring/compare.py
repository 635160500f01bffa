"""Two systems on the same queries: what B gains over A in every protocol, and whether chance explains it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from largescale.evaluation.results import RESULTS, ProtocolResult, QueryRecord, Results, read_records, read_results, scale
from largescale.evaluation.scoring.statistics import Comparison, compare, holm
from largescale.program.cli import for_torchrun
from largescale.settings import UserError

POOLED = "all queries"


@dataclass(frozen=True)
class Scored:
    """One protocol in one result folder."""

    folder: Path
    results: Results
    protocol: ProtocolResult

    @property
    def key(self) -> tuple[str, ...]:
        """The same for results that can be paired. A file of descriptors says nothing of its images: its rows must be as many."""
        corpora = [self.results.queries, self.results.gallery, *self.results.distractors]
        images = [used.fingerprint for used in corpora if not self.results.digest.startswith(used.fingerprint)]
        protocol = self.protocol
        return protocol.protocol, protocol.hash, str(protocol.gallery), str(protocol.distractors), *images

    def records(self) -> Iterator[QueryRecord]:
        return read_records(self.folder / self.protocol.records, self.protocol.records_checksum)


@dataclass(frozen=True)
class ProtocolPair:
    """One protocol, scored twice."""

    a: Scored
    b: Scored

    @property
    def name(self) -> str:
        protocol = self.a.protocol
        among = f" +{protocol.distractors:,}" if protocol.distractors else ""
        tuned = self.a.results.tuned or self.b.results.tuned
        return f"{protocol.protocol}{among}{' (tuned)' if tuned else ''}"

    @property
    def metric(self) -> str:
        return self.a.protocol.main

    @property
    def queries(self) -> str:
        """Fingerprint of their corpus."""
        return self.a.results.queries.fingerprint

    def records(self) -> list[tuple[QueryRecord, QueryRecord]]:
        """The queries that have a positive.

        Raises:
            UserError: the two were asked different queries.
        """
        ours, theirs = ({(r.key, r.label): r for r in side.records()} for side in (self.a, self.b))
        if ours.keys() != theirs.keys():
            raise UserError(
                f"{self.name}: {self.a.folder} and {self.b.folder} were asked different queries, so they cannot be paired"
            )
        return [(record, theirs[key]) for key, record in ours.items() if record.ap is not None]


@dataclass(frozen=True)
class Compared:
    """A line of the table."""

    name: str
    metric: str
    a: float
    b: float
    test: Comparison
    holm: float | None = None
    """p adjusted for the number of protocols; None for the line of all queries."""


def pairs(a: Path, b: Path) -> list[ProtocolPair]:
    """The protocols that both have: of two result folders, or of all those below two folders.

    Raises:
        UserError: no results; nothing in common; a protocol that one of them has twice.
    """
    ours, theirs = _scored(a), _scored(b)
    common = [key for key in ours if key in theirs]
    if not common:
        found = "; ".join(f"{folder}: {_names(scored)}" for folder, scored in ((a, ours), (b, theirs)))
        raise UserError(f"the two have no protocol on the same images and distractors in common ({found})")
    return [ProtocolPair(ours[key], theirs[key]) for key in common]


def _scored(folder: Path) -> dict[tuple[str, ...], Scored]:
    files = [folder / RESULTS] if (folder / RESULTS).exists() else sorted(folder.rglob(RESULTS))
    if not files:
        raise UserError(f"there is no {RESULTS} in {folder} or below it; torchrun {for_torchrun('evaluate')} makes one")
    found: dict[tuple[str, ...], Scored] = {}
    for file in files:
        results = read_results(file.parent)
        for scored in (Scored(file.parent, results, protocol) for protocol in results.protocols):
            twice = found.setdefault(scored.key, scored)
            if twice is not scored:
                raise UserError(f"{twice.folder} and {scored.folder} both score {scored.protocol.protocol}: give one of them")
    return found


def _names(scored: Mapping[tuple[str, ...], Scored]) -> str:
    return ", ".join(f"{s.protocol.protocol} among {s.protocol.distractors:,}" for s in scored.values())


def compare_results(pairs: Sequence[ProtocolPair]) -> list[Compared]:
    """A line per protocol by its main metric; where there are several data sets, one more of all their queries together.

    UKBench's N-S is no fraction: its queries are not among them.
    """
    columns = [_columns(pair) for pair in pairs]
    lines = [_line(pair.name, pair.metric, *column) for pair, column in zip(pairs, columns, strict=True)]
    adjusted = holm([line.test.p for line in lines])
    lines = [replace(line, holm=p) for line, p in zip(lines, adjusted, strict=True)]
    fractions = [(pair, column) for pair, column in zip(pairs, columns, strict=True) if pair.metric != "ns"]
    if len({pair.queries for pair, _ in fractions}) > 1:
        a, b, clusters = (np.concatenate(column) for column in zip(*(column for _, column in fractions), strict=True))
        lines.append(_line(POOLED, "the main ones", a, b, clusters))
    return lines


def _columns(pair: ProtocolPair) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Main metric of A and B and the cluster, `(queries,)` each; queries of the same images share their clusters."""
    both = pair.records()
    values = [[record.metrics[pair.metric] for record in side] for side in zip(*both, strict=True)]
    return np.array(values[0]), np.array(values[1]), np.array([f"{pair.queries}/{a.label}" for a, _ in both])


def _line(name: str, metric: str, a: np.ndarray, b: np.ndarray, clusters: np.ndarray) -> Compared:
    return Compared(name, metric, float(a.mean()), float(b.mean()), compare(a, b, clusters))


def table(lines: Sequence[Compared]) -> str:
    """Percentages, but UKBench's N-S of 4; p by sign flips, and adjusted for the number of protocols (Holm)."""
    head = f"{'protocol':<30}{'metric':<16}{'A':>7}{'B':>7}{'B - A':>8}{'95 %':>18}{'p':>9}{'Holm':>9}  wins/losses/ties"
    return "\n".join([head, *map(_row, lines)])


def _row(line: Compared) -> str:
    test = line.test
    times = scale(line.metric)
    ends = f"{times * test.low:+.2f} to {times * test.high:+.2f}"
    values = f"{times * line.a:>7.2f}{times * line.b:>7.2f}{times * test.difference:>+8.2f}{ends:>18}{chance(test.p):>9}"
    return f"{line.name:<30}{line.metric:<16}{values}{chance(line.holm):>9}  {test.wins}/{test.losses}/{test.ties}"


def chance(p: float | None) -> str:
    """As it is printed; nothing for None."""
    return "" if p is None else "< 0.0001" if p < 1e-4 else f"{p:.4f}"
