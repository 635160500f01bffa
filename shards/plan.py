"""Which image goes into which shard: settled and written down before the first shard is.

Every part of a build, and every start of a killed one, makes the same plan from the source and compares it with the
one that was written down, so that a changed source or changed options are found before they mix with what is there.
"""

import errno
import hashlib
import json
import os
import re
import shutil
import socket
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from largescale.commit import DamagedError, checksum_of, read_json, write_json
from largescale.corpus.decoding.pixels import BadImageError
from largescale.corpus.manifest import BOX_COLUMNS, map_table, parse_manifest, write_table
from largescale.names import component
from largescale.program.progress import tracked
from largescale.settings import Settings, UserError

from .images import Encoding, StoredImage, stored_image
from .sources import Item, Skipped, Source
from .sources.files import readable

ROW_COLUMNS = {"key": pa.large_string(), "place": pa.large_string(), "label": pa.int32(), "item": pa.int64()}
ILLEGAL_KEY = r"\.[^/]*$|(^|/)$|^/|^__[^/]*__(/|$)"  # what WebDataset cuts at the first dot, or skips
WORK = ".build"
"""The folder below an output where a build keeps its plan and its sidecars until the corpus is published."""
REMAINS = ("missing.txt",)
"""What a build leaves that ended before it had a plan."""
NO_BOX = (np.nan,) * 4
TABLES = ("rows.arrow", "labels.arrow")
SAMPLE = 32
TAR_OVERHEAD = 2048  # headers, key.json and padding per image


