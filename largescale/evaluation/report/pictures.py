"""Thumbnails of the images that a report shows, each written once."""

import io
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from largescale.corpus.corpus import Corpus
from largescale.evaluation.results import Missed, Neighbor, QueryRecord
from largescale.program.progress import tracked

SIDE = 160
QUALITY = 80
Picture = tuple[str, int]
"""Which folder of thumbnails, and the image id in its corpus."""


@dataclass(frozen=True)
class RankedPictures:
    """The corpora whose images an evaluation ranked."""

    queries: Corpus
    gallery: Corpus
    distractors: Sequence[Corpus] = ()

    def corpus(self, folder: str) -> Corpus:
        named = {"queries": self.queries, "gallery": self.gallery}
        return named[folder] if folder in named else self.distractors[int(folder.removeprefix("distractors-"))]

    def box(self, record: QueryRecord) -> str | None:
        """The query's cropped region as CSS, in percent of the picture."""
        if record.box is None:
            return None
        manifest = self.queries.manifest
        width, height = float(manifest.width[record.id]), float(manifest.height[record.id])
        x0, y0, x1, y1 = record.box
        sides = {"left": x0 / width, "top": y0 / height, "width": (x1 - x0) / width, "height": (y1 - y0) / height}
        return ";".join(f"{side}:{100 * share:.2f}%" for side, share in sides.items())

    def path(self, picture: Picture) -> str:
        """Below the folder of a report: named after the corpus and the image, so that no picture is taken for another."""
        return f"images/{self.corpus(picture[0]).manifest.fingerprint}/{picture[1]}.jpg"

    def write(self, directory: Path, wanted: Iterable[Picture]) -> None:
        """Write the thumbnails of `wanted` under `directory`, in the order in which the tars hold them."""
        missing = sorted(picture for picture in set(wanted) if not (directory / self.path(picture)).exists())
        for picture in tracked(missing, "report", len(missing), "image"):
            (encoded,) = self.corpus(picture[0]).read([picture[1]])
            file = directory / self.path(picture)
            file.parent.mkdir(parents=True, exist_ok=True)
            temporary = file.with_name(f".{file.name}.{os.getpid()}.partial")
            temporary.write_bytes(thumbnail(encoded))
            temporary.replace(file)  # not synced: it can be made again


def of_query(record: QueryRecord) -> Picture:
    return "queries", record.id


def of_neighbor(neighbor: Neighbor) -> Picture:
    return ("gallery" if neighbor.part == "gallery" else f"distractors-{neighbor.corpus}"), neighbor.id


def of_missed(missed: Missed) -> Picture:
    return "gallery", missed.id


def of_record(record: QueryRecord) -> list[Picture]:
    """The query and the rows it found."""
    return [of_query(record), *map(of_neighbor, record.top)]


def thumbnail(encoded: bytes) -> bytes:
    """A JPEG of at most `SIDE` pixels; a gray square for an image that cannot be decoded."""
    try:
        image: Image.Image = Image.open(io.BytesIO(encoded))
        image.thumbnail((SIDE, SIDE))
        image = image.convert("RGB")
    except OSError:
        image = Image.new("RGB", (SIDE, SIDE), "gray")
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()
