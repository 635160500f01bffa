"""An index of pictures on disk, and what is asked of it.

    index = Index.build(model, "photos/", "photos.index")
    for hit in index.search("query.jpg", k=20, box=(10, 20, 200, 180)):
        print(hit.score, hit.path)

Q queries, D dimensions, n rows.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pyarrow as pa

from largescale.config import check
from largescale.program.cli import called
from largescale.search.find import Options, find
from largescale.search.manifest import FILE, IndexManifest, Kind, Metric
from largescale.search.segment import room_on_disk, table_of
from largescale.search.source import Added, add_files, describe_pictures, files
from largescale.search.verify import Sought
from largescale.search.view import IndexView
from largescale.search.writer import writing
from largescale.settings import UserError

if TYPE_CHECKING:
    from largescale.corpus.decoding.pictures import Picture
    from largescale.describing.model import Model
    from largescale.precision import Resolved

log = logging.getLogger(__name__)
Box = Sequence[float]
"""x0, y0, x1, y1 in pixels of the upright picture."""


@dataclass(frozen=True)
class Hit:
    """A picture that was found."""

    score: float
    """Inner product of unit rows; for the metric l2 the squared distance, below zero; of a re-ranking its score."""
    key: str
    """Its name in the index: the path below the folder that was added."""
    label: str | None
    path: str | None
    """Its file, where it was when it was added."""
    width: int | None
    height: int | None
    inliers: int | None = None
    """Local features that agree with the query's (verify); 0 of a picture that was not compared."""


