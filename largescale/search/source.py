"""From a folder of pictures to rows of an index: listed, compared with what is there, described, with a small picture to show.

n pictures, D dimensions.
"""

import io
import logging
import os
import re
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa

from largescale.corpus.decoding.pictures import Picture, given
from largescale.corpus.decoding.pixels import open_picture, orientation_of, to_rgb, upright
from largescale.describing.model import regions_of
from largescale.program.cli import import_shards
from largescale.program.progress import progress_bar
from largescale.search.segment import table_of
from largescale.search.view import IndexView
from largescale.search.writer import Writer
from largescale.settings import UserError

if TYPE_CHECKING:
    from largescale.describing.model import Model

ROWS, SECONDS, AT_ONCE = 2**14, 60.0, 256
"""Pictures are added to the index after so many, or so much time; so many are described together."""
SHOWN = 20
CONTROL = re.compile(r"[\x00-\x1f\x7f]")
log = logging.getLogger(__name__)


class File(NamedTuple):
    """A picture of a source."""

    key: str
    label: str | None
    path: Path
    size: int
    modified: int
    """ns."""


@dataclass
class Added:
    """What became of a source."""

    added: int = 0
    unchanged: int = 0
    replaced: int = 0
    gone: int = 0
    """Files that were there when the source was listed, and not when they were read."""
    bad: dict[str, str] = field(default_factory=dict)
    """Pictures that cannot be used, and why."""
    stopped: bool = False

    def __str__(self) -> str:
        counts = f"{self.added:,} added, {self.replaced:,} replaced, {self.unchanged:,} unchanged, {self.gone:,} gone"
        counts += f", {len(self.bad):,} bad"
        lines = [f"  {key}: {why}" for key, why in list(self.bad.items())[:SHOWN]]
        more = [f"  and {len(self.bad) - SHOWN:,} more"] if len(self.bad) > SHOWN else []
        return "\n".join([counts, *lines, *more])


def files(source: Path, prefix: str = "") -> list[File]:
    """The pictures below a folder, or one picture; the label is the folder that a picture is in.

    Raises:
        UserError: nothing there.
    """
    if not source.exists():
        raise UserError(f"{source} does not exist: give a folder of pictures, or one picture")
    listed = [source.name] if source.is_file() else list(import_shards("sources.files").image_files(source))
    names = [name for name in listed if isinstance(name, str)]
    if len(names) < len(listed):
        log.warning("%d files below %s are no pictures and are left out", len(listed) - len(names), source)
    root = (source.parent if source.is_file() else source).resolve()
    found = [file for name in names if (file := _file(root, name, prefix))]
    if not found:
        raise UserError(f"{source} holds no pictures, so there is nothing to add")
    return found


def _file(root: Path, name: str, prefix: str) -> File | None:
    try:
        stat = (root / name).stat()
    except OSError:  # gone meanwhile, or a link to nowhere
        return None
    return File(prefix + name, name.rpartition("/")[0] or None, root / name, stat.st_size, stat.st_mtime_ns)


def add_files(
    writer: Writer,
    model: "Model",
    found: Sequence[File],
    *,
    progress: bool = False,
    should_stop: Callable[[], bool] = lambda: False,
) -> Added:
    """Add the pictures that are not in the index yet, or have changed since; what is described is added every minute.

    Raises:
        UserError: a key is taken by a picture of another folder.
    """
    added = Added()
    todo = _new(writer.view, _named(found, added), added)
    rows, table, began = list[np.ndarray](), list[pa.Table](), time.monotonic()
    with progress_bar("describing" if progress else None, len(todo), "picture") as bar:
        for start in range(0, len(todo), AT_ONCE):
            if should_stop():
                added.stopped = True
                break
            part = todo[start : start + AT_ONCE]
            described = describe(model, part, writer.view.manifest.thumbnails, added)
            rows.append(described[0])
            table.append(described[1])
            bar.update(len(part))
            if sum(map(len, rows)) >= ROWS or time.monotonic() - began >= SECONDS:
                writer.append(np.concatenate(rows), pa.concat_tables(table))
                rows, table, began = [], [], time.monotonic()
    if rows:
        writer.append(np.concatenate(rows), pa.concat_tables(table))
    return added


def _named(found: Sequence[File], added: Added) -> list[File]:
    """Those whose names can be keys: what finds a picture again is printed, a line for each, and sent over HTTP."""
    good = []
    for file in found:
        text = os.fsencode(file.key).decode(errors="replace")
        if text == file.key and not CONTROL.search(text):
            good.append(file)
        else:
            added.bad[CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)] = "its name is not UTF-8, or has control characters"
    return good