class Sharding(Settings):
    """How many images share a tar. Corpora of 64 images and more get at least 8 shards, so that several ranks can share."""

    shard_images: int = Field(default=1000, ge=1)
    """Most images of a shard."""
    shard_bytes: int = Field(default=512 * 1024**2, ge=1)
    """Most bytes of a shard, about: by the mean size of a sample of stored images."""

    def count(self, images: int, image_bytes: int) -> int:
        least = 8 if images >= 64 else 1
        return max(least, -(-images // self.shard_images), -(-images * image_bytes // self.shard_bytes))


@dataclass(frozen=True)
class CorpusPlan:
    """The rows of a corpus before a pixel is read."""

    rows: Any
    """`key`, `place`, `label`, `item` (position in `Source.items()`), `(images,)` each, in the order of image ids."""
    label_names: Sequence[str]
    identity: Mapping[str, Any]
    """The options and the hash of the source, on which every byte of the corpus depends."""
    shards: int
    image_bytes: int
    stem: str
    """How the names of its shards begin: the corpus and a hash of what it is made from. Caches of other tools go by names."""
    suffix: str
    """Of every image in the tars, whatever its format: readers want one name for one field. png where all are, else jpg."""

    def __len__(self) -> int:
        return len(self.rows["key"])

    @cached_property
    def bounds(self) -> np.ndarray:
        """`(shards + 1,)`: rows `bounds[s] : bounds[s + 1]` are those of shard s."""
        return np.arange(self.shards + 1, dtype=np.int64) * len(self) // self.shards

    @property
    def has_boxes(self) -> bool:
        return "x0" in self.rows.schema.names if isinstance(self.rows, pa.RecordBatch) else "x0" in self.rows

    def box(self, row: int) -> tuple[float, ...] | None:
        """x0, y0, x1, y1 in pixels of the file."""
        if not self.has_boxes or np.isnan(self.rows["x0"][row]):
            return None
        return tuple(float(self.rows[side][row]) for side in BOX_COLUMNS)

    def images(self, shards: Iterable[int]) -> int:
        """How many images some shards have."""
        return sum(int(self.bounds[shard + 1] - self.bounds[shard]) for shard in shards)

    @staticmethod
    def open(folder: Path) -> "CorpusPlan":
        """Raises: DamagedError: a file is not what was written."""
        build = read_json(folder / "build.json")
        for name, expected in build.pop("tables").items():
            if checksum_of(folder / component(name)) != expected:
                raise DamagedError(f"{folder / name} is damaged; delete {folder}, and the same command begins anew")
        rows, labels = (map_table(folder / name) for name in TABLES)
        return CorpusPlan(rows, labels["name"].to_pylist(), **build)

    def commit(self, folder: Path) -> None:
        """Make `folder` with the plan in it, unless another part has: the first one counts, nobody's mapped files change."""
        own = folder.with_name(f"{folder.name}.{socket.gethostname()}.{os.getpid()}.partial")
        types = {**ROW_COLUMNS, **(BOX_COLUMNS if self.has_boxes else {})}
        write_table(own / "rows.arrow", {name: self.rows[name] for name in types}, types)
        write_table(own / "labels.arrow", {"name": self.label_names}, {"name": pa.large_string()})
        tables = {name: checksum_of(own / name) for name in TABLES}
        build = {name: getattr(self, name) for name in ("identity", "shards", "image_bytes", "stem", "suffix")}
        write_json(own / "build.json", {"tables": tables, **build})
        try:
            own.rename(folder)
        except OSError as error:
            shutil.rmtree(own)
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise


def settle(source: Source, out: Path, encoding: Encoding, sharding: Sharding) -> CorpusPlan | None:
    """The plan of this source and these options, written down in `out / WORK`; None when `out` is already complete.

    Raises:
        UserError: no images, illegal or colliding keys, or `out` holds what another source or other options made.
    """
    skipped: Counter[str] = Counter()
    rows, label_names = collect(tracked(items_of(source), "listing", None, "image"), skipped)
    _report(source, out, rows, label_names, skipped)
    check_keys(rows)
    listing = {"source_images": len(rows), "source_sha256": _digest(rows, label_names)}
    identity = {"layout": source.layout, **encoding.described(), **sharding.model_dump(), **listing}
    if (out / "manifest.json").exists():
        require_same(out, read_made(out), identity)
        return None
    require_own(out)
    if not (out / WORK).exists():
        sample = _sample(source, rows, encoding)
        image_bytes = sum(len(image.data) + TAR_OVERHEAD for image in sample) // len(sample)
        suffix = "png" if all(image.suffix == "png" for image in sample) else "jpg"
        shards, stem = sharding.count(len(rows), image_bytes), f"{_plain_name(out)}-{_token(identity, sample)}"
        CorpusPlan(rows, label_names, identity, shards, image_bytes, stem, suffix).commit(out / WORK)
    plan = CorpusPlan.open(out / WORK)
    require_same(out, plan.identity, identity)
    return plan


def items_of(source: Source) -> Iterator[Item | Skipped]:
    """The items of a source.

    Raises:
        UserError: a file of it cannot be read.
    """
    with readable(f"the source (layout {source.layout})"):
        yield from source.items()


def read_made(out: Path) -> Mapping[str, Any]:
    """How the corpus in `out` was made.

    Raises:
        UserError: its manifest.json is damaged, or that of something else.
    """
    where = f"{out}/manifest.json"
    return parse_manifest((out / "manifest.json").read_bytes(), where).made


def require_own(out: Path) -> None:
    """Raise UserError where `out` holds something that no build of ours has begun."""
    inside = out.iterdir() if out.is_dir() else []
    strange = [path.name for path in inside if not path.name.startswith(WORK) and path.name not in REMAINS]
    if strange and not (out / WORK).exists():
        raise UserError(
            f"{out} is not empty ({sorted(strange)[0]}) and no build of a corpus: nothing in it was touched; choose another OUT"
        )


def _report(source: Source, out: Path, rows: pa.RecordBatch, label_names: Sequence[str], skipped: Mapping[str, int]) -> None:
    """Say what was found and what was left out.

    Raises:
        UserError: no image, or no label where the layout expects some.
    """
    bare = int(np.count_nonzero(rows["label"].to_numpy() < 0))
    left = ", ".join(f"{count:,} {reason}" for reason, count in sorted(skipped.items(), key=lambda kind: -kind[1]))
    found = f"{len(rows):,} images, {len(label_names):,} labels" + (
        f" ({bare:,} images without one)" if bare and label_names else ""
    )
    print(f"{out.name}: {found}" + (f"; left out: {left}" if left else ""), flush=True)
    if len(rows) == 0:
        raise UserError(f"the source holds no image that layout {source.layout!r} can find; check SOURCE and --layout")
    if source.labeled and not label_names:
        raise UserError(
            f"layout {source.layout!r} expects labels and found none for {len(rows):,} images; check SOURCE and --layout, or use "
            "--layout distractors for images without labels"
        )


def collect(items: Iterable[Item | Skipped], skipped: Counter[str] | None = None) -> tuple[pa.RecordBatch, list[str]]:
    """Rows sorted by label, those without label first, and the names of the labels in the order of their numbers.

    Args:
        skipped: counts what was left out, by reason.
    """
    numbers: dict[str, int] = {}
    batches = [_batch(chunk, numbers) for chunk in _chunks(_taken(items, Counter() if skipped is None else skipped), 1 << 16)]
    names = sorted(numbers, key=int if all(name.isdecimal() for name in numbers) else str)
    rank = np.full(len(names) + 1, -1, dtype=np.int32)  # the last entry is that of number -1: no label
    rank[[numbers[name] for name in names]] = np.arange(len(names))
    kinds = {**{k: ROW_COLUMNS[k] for k in ("key", "place", "label")}, **BOX_COLUMNS}
    table = pa.Table.from_batches(batches, schema=pa.schema(kinds))
    label = rank[table["label"].to_numpy()]
    order = np.argsort(label, kind="stable")
    columns = [table["key"].take(order), table["place"].take(order), pa.array(label[order]), pa.array(order)]
    boxes = {side: table[side].take(order) for side in BOX_COLUMNS} if np.isfinite(table["x0"].to_numpy()).any() else {}
    return pa.record_batch([_whole(column) for column in (*columns, *boxes.values())], names=[*ROW_COLUMNS, *boxes]), names


def check_keys(rows: pa.RecordBatch) -> None:
    """Raise UserError for keys that WebDataset would misread, and for two images with one key."""
    illegal = rows.filter(pc.match_substring_regex(rows["key"], ILLEGAL_KEY))
    if len(illegal):
        raise UserError(
            f"{illegal['place'][0]} would get the key {str(illegal['key'][0])!r}, which WebDataset readers misread; rename it"
        )
    codes = rows["key"].dictionary_encode()
    if len(codes.dictionary) < len(rows):
        counts = np.bincount(codes.indices.to_numpy())
        same = np.flatnonzero(codes.indices.to_numpy() == counts.argmax())[:2]
        first, second = (rows["place"][int(row)] for row in same)
        key, others = rows["key"][int(same[0])], int((counts > 1).sum()) - 1
        raise UserError(
            f"{first} and {second} would both be stored as {str(key)!r} (and {others:,} more keys collide), "
            "but a key names one image; rename one or keep them in different folders"
        )


def require_same(out: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise UserError that names what changed between two identities of a build."""
    changes = [f"{name} was {before.get(name)!r}, is {now[name]!r}" for name in now if before.get(name) != now[name]]
    if changes:
        raise UserError(
            f"{out} was begun from another source or with other options ({'; '.join(changes)}): "
            "its shards would not fit together; repeat the first command, or choose another OUT, or delete this one"
        )


def _taken(items: Iterable[Item | Skipped], skipped: Counter[str]) -> Iterator[Item]:
    for item in items:
        if isinstance(item, Skipped):
            skipped[item.reason] += 1
        else:
            yield item


def _chunks(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


def _batch(chunk: list[Item], numbers: dict[str, int]) -> pa.RecordBatch:
    labels = [-1 if item.label is None else numbers.setdefault(item.label, len(numbers)) for item in chunk]
    try:
        texts = [pa.array([item[column] for item in chunk], pa.large_string()) for column in (0, 2)]
    except UnicodeEncodeError as error:
        raise UserError(f"the file name {error.object!r} is not valid UTF-8 and cannot be a key; rename the file") from None
    sides = np.array([item.box or NO_BOX for item in chunk], np.float32).T  # (4, images)
    columns = [*texts, pa.array(labels, pa.int32()), *map(pa.array, sides)]
    return pa.record_batch(columns, names=["key", "place", "label", *BOX_COLUMNS])


def _whole(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _digest(rows: pa.RecordBatch, label_names: list[str]) -> str:
    """Changes with every key, place and label."""
    digest = hashlib.sha256(json.dumps(label_names).encode())
    digest.update(rows.serialize())
    return digest.hexdigest()


def _plain_name(out: Path) -> str:
    return re.sub(r"[^A-Za-z0-9_]+", "-", out.resolve().name).strip("-")[:64] or "corpus"


def _token(identity: Mapping[str, Any], sample: Sequence[StoredImage]) -> str:
    """Changes with the options, the list of images, and the sampled images."""
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode())
    for image in sample:
        digest.update(image.data)
    return digest.hexdigest()[:8]


def _sample(source: Source, rows: pa.RecordBatch, encoding: Encoding) -> list[StoredImage]:
    """Some images as they will be stored, spread over the rows."""
    stored, errors = [], []
    for row in np.linspace(0, len(rows) - 1, min(SAMPLE, len(rows))).astype(int):
        place = rows["place"][int(row)].as_py()
        try:
            stored.append(stored_image(source, place, encoding))
        except BadImageError as error:
            errors.append(f"{place} ({error})")
    if not stored:
        raise UserError(
            f"none of {len(errors)} sampled images can be decoded, the first being {errors[0]}; check SOURCE and --layout"
        )
    return stored