class Index:
    """Rows with keys, in a folder that several processes may read while one changes it.

    What is read is the index as it was when it was opened; `refresh` takes over what others have changed.
    """

    def __init__(self, folder: Path, view: IndexView, model: "Model | None" = None) -> None:
        self.folder, self.view, self.model = folder, view, model

    @staticmethod
    def create(
        folder: str | Path,
        dim: int,
        metric: Metric = "cosine",
        *,
        model: "Model | None" = None,
        factory: str = "auto",
        memory: int = Kind.memory,
        min_recall: float = Kind.min_recall,
        thumbnails: int = IndexManifest.thumbnails,
    ) -> "Index":
        """An empty index.

        Args:
            factory: exact, a FAISS factory string such as IVF4096,SQ8 (its candidates are scored with the rows), or auto: exact
                while the rows fit `memory`, else lists of codes, searched as deep as `min_recall` takes.
            memory: bytes.
            min_recall: share of the true 20 neighbors that an approximate index shall find, measured on 256 rows.
            thumbnails: longest side of the pictures that are kept to be shown; 0: none.

        Raises:
            UserError: the folder holds something.
        """
        folder = Path(folder)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            what = f"an index; {called('search')} add adds to it" if (folder / FILE).exists() else "something else"
            raise UserError(f"{folder} holds {what}: give another folder, or remove it")
        kind = Kind(factory, memory, min_recall)
        manifest = IndexManifest(dim, metric, kind, thumbnails=thumbnails)
        if model is not None:
            manifest = replace(manifest, model=model.digest, precision=model.precision, location=model.location)
        with room_on_disk(folder):
            folder.mkdir(parents=True, exist_ok=True)
            manifest.commit(folder)
        return Index(folder, IndexView.open(folder), model)

    @staticmethod
    def build(model: "Model", source: str | Path, folder: str | Path, *, prefix: str = "", **settings: Any) -> "Index":
        """An index of the pictures below a folder; pictures that cannot be used are logged. `settings` are those of `create`."""
        found = files(Path(source), prefix)
        index = Index.create(folder, model.dim, model.metric, model=model, **settings)  # type: ignore[arg-type]
        index._add(found)
        return index

    @staticmethod
    def open(folder: str | Path, model: "Model | None" = None) -> "Index":
        """
        Args:
            model: the one that made the rows, which computes in their precision from here on; without it, only rows and keys can
                be asked for.

        Raises:
            UserError: no index, one of another version or altered, or one that another model has made.
        """
        view = IndexView.open(Path(folder))
        if model is not None and model.digest != view.manifest.model:
            raise UserError(
                f"{folder} was made by the model {view.manifest.model or '(rows without a model)'}, and this is {model.digest}: "
                "their descriptors cannot be compared; give the model that made the index, or build it again"
            )
        return Index(Path(folder), view, model and _as_built(model, view.manifest.precision))

    def __len__(self) -> int:
        return self.view.manifest.rows

    def refresh(self) -> "Index":
        """The index as it is now."""
        if IndexManifest.read(self.folder) != self.view.manifest:
            self.view = IndexView.open(self.folder)
        return self

    def add(self, source: str | Path, *, prefix: str = "") -> Added:
        """Add the pictures below a folder: those that are new, and those that have changed. Keys begin with `prefix`."""
        return self._add(files(Path(source), prefix))

    def _add(self, found: Any) -> Added:
        with writing(self.folder) as writer:
            try:
                return add_files(writer, self._model(), found)
            finally:
                self.view = writer.view

    def add_rows(
        self, rows: np.ndarray, keys: Sequence[str], labels: Sequence[str | None] | None = None, wait_s: float = 0.0
    ) -> None:
        """Add rows `(n, D)` that were made elsewhere; they take the place of those with the same keys.

        Raises:
            UserError: rows that are not finite, not of the index's dimension, or under the metric cosine not unit; keys twice, or
                keys and labels that are no text.
        """
        if len(rows) != len(keys) or len(set(keys)) != len(keys):
            raise UserError(f"{len(rows):,} rows need as many different keys, found {len(set(keys)):,} in {len(keys):,}")
        try:
            table = table_of({"key": keys, "label": labels})
        except (pa.ArrowException, UnicodeError) as error:
            raise UserError(f"keys and labels are text, one for each row; labels may be None ({error})") from None
        with writing(self.folder, wait_s) as writer:
            writer.append(np.ascontiguousarray(rows, np.float32), table)
            self.view = writer.view

    def remove(self, keys: Sequence[str], wait_s: float = 0.0) -> int:
        """Remove rows by their keys; how many there were."""
        with writing(self.folder, wait_s) as writer:
            ids = writer.view.find(keys)
            writer.remove(ids[ids >= 0])
            self.view = writer.view
            return int((ids >= 0).sum())

    def search(
        self,
        pictures: "Picture | Sequence[Picture] | None" = None,
        k: int = 20,
        *,
        box: Box | None = None,
        key: str | None = None,
        **options: Any,
    ) -> list[Hit]:
        """What is most like a picture.

        Args:
            pictures: a file, encoded bytes, Pillow image or array; several are asked for by the mean of their rows.
            box: the part of the (only) picture that is looked for.
            key: a picture of the index, in place of pictures; it is not among the results.
            options: see `Options`: label, path, expand, alpha, rerank, verify.

        Raises:
            UserError: no such key, a picture that cannot be used or is not there, an option that does not exist.
        """
        asked = check(Options, {"k": k, **options})
        if (pictures is None) == (key is None):
            raise UserError("a search needs pictures, or the key of one that is in the index, and not both")
        if key is not None:
            row, own = self.row(key, box)
            return self.search_rows(row, asked, own, [Sought(box=box)])[0]
        several: list[Any] = list(pictures) if isinstance(pictures, list | tuple) else [pictures]
        if not several:
            raise UserError("a search needs one picture or more, found an empty list")
        if box is not None and len(several) > 1:
            raise UserError("a box belongs to one picture; cut the others before they are given")
        query = self.mean(self.describe(several, None if box is None else [box]))
        return self.search_rows(query, asked, sought=[Sought(several, box)])[0]

    def search_rows(
        self, queries: np.ndarray, options: Options, own: np.ndarray | None = None, sought: Sequence[Sought] = ()
    ) -> list[list[Hit]]:
        """As `search`, for rows `(Q, D)`; see `find`."""
        found = find(self.view, queries, options, own, sought)
        inliers = [None] * len(queries) if found.inliers is None else found.inliers
        return [self.hits(*of_query) for of_query in zip(found.ids, found.scores, inliers, strict=True)]

    def hits(self, ids: np.ndarray, scores: np.ndarray, inliers: np.ndarray | None = None) -> list[Hit]:
        """`(K,)` numbers of rows, -1 for none."""
        found = ids >= 0
        table = self.view.table(ids[found], "key", "label", "path", "width", "height").to_pylist()
        agree = [None] * len(table) if inliers is None else inliers[found].tolist()
        return [Hit(float(score), **row, inliers=n) for score, row, n in zip(scores[found], table, agree, strict=True)]

    def row(self, key: str, box: Box | None = None) -> tuple[np.ndarray, np.ndarray]:
        """`(1, D)` the row of a picture of the index, or of a part of it; and its number, `(1,)`."""
        own = self.view.find([key])
        if own[0] < 0:
            raise UserError(f"{key!r} is not in the index")
        if box is None:
            return self.view.take(own), own
        path = self.view.table(own, "path")["path"][0].as_py()
        if path is None or not Path(path).exists():
            raise UserError(f"the file of {key!r} is no longer there, so no part of it can be looked for")
        found = describe_pictures(self._model(), [path], [box])
        if found.faults:
            raise UserError(f"{key!r} cannot be used: {found.faults[0]}")
        return found.rows, own

    def describe(self, pictures: Sequence["Picture"], boxes: Sequence[Box] | None = None) -> np.ndarray:
        """`(n, D)`."""
        return self._model().embed(pictures, boxes=boxes)

    def mean(self, rows: np.ndarray) -> np.ndarray:
        """`(n, D)` -> `(1, D)`: one query of several pictures."""
        mean = rows.mean(axis=0, keepdims=True, dtype=np.float64)
        if self.view.manifest.metric == "cosine" and len(rows) > 1:
            mean /= max(float(np.linalg.norm(mean)), 1e-12)
        return mean.astype(np.float32)

    def thumbnail(self, key: str) -> bytes | None:
        """A small JPEG of a picture of the index, where one was kept."""
        ids = self.view.find([key])
        return None if ids[0] < 0 else self.view.table(ids, "thumbnail")["thumbnail"][0].as_py()

    def _model(self) -> "Model":
        if self.model is None:
            raise UserError(f"{self.folder} was opened without its model, so pictures cannot be described: give model=…")
        return self.model


def _as_built(model: "Model", precision: str | None) -> "Model":
    """In the numbers of the rows of its index: rows of others are not compared with them."""
    if precision != model.precision:
        log.info("describes in %s, as the rows of the index are, and not in %s as it would here", precision, model.precision)
    return model.computing_in(cast("Resolved", precision))