def _new(view: IndexView, found: Sequence[File], added: Added) -> list[File]:
    """Those of the files that the index lacks, or has in another version."""
    ids = view.find([file.key for file in found])
    there = view.table(ids[ids >= 0], "path", "size", "modified").to_pylist()
    known = dict(zip(np.flatnonzero(ids >= 0).tolist(), there, strict=True))
    todo = []
    for place, file in enumerate(found):
        row = known.get(place)
        if row is not None and row["path"] != str(file.path):
            raise UserError(
                f"{file.key} is in the index already, from {row['path'] or 'no file'}, and {file.path} would replace it, so "
                "nothing was added: give prefix=… to keep both apart"
            )
        if row is not None and (row["size"], row["modified"]) == (file.size, file.modified):
            added.unchanged += 1
        else:
            added.replaced += row is not None
            todo.append(file)
    added.added -= added.replaced
    return todo


def describe(model: "Model", part: Sequence[File], thumbnails: int, added: Added) -> tuple[np.ndarray, pa.Table]:
    """`(n, D)` rows and the table of the pictures that can be used; the others are counted."""
    there = [file for file in part if file.path.exists()]
    added.gone += len(part) - len(there)
    found = describe_pictures(model, [file.path for file in there])
    added.bad |= {there[place].key: why for place, why in found.faults.items()}
    good = [place for place in range(len(there)) if place not in found.faults]
    added.added += len(good)
    with ThreadPoolExecutor(2) as pool:  # Pillow decodes without the interpreter
        small = list(pool.map(lambda place: thumbnail(there[place].path, thumbnails), good))
    columns: dict[str, Any] = {name: [getattr(there[place], name) for place in good] for name in File._fields}
    columns["path"] = [str(path) for path in columns["path"]]
    columns |= {"width": found.width[good], "height": found.height[good], "thumbnail": small}
    return found.rows[good], table_of(columns)


class DescribedPictures(NamedTuple):
    """What became of some pictures."""

    rows: np.ndarray
    """`(n, D)`, zeros for those that cannot be used."""
    faults: dict[int, str]
    """What is wrong with those, by their place."""
    width: np.ndarray
    """`(n,)` pixels of the upright picture."""
    height: np.ndarray


def describe_pictures(
    model: "Model", pictures: Sequence[Picture], boxes: Sequence[Sequence[float] | None] | None = None
) -> DescribedPictures:
    """Rows of pictures, or of a part (x0, y0, x1, y1) of each; one that cannot be used does not keep others from theirs."""
    corpus, faults = given(pictures)
    width, height = corpus.manifest.width, corpus.manifest.height
    regions = regions_of(corpus, boxes, faults)
    faults |= model.too_small(corpus, *_good(faults, len(pictures), regions))
    ids, cut = _good(faults, len(pictures), regions)
    rows = np.zeros((len(pictures), model.dim), np.float32)
    places = {key: place for place, key in enumerate(corpus.manifest.keys.to_pylist())}
    for group in model.describe(corpus, ids, boxes=cut) if len(ids) else ():
        rows[group.ids] = group.rows
        faults |= {places[image.key]: image.error for image in group.bad}
    unusable = np.flatnonzero(~np.isfinite(rows).all(axis=1) | ~rows.any(axis=1)).tolist()
    faults |= {place: "its descriptor is not finite, or zero" for place in unusable if place not in faults}
    return DescribedPictures(rows, faults, width, height)


def _good(faults: dict[int, str], count: int, regions: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
    """The places of the pictures without a fault, and their regions where there are any."""
    ids = np.array([place for place in range(count) if place not in faults], np.int64)
    return ids, None if regions is None else regions[ids]


def thumbnail(picture: Path | bytes, side: int) -> bytes | None:
    """A JPEG whose longest side is at most `side`; None where none is wanted, or the file has changed to something else."""
    if not side:
        return None
    try:
        image = open_picture(picture if isinstance(picture, bytes) else picture.read_bytes())
        image.draft(None, (2 * side, 2 * side))  # of a JPEG, an eighth of the work
        image.load()
        small = upright(to_rgb(image), orientation_of(image))
    except Exception:  # decoders raise whatever their format's parser stumbles on
        return None
    small.thumbnail((side, side), reducing_gap=2.0)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()
