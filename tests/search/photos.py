"""Folders of pictures and a small model for tests of the search."""

import struct
import zlib
from pathlib import Path

from PIL import Image

import largescale
from largescale import Model
from largescale.models.sharing.folder import Contents, DescriptorConfig, write_folder
from largescale.precision import Precision
from tests.corpora import photograph
from tests.evaluation.small import SIZE, tiny_network


def make_model(folder: Path, precision: Precision = "auto") -> Model:
    network = tiny_network()
    write_folder(folder, Contents(network, DescriptorConfig(size=SIZE, dim=network.dim, precision=precision)), "")
    return largescale.load(folder, device="cpu")


def make_photos(folder: Path, labels: int = 5, per_label: int = 4) -> Path:
    """`label N/view N.jpg`: names with spaces, and one with letters of several scripts."""
    for label in range(labels):
        for view in range(per_label):
            name = f"søk 検索 {view}.jpg" if label == 0 else f"view {view}.jpg"
            path = folder / f"label {label}" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(photograph(label, view, 96, 72)).save(path, quality=92)
    return folder


def bomb(side: int) -> bytes:
    """A PNG of few bytes that says that it has `side` x `side` pixels."""
    parts = [(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
    chunks = [struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)
