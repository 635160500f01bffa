"""What img2dataset writes: tars, files or Parquet, with a Parquet file of metadata and a JSON file of statistics per shard."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq

from largescale.settings import UserError

from . import Item, Skipped, Source
from .files import image_files, key_of, read_file
from .layout import Layout, Request
from .tables.columns import text
from .tables.pictures import Parquet
from .tars import Tars, tar_files

COUNTS = ("count", "successes", "failed_to_download", "failed_to_resize")
SIDES = ("width", "height", "original_width", "original_height")


class Img2Dataset(Layout):
    name = "img2dataset"
    about = "img2dataset's output: NNNNN.tar, NNNNN/ or NNNNN.parquet, or any folder of WebDataset tars; --label-field FIELD"

    def recognize(self, source: Path) -> str | None:
        if not source.is_dir():
            return None
        found = next(source.glob("*_stats.json"), None) or next(source.glob("*.tar"), None)
        return found.name if found else None

    def read(self, request: Request) -> Mapping[str, Source]:
        source, field = request.source, request.label_field
        report(source)
        metadata = sorted(source.glob("*.parquet"))
        if metadata and "jpg" in pq.read_schema(metadata[0]).names:
            return {"": Parquet(tuple(metadata), self.name, field)}
        if not tar_files(source) and any(source.glob("*_stats.json")):
            return {"": Files(source, field)}
        return {"": Tars(source, field)}


@dataclass(frozen=True)
class Files(Source):
    """`NNNNN/KEY.jpg` with `KEY.json` beside it."""

    root: Path
    label_field: str | None = None
    layout: str = "img2dataset"

    @property
    def labeled(self) -> bool:  # type: ignore[override]
        return self.label_field is not None

    def items(self) -> Iterator[Item | Skipped]:
        for path in image_files(self.root):
            if isinstance(path, str):
                yield Item(key_of(path), self._label(path) if self.label_field else None, path)
            elif not path.place.endswith((".json", ".parquet", ".txt")):
                yield path

    def read(self, place: str) -> bytes:
        return read_file(self.root / place)

    def _label(self, path: str) -> str | None:
        facts = self.root / (os.path.splitext(path)[0] + ".json")
        try:
            values = json.loads(facts.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError) as error:
            raise UserError(f"{facts} cannot be read ({error}), but --label-field {self.label_field} is a field of it") from None
        if self.label_field not in values:
            raise UserError(f"{facts} has no field {self.label_field!r}; it has: {', '.join(values)}")
        return text(values[self.label_field])


def report(source: Path) -> None:
    """Print what img2dataset says of its run, and whether it changed the shape of the images."""
    stats = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(source.glob("*_stats.json"))]
    if stats:
        sums = {name: sum(int(values.get(name, 0)) for values in stats) for name in COUNTS}
        said = ", ".join(f"{sums[name]:,} {name.replace('_', ' ')}" for name in COUNTS[1:])
        print(f"img2dataset reports {sums['count']:,} rows in {len(stats):,} shards: {said}", flush=True)
    if share := padded_or_cut(sorted(source.glob("*.parquet"))[:1]):
        print(
            f"warning: {share:.0%} of the images in the first shard are square and their originals are not: --resize_mode border "
            "(img2dataset's default) has put white borders around them, or center_crop has cut them; --resize_mode keep_ratio "
            "or keep_ratio_largest does neither",
            flush=True,
        )


def padded_or_cut(metadata: Sequence[Path]) -> float:
    """Share of the images that are square while their originals are not, by the metadata of a shard."""
    for path in metadata:
        if set(SIDES) <= set(pq.read_schema(path).names):
            table = pq.read_table(path, columns=list(SIDES)).drop_null()
            square = pc.equal(table["width"], table["height"])
            changed = pc.and_(square, pc.not_equal(table["original_width"], table["original_height"]))
            return (pc.sum(changed).as_py() or 0) / max(len(table), 1) if pc.all(square).as_py() else 0.0
    return 0.0
