"""One shard of a build, written by a worker process: the tar first, its sidecar last."""

import io
import json
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from largescale.commit import DamagedError, committed_file, read_json, write_json
from largescale.corpus.decoding.pixels import BadImageError
from largescale.corpus.manifest import sha256_of

from .images import Encoding, StoredImage, stored_box, stored_image
from .plan import WORK, CorpusPlan
from .sources import Source

COLUMNS = ("row", "offset", "size", "width", "height", "checksum")


@dataclass(frozen=True)
class ShardJob:
    """What a worker needs to write any shard of a build."""

    source: Source
    out: Path
    encoding: Encoding
    stem: str

    def tar(self, shard: int) -> Path:
        return self.out / f"{self.stem}-{shard:05d}.tar"

    def sidecar(self, shard: int) -> Path:
        return self.out / WORK / f"{shard:05d}.json"

    def finished(self, shard: int) -> dict[str, Any] | None:
        """The sidecar of a shard (see `write_shard`) with columns as arrays; None without it, or without the tar it describes."""
        try:
            sidecar = read_json(self.sidecar(shard))
            complete = self.tar(shard).stat().st_size == sidecar["bytes"]
        except (FileNotFoundError, DamagedError):  # the shard is written again
            return None
        kinds = {"checksum": np.uint64}
        return sidecar | {name: np.array(sidecar[name], kinds.get(name, np.int64)) for name in COLUMNS} if complete else None


def write_shard(job: ShardJob, shard: int, advance: Callable[[], None]) -> dict[str, Any]:
    """Write the tar of a shard, then its sidecar; its bytes follow from the plan and the source alone.

    Args:
        advance: called after each image.

    Returns:
        the sidecar: `name`, `samples`, `bytes`, `sha256` of the tar, the columns `row`, `offset`, `size`, `width`,
        `height`, `checksum` of its images, `boxes` where the source knows them, and `bad`: `[row, error]` of those that cannot be
        decoded.
    """
    plan = open_plan(job.out / WORK)
    columns: dict[str, list[int]] = {name: [] for name in COLUMNS}
    bad, boxes = [], []
    with committed_file(job.tar(shard)) as temporary:
        with tarfile.open(temporary, "w") as tar:
            for row in range(*map(int, plan.bounds[shard : shard + 2])):
                try:
                    image = stored_image(job.source, plan.rows["place"][row].as_py(), job.encoding)
                    box = _box(job.source, plan, row, image)
                    place = _add_sample(tar, plan, row, image, box), len(image.data), image.width, image.height
                    values = (row, *place, xxhash.xxh3_64_intdigest(image.data))
                    boxes.append(box)
                    for column, value in zip(columns.values(), values, strict=True):
                        column.append(value)
                except BadImageError as error:
                    bad.append([row, str(error)])
                advance()
        tar_facts = {"bytes": temporary.stat().st_size, "sha256": sha256_of(temporary)}
    sidecar = {"name": job.tar(shard).name, "samples": len(columns["row"]), **tar_facts, **columns, "bad": bad}
    sidecar |= {"boxes": boxes} if plan.has_boxes else {}
    write_json(job.sidecar(shard), sidecar)
    return sidecar


@lru_cache(maxsize=1)
def open_plan(folder: Path) -> CorpusPlan:
    return CorpusPlan.open(folder)


def _box(source: Source, plan: CorpusPlan, row: int, image: StoredImage) -> list[float] | None:
    """The box of an image in the pixels that are stored."""
    box = plan.box(row)
    return None if box is None else stored_box(box, source.read(plan.rows["place"][row].as_py()), image.width, image.height)


def _add_sample(tar: tarfile.TarFile, plan: CorpusPlan, row: int, image: StoredImage, box: list[float] | None) -> int:
    """Add the image and `key.json`; the byte position of the image."""
    key, place = plan.rows["key"][row].as_py(), plan.rows["place"][row].as_py()
    label = int(plan.rows["label"][row])
    name = plan.label_names[label] if label >= 0 else None
    facts = {"label": label, "label_name": name, "width": image.width, "height": image.height, "source": place}
    facts |= {"box": box} if box else {}
    offset = _add(tar, f"{key}.{plan.suffix}", image.data)
    _add(tar, f"{key}.json", json.dumps(facts, ensure_ascii=False).encode())
    return offset


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> int:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))
    return tar.offset - -(-len(data) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
