"""Collections that have no annotation files of a known name: own lists, tables of images, reconstructions, test sets."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from shards.sources.reconstructions.sfm import place_of
from tests.corpora import encode, photograph
from tests.shards.photographs import write_photographs
from tests.shards.trees import Counts, write_lines

CIDS = [f"{number:032x}" for number in (0xABCDEF, 0x123456, 0x777777, 0x0F0F0F)]
OML = [
    ("path", "label", "split", "is_query", "is_gallery", "category", "x_1", "y_1", "x_2", "y_2"),
    ("a 1.jpg", 7, "train", "", "", "shoes", 3, 4, 30, 20),
    ("b.jpg", 7, "train", "", "", "shoes", "", "", "", ""),
    ("c.jpg", 8, "validation", True, False, "bags", 3, 4, 30, 20),
    ("d.jpg", 8, "validation", False, True, "bags", 3, 4, 30, 20),
]


def sfm(source: Path) -> Counts:
    """Clusters are labels; an image lies in folders named by the end of its id; the pairs of whitening have no clusters."""
    write_photographs(source / "ims", [place_of(cid) for cid in CIDS])
    pairs = {"qidxs": [0, 2], "pidxs": [1, 3]}
    values = {split: {"cids": CIDS, "cluster": [10, 10, 2, 2], **pairs} for split in ("train", "val")}
    (source / "retrieval-SfM-120k.pkl").write_bytes(pickle.dumps(values, 2))
    (source / "retrieval-SfM-120k-whiten.pkl").write_bytes(pickle.dumps({"cids": CIDS, **pairs}, 2))
    return {"train": (4, 2), "val": (4, 2), "whiten": (4, 0)}


def colmap(source: Path) -> Counts:
    """A model is a label; images in no model are counted."""
    names = ["hall_1.jpg", "hall_2.jpg"]
    write_photographs(source / "images", [*names, "alone.jpg"])
    model = source / "sparse/0"
    write_lines(model / "cameras.txt", ["# CAMERA_ID, MODEL, WIDTH, HEIGHT, PARAMS[]", "1 SIMPLE_RADIAL 40 30 36 20 15 0"])
    write_lines(model / "points3D.txt", [f"{n} {n / 40} 0 4 9 9 9 0.1 1 {n} 2 {n}" for n in range(20)])
    seen = " ".join(f"{n} 9 {n}" for n in range(20))
    poses = [f"{n} 1 0 0 0 {n} 0 0 1 {name}" for n, name in enumerate(names, 1)]
    write_lines(model / "images.txt", [line for pose in poses for line in (pose, seen)])
    return {"": (2, 1)}


def oxford(source: Path) -> Counts:
    """Queries of Oxford are named oxc1_…; images that no list names are distractors."""
    names = ["hall_1", "hall_3", "gate_1"]
    write_photographs(source / "oxbuild_images", [f"{name}.jpg" for name in names])
    lists = {"query": "oxc1_hall_1 4.0 6.0 20.0 29.0", "good": "hall_1\nhall_3", "ok": "", "junk": "gate_1"}
    for mark, text in lists.items():
        write_lines(source / f"gt_files_170407/hall_1_{mark}.txt", text.splitlines())
    return {"": (3, 0)}


def holidays(source: Path) -> Counts:
    """The number that 100 divides is the query of its group."""
    write_photographs(source / "jpg", ["100000.jpg", "100001.jpg", "100100.jpg", "100101.jpg", "100102.jpg"])
    return {"": (5, 2)}


def cifar(source: Path) -> Counts:
    """The Python version: pickles, 3,072 numbers an image, colors one plane after another."""
    root, random = source / "cifar-10-batches-py", np.random.default_rng(0)
    root.mkdir(parents=True)
    (root / "batches.meta").write_bytes(pickle.dumps({"label_names": ["airplane", "automobile"]}, 2))
    for name in (*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"):
        pixels = random.integers(0, 256, (2, 3072), dtype=np.uint8)
        (root / name).write_bytes(pickle.dumps({"labels": [0, 1], "data": pixels, "filenames": ["x.png"] * 2}, 2))
    return {"train": (10, 2), "test": (2, 2)}


def own_csv(source: Path) -> Counts:
    """The columns of open-metric-learning: split, query, gallery, category and boxes, empty where they do not apply."""
    write_photographs(source, [str(row[0]) for row in OML[1:]])
    write_lines(source / "df.csv", [",".join(map(str, row)) for row in OML])
    return {"train": (2, 1), "query": (1, 1), "gallery": (1, 1)}


def own_parquet(source: Path) -> Counts:
    """Labels are numbers; NaN is none."""
    write_photographs(source, ["x/1.jpg", "x/2.jpg", "x/3.jpg"])
    rows = {"filename": ["x/1.jpg", "x/2.jpg", "x/3.jpg"], "class": [1.0, 2.0, np.nan]}
    pq.write_table(pa.table(rows), source / "list.parquet")
    return {"": (3, 2)}


def own_json_lines(source: Path) -> Counts:
    """A line is an object; its names are columns."""
    write_photographs(source, ["x/1.jpg", "x/2.jpg", "x/3.jpg"])
    rows = [{"image_path": f"x/{n}.jpg", "label": label} for n, label in ((1, "oak"), (2, "ash"), (3, "oak"))]
    write_lines(source / "list.jsonl", map(json.dumps, rows))
    return {"": (3, 2)}


def own_splits(source: Path) -> Counts:
    """A folder for each split, a folder for each class in it; files that are no images are counted."""
    write_photographs(source, ["train/oak/1.jpg", "train/ash/2.png", "test/oak/3.JPG"])
    write_lines(source / "train/oak/notes.txt", ["a note"])
    return {"train": (2, 2), "test": (1, 1)}


def hugging_face(source: Path) -> Counts:
    """Images are bytes and a path; the names of classes stand in the schema."""
    features = {"image": {"_type": "Image"}, "label": {"names": ["oak", "ash"], "_type": "ClassLabel"}}
    schema = pa.schema(
        [("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])), ("label", pa.int64())],
        {"huggingface": json.dumps({"info": {"features": features}})},
    )
    for split, labels in ("train", [0, 0, 1]), ("test", [1]):
        images = [{"bytes": encode(photograph(n, label, 20, 16)), "path": None} for n, label in enumerate(labels)]
        path = source / f"data/{split}-00000-of-00001.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pydict({"image": images, "label": labels}, schema), path)
    return {"train": (3, 2), "test": (1, 1)}


def img2dataset(source: Path) -> Counts:
    """Rows that failed have no image."""
    status = ["success", "failed_to_download", "success"]
    images = [encode(photograph(n, 0, 20, 16)) if said == "success" else None for n, said in enumerate(status)]
    columns = {"url": [f"http://x/{n}.jpg" for n in range(3)], "key": [f"{n:09d}" for n in range(3)], "status": status}
    source.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({**columns, "jpg": images}), source / "00000.parquet")
    counts = {"count": 3, "successes": 2, "failed_to_download": 1, "failed_to_resize": 0, "status_dict": {"success": 2}}
    (source / "00000_stats.json").write_text(json.dumps(counts))
    return {"": (2, 0)}


OWN_TREES: dict[str, list[Callable[[Path], Counts]]] = {
    "sfm": [sfm],
    "colmap": [colmap],
    "oxford": [oxford],
    "holidays": [holidays],
    "cifar": [cifar],
    "list": [own_csv, own_parquet, own_json_lines],
    "splits": [own_splits],
    "table": [hugging_face],
    "img2dataset": [img2dataset],
}
