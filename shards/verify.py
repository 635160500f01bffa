"""Re-reads a corpus against its manifest: every file, every byte, every image; names every fault that it finds."""

import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from largescale.commit import DamagedError
from largescale.corpus.config import StorageConfig
from largescale.corpus.decoding.pixels import BadImageError
from largescale.corpus.manifest import Manifest, map_table, parse_manifest, sha256_of
from largescale.corpus.storage.storage import LocalStorage
from largescale.cpu import own_cores
from largescale.program.progress import progress_bar
from largescale.settings import UserError

from .images import decoded_size
from .workers import pool


class Unchecked(LocalStorage):
    """A local corpus as it is: `verify` looks at every file itself and names all faults, not the first one."""

    def __init__(self, out: Path) -> None:
        super().__init__(str(out), StorageConfig())

    def local(self, name: str, size: int | None = None, sha256: str | None = None) -> Path:
        return Path(self.location) / name


def verify(out: Path, workers: int | None = None) -> int:
    """Print each fault of the corpus `out` on a line; 1 if there are any, else 0.

    Raises:
        UserError: there is no manifest to verify against.
    """
    faults = list(faults_of(out, workers or own_cores()))
    for fault in faults:
        print(fault)
    print(f"{out}: {len(faults) or 'no'} fault{'s' * (len(faults) != 1)}")
    return 1 if faults else 0


def faults_of(out: Path, workers: int) -> Iterator[str]:
    """A sentence per fault: first those of the columns, then those of the shards."""
    manifest_file = out / "manifest.json"
    if not manifest_file.exists():
        raise UserError(f"{manifest_file} does not exist: no corpus, or one whose build has not finished")
    try:
        files = parse_manifest(manifest_file.read_bytes(), str(manifest_file)).files
    except DamagedError as error:
        yield str(error)
        return
    damaged = [fault for name, facts in files.items() for fault in file_faults(out / name, facts.size, facts.sha256)]
    if damaged:
        yield from [*damaged, "the shards were not compared with damaged columns"]
        return
    try:
        manifest = Manifest.read(Unchecked(out))
    except UserError as error:
        yield str(error)
        return
    yield from column_faults(manifest)
    known = {shard.name for shard in manifest.shards}
    yield from (f"{path.name}: the manifest knows no such shard" for path in sorted(out.glob("*.tar")) if path.name not in known)
    count = len(manifest.shards)
    with (
        pool(min(workers, count)) as processes,
        progress_bar("verify", len(manifest), "image") as bar,
    ):
        for shard, faults in zip(manifest.shards, processes.map(shard_faults, [manifest] * count, range(count)), strict=True):
            yield from faults
            bar.update(shard.samples)


def file_faults(path: Path, size: int, sha256: str) -> Iterator[str]:
    if not path.exists():
        yield f"{path.name}: missing"
    elif (found := path.stat().st_size) != size:
        yield f"{path.name}: expected {size:,} bytes, found {found:,}"
    elif (digest := sha256_of(path)) != sha256:
        yield f"{path.name}: expected SHA-256 {sha256}, found {digest}"


def column_faults(manifest: Manifest) -> Iterator[str]:
    """What is wrong among the columns themselves."""
    label = manifest.label
    numbers, runs = np.unique(label[np.flatnonzero(np.diff(label, prepend=-2))], return_counts=True)
    if (torn := numbers[(runs > 1) & (numbers >= 0)]).size:
        yield f"images.arrow: the images of {torn.size:,} labels are not contiguous, the first being label {torn[0]}"
    if len(label) and (label.min() < -1 or label.max() >= len(manifest.label_names)):
        yield f"images.arrow: labels reach from {label.min()} to {label.max()}, labels.arrow has {len(manifest.label_names):,}"
    if not np.array_equal(manifest.shard, np.repeat(np.arange(len(manifest.shards)), np.diff(manifest.shard_start))):
        yield "images.arrow: the column of shards does not fit the numbers of samples in manifest.json"
    if (repeated := len(manifest) - len(manifest.keys.unique())) > 0:
        yield f"images.arrow: {repeated:,} keys repeat an earlier one"
    if "pairs.arrow" in manifest.files:
        yield from pair_faults(manifest)
    if manifest.ground_truth is not None:
        yield from ground_truth_faults(manifest)


def pair_faults(manifest: Manifest) -> Iterator[str]:
    pairs = map_table(manifest.storage.local("pairs.arrow"))
    for name in ("query", "positive"):
        outside = (pairs[name] < 0) | (pairs[name] >= len(manifest))
        if outside.any():
            first = pairs[name][outside][0]
            yield f"pairs.arrow: {outside.sum():,} of column {name} are no image, the first being {first:,} of {len(manifest):,}"


def ground_truth_faults(manifest: Manifest) -> Iterator[str]:
    truth = manifest.ground_truth or {}
    keys = set(manifest.keys.to_pylist())
    named = {query["key"] for query in truth["queries"]} | set(truth["gallery"] or ())
    judged = {key for query in truth["queries"] for mark, listed in query.items() if mark not in ("key", "box") for key in listed}
    if judged & keys:  # else the gallery is a corpus of its own
        named |= judged
    if lost := sorted(named - keys):
        yield f"ground_truth.json: names {len(lost):,} keys that images.arrow lacks, the first being {lost[0]}"


def shard_faults(manifest: Manifest, number: int) -> list[str]:
    """What is wrong with one shard, a sentence each."""
    shard = manifest.shards[number]
    path = manifest.storage.local(shard.name)
    faults = list(file_faults(path, shard.bytes, shard.sha256))
    if not path.exists():
        return faults
    members = _members(path)
    known = set()
    lost = []
    with path.open("rb") as file:
        for row in range(*map(int, manifest.shard_start[number : number + 2])):
            key = manifest.keys[row].as_py()
            member = next((members[name] for suffix in ("jpg", "png") if (name := f"{key}.{suffix}") in members), None)
            known |= {f"{key}.json", member.name if member else key}
            if member is None or f"{key}.json" not in members:
                lost.append(key)
                continue
            faults += [f"{path.name}: {key}: {fault}" for fault in image_faults(manifest, row, member, file)]
    if lost:
        faults.append(f"{path.name}: {len(lost):,} images of the manifest are not in it, the first being {lost[0]}")
    if (extra := sorted(members.keys() - known)) and not manifest.made.get("appended"):
        faults.append(f"{path.name}: holds {len(extra):,} members that the manifest does not know, the first being {extra[0]}")
    return faults


def image_faults(manifest: Manifest, row: int, member: tarfile.TarInfo, tar: BinaryIO) -> Iterator[str]:
    place, expected = (member.offset_data, member.size), (int(manifest.offset[row]), int(manifest.size[row]))
    if place != expected:
        yield f"expected {expected[1]:,} bytes at {expected[0]:,}, found {place[1]:,} at {place[0]:,}"
    try:
        size = decoded_size(os.pread(tar.fileno(), member.size, member.offset_data))
    except BadImageError as error:
        yield f"cannot be decoded ({error})"
        return
    if size != (columns := (int(manifest.width[row]), int(manifest.height[row]))):
        yield f"expected {columns[0]} x {columns[1]} pixels, found {size[0]} x {size[1]}"


def _members(path: Path) -> dict[str, tarfile.TarInfo]:
    """The members of a tar up to where it can no longer be read."""
    members = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                members[member.name] = member
    except tarfile.TarError:
        pass  # the size or the hash has been reported
    return members
