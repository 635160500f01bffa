"""COLMAP: images of one or more reconstructions; clusters are models, pairs are images that see the same points.

n images of a model, p points of it, M pairs.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.sparse import csr_array

from largescale.settings import UserError

from .. import Item, Skipped, Source
from ..files import image_files, key_of, read_file, require_files
from ..layout import Layout, Request

MIN_SHARED = 16
"""Points that both images of a pair see, at least."""
MOST_PAIRS = 100
"""Pairs of a query, those with the most shared points."""
MODELS = ("images.bin", "images.txt")


class Colmap(Layout):
    name = "colmap"
    about = "COLMAP: images/ (--root) and models (cameras, images, points3D; .bin or .txt) in sparse/, sparse/0/, …"
    corpora = "one; labels are models, with pairs: shared points, overlap, scale change, camera distance"

    def recognize(self, source: Path) -> str | None:
        found = _folders(source)
        return f"{len(found)} model{'s' * (len(found) != 1)}, the first in {found[0].relative_to(source)}/" if found else None

    def read(self, request: Request) -> Mapping[str, Source]:
        if not _folders(request.source):
            raise UserError(f"{request.source} holds no model: expected cameras, images and points3D (.bin or .txt) below it")
        return {"": Reconstructions(request.source, request.root or request.source / "images")}


class SparseModel(NamedTuple):
    """What is used of a reconstruction."""

    names: list[str]
    """`(n,)` of the registered images."""
    sizes: csr_array
    """`(n, p)` focal length over depth of each observed point: how large an image shows what is there; 0: not seen."""
    centers: np.ndarray
    """`(n, 3)` of the cameras, in the units of the model."""


@dataclass(frozen=True)
class Reconstructions(Source):
    """The registered images of all models. One that several models have belongs to that with the most images."""

    source: Path
    root: Path
    layout: str = "colmap"
    labeled = True

    def items(self) -> Iterator[Item | Skipped]:
        first = self._first()
        require_files(self.root, first)
        for label, model in self._models():
            for name in model.names:
                yield Item(key_of(name), label, name) if first[name] == label else Skipped(name, "in a second model")
        for path in image_files(self.root):
            if isinstance(path, Skipped) or path not in first:
                yield path if isinstance(path, Skipped) else Skipped(path, "in no model")

    def read(self, place: str) -> bytes:
        return read_file(self.root / place)

    def pairs(self) -> Mapping[str, np.ndarray]:
        first, begin, columns = self._first(), 0, []
        for label, model in self._models():
            own = np.array([first[name] == label for name in model.names])
            number = begin + np.cumsum(own) - 1  # (n,) position among the images
            found = pairs_of(model, own)
            columns.append(found | {"query": number[found["query"]], "positive": number[found["positive"]]})
            begin += int(own.sum())
        return {name: np.concatenate([part[name] for part in columns]) for name in columns[0]}

    def _first(self) -> dict[str, str]:
        """The model that each image belongs to."""
        return {name: label for label, model in reversed(self._models()) for name in model.names}

    def _models(self) -> list[tuple[str, SparseModel]]:
        """Label and model, the one with the most images first."""
        found = [(str(folder.relative_to(self.source)), read_model(folder)) for folder in _folders(self.source)]
        return sorted(found, key=lambda one: -len(one[1].names))


def pairs_of(model: SparseModel, own: np.ndarray) -> dict[str, np.ndarray]:
    """Columns of `PAIR_COLUMNS`, `(M,)` each: both orders of each two images of `own` that share enough points.

    `scale` is the median over the shared points of how many times larger one image shows them than the other, at least 1.
    """
    seen = model.sizes.astype(bool).astype(np.int32)
    shared = (seen @ seen.T).tocoo()
    keep = (shared.row != shared.col) & (shared.data >= MIN_SHARED) & own[shared.row] & own[shared.col]
    query, positive, inliers = shared.row[keep], shared.col[keep], shared.data[keep]
    order = np.lexsort((positive, -inliers, query))
    query, positive, inliers = query[order], positive[order], inliers[order]
    rank = np.arange(len(query)) - np.searchsorted(query, query)
    query, positive, inliers = (column[rank < MOST_PAIRS] for column in (query, positive, inliers))
    points = np.diff(model.sizes.indptr)
    return {
        "query": query.astype(np.int64),
        "positive": positive.astype(np.int64),
        "inliers": inliers,
        "overlap": inliers / points[query],
        "scale": np.array([_scale(model.sizes, q, i) for q, i in zip(query, positive, strict=True)], np.float32),
        "distance": np.linalg.norm(model.centers[query] - model.centers[positive], axis=1),
    }


def _scale(sizes: csr_array, query: int, positive: int) -> float:
    """How many times larger one image shows the points of both."""
    (first, a), (second, b) = (
        (sizes.indices[part], sizes.data[part]) for part in (slice(*sizes.indptr[n : n + 2]) for n in (query, positive))
    )
    _, left, right = np.intersect1d(first, second, assume_unique=True, return_indices=True)
    return float(np.exp(abs(np.median(np.log(a[left] / b[right])))))


@lru_cache(maxsize=64)
def read_model(folder: Path) -> SparseModel:
    """A model through pycolmap.

    Raises:
        UserError: pycolmap is not installed, or the model cannot be read.
    """
    try:
        import pycolmap
    except ImportError:
        raise UserError("layout colmap needs pycolmap, which is not installed; pip install 'largescale[colmap]'") from None
    try:
        found = pycolmap.Reconstruction(str(folder))
    except Exception as error:  # the reader raises what its C++ raises
        raise UserError(f"{folder} is no model that pycolmap reads ({str(error).strip().splitlines()[-1]:.100})") from None
    images = sorted((image for image in found.images.values() if image.has_pose), key=lambda image: image.name)
    if not images:
        raise UserError(f"{folder} has no registered image; leave this model out")
    names = [image.name for image in images]
    if twice := next((name for name, after in pairwise(names) if name == after), None):
        raise UserError(
            f"{folder} has several images called {twice}: the text format of COLMAP cuts names at the first space; "
            "export the model as .bin, or rename the images"
        )
    if panorama := next((image.name for image in images if not image.camera.mean_focal_length()), None):
        raise UserError(
            f"{folder} has panoramas (such as {panorama}), which have no focal length to compare sizes by; leave this model out"
        )
    column = {id: n for n, id in enumerate(sorted(found.points3D))}
    points = np.array([found.points3D[id].xyz for id in column]).reshape(-1, 3)
    rows = [_sizes(image, column, points) for image in images]
    start = np.cumsum([0, *(len(numbers) for numbers, _ in rows)])
    sizes = csr_array(
        (np.concatenate([size for _, size in rows]), np.concatenate([numbers for numbers, _ in rows]), start),
        shape=(len(images), len(column)),
    )
    return SparseModel(names, sizes, np.array([image.projection_center() for image in images]))


def _sizes(image: Any, column: Mapping[int, int], points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the points that an image sees, each once, and focal length over depth."""
    seen = np.unique(np.array([column[point.point3D_id] for point in image.get_observation_points2D()], np.int64))
    depth = points[seen] @ image.cam_from_world().matrix()[2, :3] + image.cam_from_world().matrix()[2, 3]
    before = depth > 0
    return seen[before], image.camera.mean_focal_length() / depth[before]


def _folders(source: Path) -> list[Path]:
    """The folders of models: the source, sparse/, and the numbered folders in either."""
    places = [source, source / "sparse"]
    folders = [*places, *(path for place in places if place.is_dir() for path in sorted(place.iterdir()) if path.is_dir())]
    known = [folder for folder in dict.fromkeys(folders) if any((folder / name).is_file() for name in MODELS)]
    return [folder for folder in known if any(folder.glob("cameras.*")) and any(folder.glob("points3D.*"))]
