"""Small corpora for tests: real tars, real JPEGs, a real manifest, the same bytes on every call."""

import io
import json
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from PIL import Image

from largescale.commit import read_json, write_json
from largescale.corpus.manifest import Shard, fingerprint_of, sha256_of, write_manifest


def photograph(label: int, view: int, width: int, height: int) -> np.ndarray:
    """`(height, width, 3)` uint8: waves whose frequencies and colors belong to the label, shifted and lit by the view."""
    of_label, of_view = np.random.default_rng([1, label + 1]), np.random.default_rng([2, label + 1, view])
    y, x = np.mgrid[0:height, 0:width] / max(width, height)
    waves = of_label.uniform(-25, 25, (6, 2)) @ np.stack([x.ravel(), y.ravel()]) + of_view.uniform(0, 1, (6, 1))
    colors = np.sin(waves).T @ of_label.uniform(-60, 60, (6, 3)) + of_label.uniform(90, 160, 3)
    pixels = colors * of_view.uniform(0.8, 1.2) + of_view.normal(0, 6, colors.shape)
    return pixels.clip(0, 255).astype(np.uint8).reshape(height, width, 3)


def encode(pixels: np.ndarray, format: str = "JPEG", quality: int = 90) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format, quality=quality)
    return buffer.getvalue()


def make_corpus(
    directory: Path,
    labels: int = 6,
    per_label: int = 4,
    shards: int = 2,
    size: int = 32,
    pairs: bool = False,
    unlabeled: int = 0,
    mixed: bool = False,
    replace: Mapping[int, bytes] | None = None,
    names: Sequence[str] | None = None,
) -> Path:
    """A complete corpus of `labels * per_label + unlabeled` images whose longest side is `size`.

    Args:
        pairs: write `pairs.arrow`: each labeled image with the next image of its label.
        unlabeled: images with label -1 after the others.
        mixed: landscape, portrait and square images in turn instead of landscapes (4:3) only.
        names: those of the labels.
        replace: other bytes for some images by id; the manifest keeps the size in pixels of the original.
    """
    label = np.concatenate([np.repeat(np.arange(labels), per_label), np.full(unlabeled, -1)])
    view = np.concatenate([np.tile(np.arange(per_label), labels), labels * per_label + np.arange(unlabeled)])
    shapes = [(size, size * 3 // 4), (size * 3 // 4, size), (size, size)]

    def images() -> Iterator[tuple[bytes, int, int]]:
        for i in range(len(label)):
            width, height = shapes[i % 3 if mixed else 0]
            yield (replace or {}).get(i) or encode(photograph(int(label[i]), int(view[i]), width, height)), width, height

    return write_corpus(directory, images(), label, shards, _pairs(labels, per_label) if pairs else None, names)


def write_corpus(
    directory: Path,
    images: Iterable[tuple[bytes, int, int]],
    label: np.ndarray,
    shards: int = 1,
    pairs: Mapping[str, np.ndarray] | None = None,
    names: Sequence[str] | None = None,
) -> Path:
    """A complete corpus of encoded images, given with their widths and heights."""
    directory.mkdir(parents=True, exist_ok=True)
    columns: dict[str, list] = {name: [] for name in ("key", "shard", "offset", "size", "width", "height", "checksum")}
    written, rest = [], iter(images)
    for shard, ids in enumerate(np.array_split(np.arange(len(label)), shards)):
        path = directory / f"shard-{shard:05d}.tar"
        with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
            for i, (data, width, height) in zip(ids.tolist(), rest, strict=False):
                offset = _add(tar, f"{i:06d}.jpg", data)
                _add(tar, f"{i:06d}.json", json.dumps({"label": int(label[i])}).encode())
                row = (f"{i:06d}", shard, offset, len(data), width, height, xxhash.xxh3_64_intdigest(data))
                for column, value in zip(columns.values(), row, strict=True):
                    column.append(value)
        written.append(Shard(path.name, len(ids), path.stat().st_size, sha256_of(path)))
    names = names or [f"label {i}" for i in range(label.max(initial=-1) + 1)]
    write_manifest(directory, directory.name, written, columns | {"label": label}, names, {"layout": "test"}, pairs)
    return directory


def change_manifest(folder: Path, **values: Any) -> None:
    """Write other values, with the fingerprint that belongs to them: as somebody would who knows how."""
    written = read_json(folder / "manifest.json") | values
    shards = [Shard(**shard) for shard in written["shards"]]
    write_json(folder / "manifest.json", written | {"fingerprint": fingerprint_of(shards, written["files"])} | values)


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> int:
    """Append a member; returns the position of its first byte."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    position = tar.offset + tarfile.BLOCKSIZE  # type: ignore[attr-defined]
    tar.addfile(info, io.BytesIO(data))
    return position


def _pairs(labels: int, per_label: int) -> dict[str, np.ndarray]:
    query = np.arange(labels * per_label)
    positive = query - query % per_label + (query + 1) % per_label
    inliers, overlap = 20 + query % 50, np.linspace(0.1, 0.9, len(query))
    return {"query": query, "positive": positive, "inliers": inliers, "overlap": overlap}
