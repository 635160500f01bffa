"""Pictures of an index that are nearly the same, as groups, and the similarity from which they are.

N rows, D dimensions, M pairs.
"""

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from largescale.corpus.decoding.pixels import BadImageError, rgb_pixels
from largescale.search.lists import sample
from largescale.search.scan import exact_scores, slack
from largescale.search.source import describe_pictures
from largescale.search.view import IndexView
from largescale.settings import UserError

if TYPE_CHECKING:
    from largescale.describing.model import Model

BLOCK, TILE = 1024, 16384
NEIGHBORS = 64
"""Of each row that an approximate index is asked for."""
SAMPLE = 200
"""Pictures that known duplicates are made of, and rows whose nearest neighbor tells what is no duplicate."""


class Threshold(NamedTuple):
    """Chosen from known duplicates."""

    value: float
    known: int
    """Pairs of known duplicates."""
    others: float
    """Share of a sample of the index's rows that have another row so near: what the threshold takes for duplicates."""

    def __str__(self) -> str:
        return (
            f"threshold {self.value:.4f}, from {self.known:,} known duplicates; {100 * self.others:.1f} % of the pictures have "
            "another that is so near"
        )


def threshold_of(view: IndexView, known: np.ndarray, share: float) -> Threshold:
    """The similarity that a share of the known duplicates reach.

    Args:
        known: `(M,)` similarities of pairs that are known to be duplicates.
    """
    if not len(known):
        raise UserError("no known duplicates are left to choose a threshold from: give threshold=…")
    value = float(np.quantile(known, 1 - share, method="lower"))
    queries = sample(view.segments, SAMPLE)
    _, scores = view.nearest(queries, 2)  # the first is the row itself
    others = float(np.mean(scores[:, 1] >= value)) if scores.shape[1] > 1 else 0.0
    return Threshold(value, len(known), others)


def known_pairs(view: IndexView, path: Path) -> np.ndarray:
    """`(M,)` similarities of the pairs of keys in a file, two in each line with a tab between."""
    try:
        lines = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"known={path} cannot be read ({error})") from None
    wrong = [number for number, pair in enumerate(lines, 1) if len(pair) != 2]
    if wrong:
        raise UserError(f"known={path}: line {wrong[0]} has no two keys with a tab between")
    ids = view.find([key for pair in lines for key in pair]).reshape(-1, 2)
    if (ids < 0).any():
        missing = lines[int(np.argwhere(ids < 0)[0, 0])]
        raise UserError(f"known={path}: {' or '.join(missing)} is not in the index")
    return exact_scores(view.take(ids[:, 0]), np.arange(len(ids)), view.take(ids[:, 1]), view.manifest.metric)


def made_pairs(view: IndexView, model: "Model") -> np.ndarray:
    """`(M,)` similarities of some pictures of the index with the same pictures halved, cut at the border, and compressed."""
    stride = max(1, view.manifest.rows // SAMPLE)
    ids = np.flatnonzero(view.live)[::stride][:SAMPLE]
    paths = view.table(ids, "path")["path"].to_pylist()
    made = [(id, altered) for id, path in zip(ids, paths, strict=True) if path and (altered := _altered(Path(path))) is not None]
    if not made:
        raise UserError("the files of the index are not there, so no duplicates can be made of them: give threshold=… or known=…")
    found = describe_pictures(model, [data for _, data in made])
    good = np.array([place for place in range(len(made)) if place not in found.faults], np.int64)
    own = view.take(np.array([id for id, _ in made])[good])
    return exact_scores(own, np.arange(len(good)), found.rows[good], view.manifest.metric)


def _altered(path: Path) -> bytes | None:
    try:
        pixels = Image.fromarray(rgb_pixels(path.read_bytes()))
    except (OSError, BadImageError):  # gone, or damaged since
        return None
    width, height = pixels.size
    border = (width // 50, height // 50, width - width // 50, height - height // 50)
    buffer = io.BytesIO()
    pixels.crop(border).resize((max(1, width // 2), max(1, height // 2))).save(buffer, "JPEG", quality=60)
    return buffer.getvalue()


def groups(view: IndexView, threshold: float) -> Iterator[list[tuple[int, float]]]:
    """Groups of rows of which each is as similar to another of the group as the threshold: a chain makes one group.

    Returns:
        Rows with their similarity to the first of their group, which has the lowest number; large groups first.
    """
    pairs = np.concatenate([np.empty((0, 2), np.int64), *_pairs(view, threshold)])
    nodes = np.unique(pairs)
    left, right = np.searchsorted(nodes, pairs[:, 0]), np.searchsorted(nodes, pairs[:, 1])
    edges = sparse.coo_matrix((np.ones(len(pairs), bool), (left, right)), shape=(len(nodes), len(nodes)))
    group = connected_components(edges, directed=False)[1]
    members = np.split(nodes[np.argsort(group, kind="stable")], np.cumsum(np.bincount(group))[:-1]) if len(nodes) else []
    for ids in sorted(members, key=lambda ids: (-len(ids), ids[0])):
        first = np.zeros(len(ids), np.int64)
        yield list(
            zip(ids.tolist(), exact_scores(view.take(ids[:1]), first, view.take(ids), view.manifest.metric).tolist(), strict=True)
        )


def _pairs(view: IndexView, threshold: float) -> Iterator[np.ndarray]:
    """`(m, 2)` rows, the lower number first, that are as similar as the threshold."""
    ids = np.flatnonzero(view.live)
    approximate = view.manifest.kind.trained is not None
    for start in range(0, len(ids), BLOCK):
        own = ids[start : start + BLOCK]
        yield _listed(view, own, threshold) if approximate else _compared(view, own, ids[start:], threshold)


def _listed(view: IndexView, own: np.ndarray, threshold: float) -> np.ndarray:
    """As far as an approximate index finds them."""
    near, scores = view.nearest(view.take(own), NEIGHBORS)
    query, column = np.nonzero((near >= 0) & (scores >= threshold) & (near != own[:, None]))
    return np.sort(np.stack([own[query], near[query, column]], axis=1), axis=1)


def _compared(view: IndexView, own: np.ndarray, others: np.ndarray, threshold: float) -> np.ndarray:
    """With all rows from the first of the block on."""
    rows, metric, found = view.take(own), view.manifest.metric, [np.empty((0, 2), np.int64)]
    off = slack(rows, max(segment.entry.largest for segment in view.segments), metric)[:, None]
    for start in range(0, len(others), TILE):
        ids = others[start : start + TILE]
        tile = view.take(ids)
        scores = rows @ tile.T
        if metric == "l2":
            scores = 2 * scores - np.square(rows).sum(1)[:, None] - np.square(tile).sum(1)
        a, b = np.nonzero((scores >= threshold - off) & (own[:, None] < ids))
        sure = exact_scores(rows, a, tile[b], metric) >= threshold
        found.append(np.stack([own[a[sure]], ids[b[sure]]], axis=1))
    return np.concatenate(found)


def written(view: IndexView, found: Sequence[list[tuple[int, float]]]) -> str:
    """A line for each row: group, similarity to the first of the group, key."""
    lines = []
    for number, group in enumerate(found, 1):
        keys = view.table(np.array([id for id, _ in group]), "key")["key"].to_pylist()
        lines += [f"{number}\t{score:.4f}\t{key}" for key, (_, score) in zip(keys, group, strict=True)]
    return "".join(f"{line}\n" for line in lines)
