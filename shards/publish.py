"""From the finished shards of a build to a corpus: columns, pairs, ground truth, and the manifest last."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from largescale.commit import write_text
from largescale.corpus.manifest import BOX_COLUMNS, Shard, write_manifest
from largescale.settings import UserError

from .images import stored_box
from .plan import NO_BOX, WORK, CorpusPlan
from .shard import ShardJob
from .sources import Source


def publish(job: ShardJob, plan: CorpusPlan, sidecars: Sequence[Mapping[str, Any]]) -> None:
    """Write the manifest over all shards and remove the build's own files. Two processes may do it at once."""
    try:
        _publish(job, plan, sidecars)
    except FileNotFoundError:
        if not (job.out / "manifest.json").exists():
            raise  # else the other process was faster and has cleaned up


def _publish(job: ShardJob, plan: CorpusPlan, sidecars: Sequence[Mapping[str, Any]]) -> None:
    shards = [Shard(*(sidecar[name] for name in ("name", "samples", "bytes", "sha256"))) for sidecar in sidecars]
    kept = _column(sidecars, "row")
    images = {name: _column(sidecars, name) for name in ("offset", "size", "width", "height", "checksum")}
    images |= {"key": plan.rows["key"].take(pa.array(kept)), "label": plan.rows["label"][kept]}
    images["shard"] = np.repeat(np.arange(len(shards)), [shard.samples for shard in shards])
    bad = [(row, error) for sidecar in sidecars for row, error in sidecar["bad"]]
    pairs = _pairs(job.source, plan, kept)
    truth = _ground_truth(job.source, plan, kept, images)
    made = {**plan.identity, "undecodable": len(bad)}
    write_undecodable(job.out, plan, bad)
    boxes = _boxes(sidecars) if plan.has_boxes else None
    name = job.out.resolve().name
    write_manifest(job.out, name, shards, images, plan.label_names, made, pairs, truth, boxes)
    tidy(job.out)
    label_count, shard_count = len(plan.label_names), len(shards)
    print(f"{job.out}: {len(kept):,} images of {label_count:,} labels in {shard_count:,} shards, {len(bad):,} undecodable")


def tidy(out: Path) -> None:
    """Remove what a build keeps until its corpus is complete, and what killed processes left."""
    (out / "missing.txt").unlink(missing_ok=True)
    shutil.rmtree(out / WORK, ignore_errors=True)
    for partial in out.glob(".*.partial"):
        shutil.rmtree(partial) if partial.is_dir() else partial.unlink(missing_ok=True)


def write_undecodable(out: Path, plan: CorpusPlan, bad: Sequence[tuple[int, str]]) -> None:
    """`undecodable.txt`: key, place and error of each image that was left out, a line each; no file where there is none."""
    if not bad:
        (out / "undecodable.txt").unlink(missing_ok=True)
        return
    lines = [f"{plan.rows['key'][row]}\t{plan.rows['place'][row]}\t{' '.join(error.split())}\n" for row, error in sorted(bad)]
    write_text(out / "undecodable.txt", "".join(lines))


def _column(sidecars: Sequence[Mapping[str, Any]], name: str) -> np.ndarray:
    return np.concatenate([sidecar[name] for sidecar in sidecars])


def _boxes(sidecars: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Columns of `BOX_COLUMNS`, in stored pixels."""
    found = [box or NO_BOX for sidecar in sidecars for box in sidecar["boxes"]]
    return dict(zip(BOX_COLUMNS, np.array(found, np.float32).reshape(-1, 4).T, strict=True))


def _pairs(source: Source, plan: CorpusPlan, kept: np.ndarray) -> dict[str, np.ndarray] | None:
    """The source's pairs with image ids for positions; pairs of an undecodable image are left out."""
    pairs = source.pairs()
    if pairs is None:
        return None
    image_id = np.full(len(plan), -1, dtype=np.int64)
    image_id[plan.rows["item"][kept]] = np.arange(len(kept))
    ends = {name: image_id[pairs[name]] for name in ("query", "positive")}
    usable = (ends["query"] >= 0) & (ends["positive"] >= 0)
    return {name: np.asarray(column)[usable] for name, column in {**pairs, **ends}.items()}


def _ground_truth(source: Source, plan: CorpusPlan, kept: np.ndarray, images: Mapping[str, Any]) -> dict[str, Any] | None:
    """The source's ground truth with boxes in stored pixels; undecodable images leave the lists."""
    truth = source.ground_truth()
    if truth is None:
        return None
    image_id = {key: number for number, key in enumerate(images["key"].to_pylist())}
    undecodable = set(plan.rows["key"].to_pylist()) - image_id.keys()
    lost = [query["key"] for query in truth["queries"] if query["key"] not in image_id]
    if lost:
        raise UserError(
            f"query images cannot be decoded: {', '.join(lost[:10])}; a score without them means nothing; repair them"
        )
    queries = []
    for query in truth["queries"]:
        number = image_id[query["key"]]
        place, size = plan.rows["place"][int(kept[number])].as_py(), (int(images["width"][number]), int(images["height"][number]))
        box = query["box"] and stored_box(query["box"], source.read(place), *size)
        lists = {
            mark: [key for key in keys if key not in undecodable] for mark, keys in query.items() if mark not in ("key", "box")
        }
        queries.append({"key": query["key"], "box": box, **lists})
    gallery = truth["gallery"] and [key for key in truth["gallery"] if key in image_id]
    return {"protocol": truth["protocol"], "queries": queries, "gallery": gallery}
