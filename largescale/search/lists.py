"""The approximate index: chosen, trained on a sample, its recall measured, searched deeper until that is enough.

n rows, D dimensions, s rows of a sample.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from largescale.cpu import own_cores
from largescale.mining.config import MiningConfig
from largescale.mining.search.factory import choose
from largescale.mining.search.recall import EFFORT, SAMPLE
from largescale.program.extras import faiss
from largescale.search.manifest import IndexManifest, Kind, SegmentEntry
from largescale.search.segment import AT_ONCE, Segment, require_whole, write_faiss
from largescale.search.view import IndexView
from largescale.settings import UserError

GROWTH = 4
"""An approximate index is trained anew when it has so many times the rows that it had when it was trained."""
NEIGHBORS = 20
"""Of a query, whose recall is measured."""
log = logging.getLogger(__name__)


def chosen(kind: Kind, rows: int, dim: int) -> tuple[str, str]:
    """The index and its search parameters for so many rows, by the rule of mining."""
    factory = "exact" if kind.factory == "Flat" else kind.factory
    return choose(MiningConfig(index=factory, exact_bytes=kind.memory), rows, dim, 4)


def outgrown(manifest: IndexManifest) -> bool:
    """Whether there are too many rows for the way in which they are searched."""
    kind, rows = manifest.kind, manifest.rows
    if kind.trained:
        return rows > GROWTH * kind.trained_rows
    return rows > 0 and chosen(kind, rows, manifest.dim)[0] != "exact"


def train(folder: Path, manifest: IndexManifest, segments: Sequence[Segment]) -> IndexManifest:
    """A trained, empty FAISS index for these segments, as a file of the index.

    Raises:
        UserError: FAISS does not know the index, or cannot train it on so few rows.
    """
    name, search = chosen(manifest.kind, manifest.rows, manifest.dim)
    rows = sample(segments, MiningConfig().index_sample)
    faiss.omp_set_num_threads(own_cores())
    try:
        index = faiss.index_factory(rows.shape[1], name, _metric(manifest, name))
        if search:
            faiss.ParameterSpace().set_index_parameters(index, search)  # type: ignore[arg-type]
        if not index.is_trained:
            index.train(rows)
    except RuntimeError as error:
        raise UserError(
            f"factory={name!r} cannot be built for {len(rows):,} rows of {rows.shape[1]} dimensions ({str(error).splitlines()[0]}"
            "), so nothing was changed: correct it, or use factory=exact"
        ) from None
    number, manifest = manifest.numbered()
    file = f"trained-{number}.faiss"
    facts = write_faiss(folder / file, index)
    kind = replace(manifest.kind, index=name, search=search, trained=file, trained_facts=facts, trained_rows=manifest.rows)
    return replace(manifest, kind=kind)


def add_lists(folder: Path, manifest: IndexManifest, segment: Segment) -> tuple[SegmentEntry, IndexManifest]:
    """The segment's part of the approximate index, as a file of the segment."""
    assert manifest.kind.trained is not None
    trained = folder / manifest.kind.trained
    require_whole(trained, manifest.kind.trained_facts)
    index: Any = faiss.read_index(str(trained))
    for start in range(0, segment.entry.rows, AT_ONCE):
        index.add(np.ascontiguousarray(segment.rows[start : start + AT_ONCE]))
    number, manifest = manifest.numbered()
    name = f"lists-{number}.faiss"
    files = {file: facts for file, facts in segment.entry.files.items() if file != segment.entry.lists}
    files[name] = write_faiss(segment.folder / name, index)
    return replace(segment.entry, lists=name, files=files), manifest


def deepened(view: IndexView) -> IndexManifest:
    """With the recall that was measured on a sample of the index's own rows, and as deep a search as it takes."""
    manifest, kind = view.manifest, view.manifest.kind
    queries = sample(view.segments, SAMPLE)
    truth, _ = view.exact(queries, min(NEIGHBORS, manifest.rows), view.live, False)
    recall = _recall(view, queries, truth)
    for _ in range(EFFORT):
        if recall >= kind.min_recall or (search := _twice(view.lists)) is None:
            break
        kind = replace(kind, search=search)
        for index in view.lists:
            faiss.ParameterSpace().set_index_parameters(index, search)  # type: ignore[arg-type]
        recall = _recall(view, queries, truth)
    if recall < kind.min_recall:
        log.warning(
            "the index finds %.1f %% of the true neighbors, %.1f %% are wanted (min_recall): choose finer codes, or exact",
            100 * recall,
            100 * kind.min_recall,
        )
    return replace(manifest, kind=replace(kind, recall=recall))


def sample(segments: Sequence[Segment], size: int) -> np.ndarray:
    """`(s, D)` rows, evenly over all that are there."""
    stride = -(-max(1, sum(segment.entry.live for segment in segments)) // size)
    return np.concatenate([segment.rows[np.flatnonzero(segment.live)[::stride]] for segment in segments])


def _metric(manifest: IndexManifest, factory: str) -> int:
    """Of unit rows both give the same order; FAISS has bits (LSH) for distances alone."""
    return faiss.METRIC_INNER_PRODUCT if manifest.metric == "cosine" and "LSH" not in factory else faiss.METRIC_L2


def _recall(view: IndexView, queries: np.ndarray, truth: np.ndarray) -> float:
    """Share of the true neighbors that are found."""
    found, _ = view.nearest(queries, truth.shape[1])
    return float(np.mean((truth[:, :, None] == found[:, None]).any(2)))


def _twice(lists: Sequence[Any]) -> str | None:
    """Search parameters that visit twice as many lists; None where all are visited, or there are none."""
    parts = [faiss.try_extract_index_ivf(index) for index in lists]
    if not parts or parts[0] is None or parts[0].nprobe >= parts[0].nlist:
        return None
    return f"nprobe={min(2 * parts[0].nprobe, parts[0].nlist)}"
