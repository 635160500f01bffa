"""CIFAR-10 and CIFAR-100: the binary version, the Python version, or a folder per class; stored as PNG, which loses nothing."""

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from largescale.settings import UserError

from .. import Item, Source
from ..files import require_files
from ..folder import Folder
from ..layout import Layout, Request
from ..pickles import load_plain

PIXELS = 3 * 32 * 32
BATCHES = {
    ("batches.meta", "train"): [f"data_batch_{number}" for number in range(1, 6)],
    ("batches.meta", "test"): ["test_batch"],
    ("meta", "train"): ["train"],
    ("meta", "test"): ["test"],
}
"""Files of a split by the file with the names of the classes: CIFAR-10 has `batches.meta`, CIFAR-100 has `meta`."""
NAMES = {"batches.meta.txt": "batches.meta", "fine_label_names.txt": "meta"}
LEVELS = {"batches.meta": ["label"], "meta": ["coarse_label", "fine_label"]}
"""What an image is labeled with, in the order of the bytes of the binary version."""


class CifarBatches(Layout):
    name = "cifar"
    about = "CIFAR-10/100: the folder of the binary or the Python version, or train/class/ and test/class/ folders"
    corpora = "train, test"

    def recognize(self, source: Path) -> str | None:
        return next((str(path.name) for path in _markers(source)), None)

    def read(self, request: Request) -> Mapping[str, Source]:
        return {split: cifar(request.source, split) for split in ("train", "test")}


@dataclass(frozen=True)
class Cifar(Source):
    """One split of CIFAR-10 (labels CLASS) or CIFAR-100 (labels COARSE/FINE), numbered in the order of its batches."""

    root: Path
    split: str
    layout: str = "cifar"
    labeled = True

    def items(self) -> Iterator[Item]:
        names, files = self._files()
        number = 0
        for file in files:
            for row, labels in enumerate(read_batch(self.root / file)[0].tolist()):
                label = "/".join(level[label] for level, label in zip(names, labels, strict=True))
                yield Item(f"{self.split}/{number:05d}", label, f"{file}@{row}")
                number += 1

    def read(self, place: str) -> bytes:
        file, _, row = place.rpartition("@")
        pixels = read_batch(self.root / file)[1][int(row)].reshape(3, 32, 32)
        buffer = io.BytesIO()
        Image.fromarray(pixels.transpose(1, 2, 0)).save(buffer, "PNG")
        return buffer.getvalue()

    def _files(self) -> tuple[list[list[str]], list[str]]:
        """Names of the classes of each level, and the batch files of the split."""
        for text, meta in NAMES.items():
            files = BATCHES[meta, self.split]
            if (self.root / text).is_file():
                texts = [text] if meta == "batches.meta" else [f"{level}_names.txt" for level in LEVELS[meta]]
                require_files(self.root, texts)
                return [(self.root / name).read_text().split() for name in texts], [f"{batch}.bin" for batch in files]
            if (self.root / meta).is_file():
                values = load_plain(self.root / meta)
                return [values[f"{level}_names"] for level in LEVELS[meta]], files
        raise UserError(f"{self.root} holds no CIFAR: expected one of {', '.join([*NAMES, *NAMES.values()])}")


@lru_cache(maxsize=6)
def read_batch(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Labels `(n, levels)` and pixels `(n, 3072)` (channels first) of a batch file of either version."""
    if not path.is_file():
        raise UserError(f"{path} is missing; download CIFAR again")
    levels = LEVELS["batches.meta" if "batch" in path.name else "meta"]
    if path.suffix == ".bin":
        if path.stat().st_size % (len(levels) + PIXELS):
            raise UserError(f"{path} is truncated; download CIFAR again")
        records = np.fromfile(path, np.uint8).reshape(-1, len(levels) + PIXELS)
        return records[:, : len(levels)], records[:, len(levels) :]
    values = load_plain(path)
    return np.stack([values[f"{level}s"] for level in levels], 1), values["data"]


def cifar(root: Path, split: str) -> Source:
    """The files of CIFAR in `root` or in the one folder below it, or `root / split` with a folder per class."""
    if (root / split).is_dir():
        return Folder(root / split, layout="cifar")
    found = sorted({path.parent for path in _markers(root)})
    if len(found) != 1:
        some = ", ".join(map(str, found)) or "none"
        raise UserError(f"expected one folder of CIFAR batches, or {split}/CLASS/ folders, in {root}; found {some}")
    return Cifar(found[0], split)


def _markers(root: Path) -> list[Path]:
    """Files with the names of classes in `root` and in the folders in it, whose batches are there too."""
    folders = (root, *sorted(root.glob("*/"))) if root.is_dir() else ()
    places = [folder / name for folder in folders for name in (*NAMES, *NAMES.values())]
    return [path for path in places if path.is_file()]
