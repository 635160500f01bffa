"""Changes of an index: one writer at a time, new files only, then a new `index.json`.

A write costs in proportion to what is written: rows that are added become a segment, merged with the segments before it that are
not more than twice as large, so that a row is written a logarithmic number of times and segments stay few. Removed rows are
listed; a segment that has lost half of its rows is written anew.
"""

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from largescale.locks import take
from largescale.search.lists import add_lists, deepened, outgrown, train
from largescale.search.manifest import IndexManifest, SegmentEntry
from largescale.search.segment import Segment, room_on_disk, write_removed, write_segment
from largescale.search.view import IndexView, opened_lists
from largescale.settings import UserError

UNIT = 1e-2
"""By how much the norm of a row may differ from 1 under the metric cosine."""


@contextmanager
def writing(folder: Path, wait_s: float = 0.0) -> Iterator["Writer"]:
    """The one writer of an index, and what killed ones left is removed.

    Raises:
        UserError: another process is writing, and still is after `wait_s` seconds.
    """
    IndexManifest.read(folder)
    with (folder / ".lock").open("a+") as file:
        deadline = time.monotonic() + wait_s
        while (holder := take(file)) is not None:
            if time.monotonic() >= deadline:
                raise UserError(
                    f"{folder} is being changed by {holder}, so nothing was changed here; run the same "
                    "command again when that has ended"
                )
            time.sleep(0.05)
        with room_on_disk(folder):
            writer = Writer(folder)
            writer.sweep()
            yield writer


class Writer:
    """Made by `writing`. `view` is the index after the last change."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.view = folder, IndexView.open(folder)

    def append(self, rows: np.ndarray, table: pa.Table) -> None:
        """Add rows `(n, D)` and their table; rows with the same keys that were there are removed in the same step."""
        if not len(rows):
            return
        check_rows(rows, self.view.manifest)
        manifest, segments = self._removed(self.view.manifest, self.view.find(table["key"].to_pylist()))
        merged, live = list[Segment](), len(rows)
        while segments and segments[-1].entry.live <= 2 * live:
            merged.insert(0, segments.pop())
            live += merged[0].entry.live
        manifest, segments = self._written(manifest, segments, merged, rows, table)
        self._commit(manifest, segments)

    def remove(self, ids: np.ndarray) -> None:
        """Remove rows by their numbers."""
        if len(ids):
            manifest, segments = self._removed(self.view.manifest, ids)
            for segment in [segment for segment in segments if 2 * segment.entry.live < segment.entry.rows]:
                manifest, segments = self._rewritten(manifest, segments, segment)
            self._commit(manifest, segments)

    def sweep(self) -> None:
        """Delete the files that do not belong to the index."""
        known = self.view.manifest.names()
        patterns = (".*.partial", "trained-*", "segments/*", "segments/*/*")
        for path in [path for pattern in patterns for path in self.folder.glob(pattern)]:
            name = path.relative_to(self.folder).as_posix()
            if name not in known and path.name != "COMPLETE":
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)

    def _commit(self, manifest: IndexManifest, segments: Sequence[Segment]) -> None:
        manifest = replace(manifest, segments=tuple(segment.entry for segment in segments))
        if outgrown(manifest):
            manifest = self._trained(manifest, segments)
        manifest.commit(self.folder)
        self.view = IndexView.open(self.folder)
        self.sweep()

    def _trained(self, manifest: IndexManifest, segments: Sequence[Segment]) -> IndexManifest:
        """With an approximate index that is trained on what is there now, over all segments."""
        manifest, entries = train(self.folder, manifest, segments), list[SegmentEntry]()
        for segment in segments:
            entry, manifest = add_lists(self.folder, manifest, segment)
            entries.append(entry)
        manifest = replace(manifest, segments=tuple(entries))
        opened = tuple(Segment.open(segment.folder, entry) for segment, entry in zip(segments, entries, strict=True))
        return deepened(IndexView(self.folder, manifest, opened, opened_lists(opened, manifest.kind.search)))

    def _written(
        self, manifest: IndexManifest, segments: list[Segment], merged: Sequence[Segment], rows: np.ndarray, table: pa.Table
    ) -> tuple[IndexManifest, list[Segment]]:
        """With a new segment at the end."""
        number, manifest = manifest.numbered()
        folder = self.folder / "segments" / number
        segment = Segment.open(folder, write_segment(folder, merged, rows, table))
        if manifest.kind.trained:
            entry, manifest = add_lists(self.folder, manifest, segment)
            segment = Segment.open(folder, entry)
        return manifest, [*segments, segment]

    def _rewritten(self, manifest: IndexManifest, segments: list[Segment], old: Segment) -> tuple[IndexManifest, list[Segment]]:
        """Without the removed rows of a segment, in its place."""
        place, nothing = segments.index(old), np.empty((0, manifest.dim), np.float32)
        if not old.entry.live:
            return manifest, segments[:place] + segments[place + 1 :]
        manifest, written = self._written(manifest, segments[:place], [old], nothing, old.table.slice(0, 0))
        return manifest, written + segments[place + 1 :]

    def _removed(self, manifest: IndexManifest, ids: np.ndarray) -> tuple[IndexManifest, list[Segment]]:
        """The segments with more rows removed."""
        segments, ids = list(self.view.segments), np.unique(ids[ids >= 0])
        place = np.searchsorted(self.view.starts, ids, "right") - 1
        for number in np.unique(place).tolist():
            old = segments[number]
            removed = np.union1d(old.removed, ids[place == number] - self.view.starts[number])
            of_file, manifest = manifest.numbered()
            name, facts = write_removed(old.folder, of_file, removed)
            files = {file: known for file, known in old.entry.files.items() if file != old.entry.removed} | {name: facts}
            segments[number] = Segment.open(old.folder, replace(old.entry, removed=name, removed_rows=len(removed), files=files))
        return manifest, segments


def check_rows(rows: np.ndarray, manifest: IndexManifest) -> None:
    """
    Raises:
        UserError: rows of another dimension, not finite, or under the metric cosine not of length 1.
    """
    if rows.ndim != 2 or rows.shape[1] != manifest.dim:
        raise UserError(f"rows are (n, {manifest.dim}) in this index, found {rows.shape}: they are from another network")
    norms = np.linalg.norm(rows, axis=1)
    bad = ~np.isfinite(norms) if manifest.metric == "l2" else ~(np.abs(norms - 1) <= UNIT)
    if bad.any():
        wanted = "finite" if manifest.metric == "l2" else "of length 1 under the metric cosine"
        found = f"row {int(np.flatnonzero(bad)[0])} has length {norms[bad][0]:g}"
        raise UserError(f"rows must be {wanted}; {found}, and {bad.sum() - 1:,} others: normalize them, or leave them out")
