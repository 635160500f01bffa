"""What an image is recognized by without a network: the hash of its bytes, and one that survives another size or quality.

n images
"""

import hashlib
import io
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from largescale.commit import array_fault, read_array, write_array
from largescale.corpus.corpus import Corpus
from largescale.cpu import own_cores
from largescale.distributed import World
from largescale.evaluation.descriptors.store import WAIT_S
from largescale.processes import StoppedError

BITS = 128
_SHA, _SIDE = 32, 9
_PENDING = 64


@dataclass(frozen=True)
class Hashes:
    """Of all images of a corpus."""

    table: np.ndarray
    """`(n, 48)` uint8: SHA-256 of the bytes, then the perceptual hash."""

    @property
    def exact(self) -> np.ndarray:
        """`(n, 32)`"""
        return self.table[:, :_SHA]

    @property
    def perceptual(self) -> np.ndarray:
        """`(n, 16)`"""
        return np.ascontiguousarray(self.table[:, _SHA:])


def hash_image(encoded: bytes) -> np.ndarray:
    """`(48,)` uint8 of one image. What cannot be decoded has a perceptual hash that is like no other's."""
    exact = hashlib.sha256(encoded).digest()
    try:
        image = Image.open(io.BytesIO(encoded))
        image.draft("L", (8 * _SIDE, 8 * _SIDE))
        perceptual = difference_hash(image)
    except (OSError, Image.DecompressionBombError):
        perceptual = exact[: BITS // 8]
    return np.frombuffer(exact + perceptual, dtype=np.uint8)


def difference_hash(image: Image.Image) -> bytes:
    """128 bits: whether each cell of an 8 x 8 grid is brighter than its left, and than its upper neighbor (dHash, both ways)."""
    grid = np.asarray(image.convert("L").resize((_SIDE, _SIDE), Image.Resampling.BOX), dtype=np.int16)
    across, down = grid[:-1, 1:] > grid[:-1, :-1], grid[1:, :-1] > grid[:-1, :-1]
    return np.packbits(np.concatenate([across.ravel(), down.ravel()])).tobytes()


def hash_corpus(corpus: Corpus, store: Path, world: World, should_stop: Callable[[], bool]) -> None:
    """Hash the shards that are not done yet; ranks share them, and a killed pass goes on.

    Raises:
        StoppedError: `should_stop` said so on some rank.
    """
    pending = world.decide(lambda: [s for s in range(len(corpus.manifest.shards)) if not _is_done(_file(corpus, store, s))])
    with ThreadPoolExecutor(own_cores()) as pool:
        for shard in pending[world.share(len(pending))]:
            if should_stop():
                break
            rows: list[np.ndarray] = []
            encoded: list[bytes] = []
            for _, data in corpus.stream(shard):
                encoded.append(data)
                if len(encoded) == _PENDING:
                    rows += pool.map(hash_image, encoded)
                    encoded.clear()
            rows += pool.map(hash_image, encoded)
            write_array(_file(corpus, store, shard), np.stack(rows))
    world.barrier(WAIT_S)
    if world.any(should_stop()):
        raise StoppedError


def read_hashes(corpus: Corpus, store: Path, shards: Sequence[int]) -> Hashes:
    """Of the images of these shards, in their order."""
    return Hashes(
        np.concatenate([np.zeros((0, _SHA + BITS // 8), np.uint8), *(read_array(_file(corpus, store, s)) for s in shards)])
    )


def _is_done(path: Path) -> bool:
    return path.exists() and array_fault(path) is None


def _file(corpus: Corpus, store: Path, shard: int) -> Path:
    return store / f"{corpus.manifest.name}-{corpus.manifest.fingerprint}-hashes" / f"shard-{shard:05d}.npy"
