"""Descriptors on disk: one file per shard and scale, committed by a marker, so that a killed pass goes on in any world.

A store holds a folder per (network, preprocessing, images, scale). Ranks own disjoint shards and need no collectives to fill it.
Sealing checks that every image has exactly one finite unit row; without it there is no score.

n images, S scales, D dimensions
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from largescale.commit import DamagedError, checksum_of, read_array, read_json, write_array, write_json, write_text
from largescale.corpus.batches.batches import BadImage
from largescale.corpus.corpus import Corpus
from largescale.distributed import World
from largescale.embedding import Embedded, Embedder
from largescale.models.network import RetrievalNet
from largescale.models.transform.multiscale import AtScales
from largescale.processes import StoppedError
from largescale.program.progress import progress_bar
from largescale.settings import UserError

UNIT = 1e-3
"""How far the norm of a row may be from 1."""
HALF_BEYOND = 200_000
"""Sets of more images are stored in half precision; they are scored in single precision all the same."""
WAIT_S = 7 * 24 * 3600
SEALED = "sealed.json"


class Descriptors:
    """Descriptors of some images of a corpus by one network at one scale, before whitening."""

    def __init__(
        self,
        store: Path,
        corpus: Corpus,
        identity: Mapping[str, Any],
        dim: int,
        scale: float = 1.0,
        ids: np.ndarray | None = None,
        boxes: np.ndarray | None = None,
        unit: bool = True,
    ) -> None:
        """
        Args:
            identity: what else the rows depend on: network, preprocessing.
            ids: `(n,)` sorted image ids; None for the whole corpus.
            boxes: `(n, 4)` regions that are cut out of the images.
            unit: whether rows have length 1; else any that is finite.
        """
        self.unit = unit
        self.corpus, self.manifest = corpus, corpus.manifest
        self.ids = np.arange(len(self.manifest)) if ids is None else ids
        self.boxes, self.dim, self.scale = boxes, dim, scale
        self.dtype = np.dtype(np.float32 if len(self.ids) <= HALF_BEYOND else np.float16)
        parts = [self.ids.tobytes(), b"" if boxes is None else boxes.tobytes()]
        self.identity = {
            **identity,
            "corpus": self.manifest.fingerprint,
            "images": hashlib.sha256(b"|".join(parts)).hexdigest()[:16],
            "dim": dim,
            "scale": scale,
            "dtype": self.dtype.name,
        }
        key = hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()[:16]
        self.directory = store / f"{self.manifest.name}-{key}"

    @cached_property
    def shards(self) -> list[int]:
        """The shards that hold images of this set."""
        return np.unique(self.manifest.shard[self.ids]).tolist()

    def place(self, shard: int) -> slice:
        """Positions in `ids` of the images of a shard."""
        first, last = np.searchsorted(self.ids, self.manifest.shard_start[shard : shard + 2])
        return slice(int(first), int(last))

    def file(self, shard: int) -> Path:
        return self.directory / f"shard-{shard:05d}.npy"

    def is_done(self, shard: int) -> bool:
        return self._marker(shard).exists()

    def write(self, shard: int, rows: np.ndarray, bad: list[BadImage]) -> None:
        """Commit the rows `(n, D)` of a shard; the marker comes last."""
        write_array(self.file(shard), rows.astype(self.dtype))
        faults = [{"key": image.key, "error": image.error} for image in bad]
        write_json(self._marker(shard), {"rows": len(rows), "bad": faults})

    def parts(self) -> list[np.ndarray]:
        """`(n, D)` memory-mapped rows of each shard, side by side in the order of `ids`.

        Raises:
            DamagedError: rows that are not what was sealed; the next run embeds their images again.
        """
        return [self._sealed_rows(shard) for shard in self.shards]

    def _sealed_rows(self, shard: int) -> np.ndarray:
        try:
            return read_array(self.file(shard), mapped=True)
        except (DamagedError, FileNotFoundError):
            self._forget(shard)
            raise DamagedError(
                f"{self.file(shard)} is gone or damaged: it is not what was sealed; the same command embeds its images again"
            ) from None

    def _forget(self, shard: int) -> None:
        """What was written of a shard is not believed any more."""
        (self.directory / SEALED).unlink(missing_ok=True)
        self._marker(shard).unlink(missing_ok=True)

    def faults(self, shard: int) -> Iterator[str]:
        """What keeps a shard from being scored."""
        marker, name = self._marker(shard), self.file(shard).name
        if not marker.exists() or not self.file(shard).exists():
            yield f"{self.directory}/{name} is not there: its images were not embedded, or by a node with another disk"
            return
        try:
            values, place, rows = read_json(marker), self.place(shard), read_array(self.file(shard), mapped=True)
        except DamagedError:
            self._forget(shard)
            yield f"{self.directory}/{name} is not what was written: its checksum differs; the same command embeds it again"
            return
        if rows.shape != (place.stop - place.start, self.dim):
            yield f"{self.directory}/{name} has shape {rows.shape}, expected {(place.stop - place.start, self.dim)}"
            return
        reasons = {image["key"]: image["error"] for image in values["bad"]}
        wrong = "its descriptor is not a finite unit vector" if self.unit else "its descriptor is not finite"
        for i in np.flatnonzero(~(unit_rows(rows) if self.unit else finite_rows(rows))):
            key = self.manifest.keys[int(self.ids[place][i])].as_py()
            yield f"{key}: {reasons.get(key, wrong)}"

    def checksums(self) -> dict[str, str]:
        """XXH3 of every file."""
        return {self.file(shard).name: checksum_of(self.file(shard)) for shard in self.shards}

    def _marker(self, shard: int) -> Path:
        return self.file(shard).with_suffix(".json")


def unit_rows(rows: np.ndarray) -> np.ndarray:
    """`(n,)` whether each row is finite and of unit length."""
    blocks = (rows[i : i + 4096].astype(np.float32) for i in range(0, len(rows), 4096))
    good = [np.abs(np.linalg.norm(block, axis=1) - 1) <= UNIT for block in blocks]
    return np.concatenate([np.zeros(0, dtype=bool), *good])


def finite_rows(rows: np.ndarray) -> np.ndarray:
    """`(n,)` whether each row is finite."""
    return np.concatenate([np.zeros(0, dtype=bool), *(np.isfinite(rows[i : i + 4096]).all(1) for i in range(0, len(rows), 4096))])


def network_digest(network: RetrievalNet) -> str:
    """Of the settings and the tensors: the same whether the network is in memory or came from a file."""
    digest = hashlib.sha256(network.config.model_dump_json(exclude={"weights"}).encode())
    digest.update(json.dumps([network.contract.mean, network.contract.std]).encode())
    for name, tensor in network.state_dict().items():
        digest.update(name.encode() + np.ascontiguousarray(tensor.detach().cpu().numpy()).tobytes())
    return digest.hexdigest()


def describe(
    networks: Sequence[RetrievalNet],
    scales: Sequence[Descriptors],
    embedder: Embedder,
    world: World,
) -> None:
    """Embed the shards that are not done yet; each rank a run of them, in one pass for all its shards and their scales.

    Args:
        networks: that of each of `scales`; they have one backbone.
        scales: of the same images.

    Raises:
        StoppedError: the embedder's `should_stop` said so on some rank.
    """
    missing = world.decide(lambda: _begin(scales))
    for numbers, shards in missing.items():
        mine = shards[world.share(len(shards))]
        if mine:
            described = [scales[number] for number in numbers]
            network = AtScales([networks[number] for number in numbers], [wanted.scale for wanted in described])
            _describe_shards(network, described, mine, embedder, world.is_first)
    world.barrier(WAIT_S)
    if world.any(embedder.should_stop()):
        raise StoppedError


def _begin(scales: Sequence[Descriptors]) -> dict[tuple[int, ...], list[int]]:
    """The shards that are not done, by the scales that they lack."""
    missing: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for wanted in scales:
        write_json(wanted.directory / "identity.json", wanted.identity)
    for shard in scales[0].shards:
        missing[tuple(number for number, wanted in enumerate(scales) if not wanted.is_done(shard))].append(shard)
    missing.pop((), None)
    return dict(missing)


def _describe_shards(
    network: AtScales,
    scales: Sequence[Descriptors],
    shards: list[int],
    embedder: Embedder,
    shows: bool,
) -> None:
    """Each shard is committed when its last group has come; groups of several shards may come in turn."""
    wanted = scales[0]
    groups = embedder.embed(network, wanted.corpus, wanted.ids, shards=frozenset(shards), boxes=wanted.boxes)
    number = {shard.name: i for i, shard in enumerate(wanted.manifest.shards)}
    begun: dict[int, _ShardRows] = {}
    images = sum(wanted.place(shard).stop - wanted.place(shard).start for shard in shards)
    with progress_bar(f"embed {wanted.manifest.name}" if shows else None, images, "image") as bar:
        for group in groups:
            shard = int(wanted.manifest.shard[group.ids[0]]) if len(group.ids) else number[group.bad[0].shard]
            rows = begun.setdefault(shard, _ShardRows(wanted.ids[wanted.place(shard)], len(scales), wanted.dim))
            bar.update(rows.add(group))
            if not rows.missing:
                for of_scale, described in zip(begun.pop(shard).rows, scales, strict=True):
                    described.write(shard, of_scale, rows.bad)


class _ShardRows:
    """The rows of a shard while its groups come, `(S, n, D)`; NaN for bad images."""

    def __init__(self, ids: np.ndarray, scales: int, dim: int) -> None:
        self.ids, self.missing, self.bad = ids, len(ids), list[BadImage]()
        self.rows = np.full((scales, len(ids), dim), np.nan, dtype=np.float32)

    def add(self, group: Embedded) -> int:
        """The number of its images."""
        if len(group.ids):
            self.rows[:, np.searchsorted(self.ids, group.ids)] = group.descriptors.cpu().numpy().swapaxes(0, 1)
        self.bad += group.bad
        images = len(group.ids) + len(group.bad)
        self.missing -= images
        return images


def seal(sets: list[Descriptors], world: World, out: Path) -> None:
    """Check every row of every set, once; ranks share the shards.

    Raises:
        UserError: a row is missing, not finite or not of unit length, or a file is not what was written.
    """
    unsealed = world.decide(lambda: [i for i, wanted in enumerate(sets) if not (wanted.directory / SEALED).exists()])
    shards = [(sets[i], shard) for i in unsealed for shard in sets[i].shards]
    found = [fault for wanted, shard in shards[world.rank :: world.size] for fault in wanted.faults(shard)]
    faults = [fault for part in world.gather(found) for fault in part]
    report = out / "missing.txt"
    if faults:
        world.decide(lambda: write_text(report, "\n".join(faults) + "\n"))
        some = "\n  ".join(faults[:20])
        raise UserError(f"no score: {len(faults):,} descriptors or files are missing or faulty (all: {report}):\n  {some}")

    def mark() -> None:
        report.unlink(missing_ok=True)
        for i in unsealed:
            write_json(sets[i].directory / SEALED, {**sets[i].identity, "files": sets[i].checksums()})

    world.decide(mark)
