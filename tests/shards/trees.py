"""Data sets as they are published: names of files, separators and quirks, with a few images each."""

import io
import json
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from scipy.io import savemat

from tests.corpora import encode, photograph
from tests.shards.photographs import write_photographs

Counts = dict[str, tuple[int, int]]
"""Images and labels of each corpus that comes out."""


def write_lines(path: Path, lines: Iterable[str], end: str = "\n") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("".join(line + end for line in lines).encode())


def write_tar(path: Path, names: list[str]) -> None:
    path.parent.mkdir(parents=True)
    with tarfile.open(path, "w") as tar:
        for number, name in enumerate(names):
            data = encode(photograph(number, 0, 40, 30), "JPEG")
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def cub(source: Path) -> Counts:
    """Numbers begin at 1; `train_test_split.txt` divides images within classes, and is not used."""
    root = source / "CUB_200_2011"
    classes = {
        1: "001.Black_footed_Albatross",
        100: "100.Brown_Pelican",
        101: "101.White_Pelican",
        200: "200.Common_Yellowthroat",
    }
    images = [(label, f"{classes[label]}/{classes[label][4:]}_{n:04d}_{n}.jpg") for label in classes for n in (1, 2, 3)]
    write_photographs(root / "images", [path for _, path in images])
    write_lines(root / "classes.txt", [f"{n} {name}" for n, name in classes.items()])
    write_lines(root / "images.txt", [f"{n} {path}" for n, (_, path) in enumerate(images, 1)])
    write_lines(root / "image_class_labels.txt", [f"{n} {label}" for n, (label, _) in enumerate(images, 1)])
    write_lines(root / "train_test_split.txt", [f"{n} {n % 2}" for n in range(1, len(images) + 1)])
    write_lines(root / "bounding_boxes.txt", [f"{n} 10.0 5.0 20.0 15.0" for n in range(1, len(images) + 1)])
    write_lines(source / "attributes.txt", ["1 has_bill_shape::curved_(up_or_down)"])
    return {"train": (6, 2), "test": (6, 2)}


def sop(source: Path) -> Counts:
    """The first column is a number, the last one the path; the category is the folder without `_final`."""
    root = source / "Stanford_Online_Products"
    header = "image_id class_id super_class_id path"
    rows = {
        "train": [(1, 1, 1, "bicycle_final/111085122871_0.JPG"), (2, 1, 1, "bicycle_final/111085122871_1.JPG")],
        "test": [(3, 11319, 1, "bicycle_final/251952414262_2.JPG"), (4, 11320, 12, "toaster_final/400000000000_0.JPG")],
    }
    for split, found in rows.items():
        write_photographs(root, [path for *_, path in found])
        write_lines(root / f"Ebay_{split}.txt", [header, *(" ".join(map(str, row)) for row in found)])
    write_lines(root / "Ebay_info.txt", [header, *(" ".join(map(str, row)) for found in rows.values() for row in found)])
    write_lines(root / "bicycle.txt", ["111085122871_0.JPG"])
    return {"train": (2, 1), "test": (2, 2)}


def _annotations(names: list[str], classes: list[int], path: str) -> np.ndarray:
    fields = [
        (path, object),
        *((f"bbox_{side}", object) for side in ("x1", "y1", "x2", "y2")),
        ("class", object),
        ("test", object),
    ]
    rows = np.empty((1, len(names)), dtype=fields)
    for n, (name, label) in enumerate(zip(names, classes, strict=True)):
        rows[0, n] = (name, np.uint16(3), np.uint16(4), np.uint16(30), np.uint16(20), np.uint8(label), np.uint8(n % 2))
    return rows


def cars(source: Path) -> Counts:
    """All images in one folder; the annotations are a MATLAB struct."""
    names, classes = [f"car_ims/{n:06d}.jpg" for n in range(1, 7)], [1, 1, 98, 99, 196, 196]
    write_photographs(source, names)
    class_names = np.array([[f"Make {n} 2012" for n in range(1, 197)]], dtype=object)
    savemat(
        source / "cars_annos.mat", {"annotations": _annotations(names, classes, "relative_im_path"), "class_names": class_names}
    )
    return {"train": (3, 2), "test": (3, 2)}


def cars_in_parts(source: Path) -> Counts:
    """In two folders; the numbers of images begin anew in the second, and the devkit has no classes for it."""
    root = source / "stanford_cars"
    names = [f"{n:05d}.jpg" for n in (1, 2, 3)]
    write_photographs(root, [f"cars_{part}/{name}" for part in ("train", "test") for name in names])
    (root / "devkit").mkdir()
    savemat(root / "devkit/cars_meta.mat", {"class_names": np.array([[f"Make {n}" for n in range(1, 197)]], dtype=object)})
    savemat(root / "devkit/cars_train_annos.mat", {"annotations": _annotations(names, [1, 98, 99], "fname")})
    savemat(root / "cars_test_annos_withlabels.mat", {"annotations": _annotations(names, [1, 99, 196], "fname")})
    return {"train": (3, 2), "test": (3, 2)}


def inshop(source: Path) -> Counts:
    """Columns padded by blanks, below the number of rows; the folder of an item is below that of its kind."""
    rows = [
        ("img/WOMEN/Dresses/id_00000002/02_1_front.jpg", "id_00000002", "train"),
        ("img/WOMEN/Dresses/id_00000002/02_2_side.jpg", "id_00000002", "train"),
        ("img/MEN/Denim/id_00000080/01_1_front.jpg", "id_00000080", "query"),
        ("img/MEN/Denim/id_00000080/01_3_back.jpg", "id_00000080", "gallery"),
        ("img/MEN/Denim/id_00000080/01_7_additional.jpg", "id_00000080", "gallery"),
    ]
    write_photographs(source, [path for path, *_ in rows])
    padded = [f"{path:<72}{item}     {status}" for path, item, status in rows]
    write_lines(source / "Eval/list_eval_partition.txt", [str(len(rows)), "image_name item_id evaluation_status", *padded])
    return {"train": (2, 1), "query": (1, 1), "gallery": (2, 1)}


def inat(source: Path) -> Counts:
    """COCO JSON: classes are in the annotations, not beside the images."""
    names = [
        f"train_val2018/{kind}/{species}/{n:032x}.jpg" for kind, species in (("Plantae", 7477), ("Aves", 2761)) for n in (1, 2)
    ]
    write_photographs(source, names)
    images = [{"id": n, "file_name": name, "width": 40, "height": 30} for n, name in enumerate(names)]
    labels = [{"id": n, "image_id": n, "category_id": int(name.split("/")[2])} for n, name in enumerate(names)]
    for split, own in ("train", slice(0, 4, 2)), ("val", slice(1, 4, 2)):
        content = {"images": images[own], "annotations": labels[own], "categories": [{"id": 7477, "name": "7477"}]}
        (source / f"{split}2018.json").write_text(json.dumps(content))
    return {"train": (2, 2), "val": (2, 2)}


def inat_retrieval(source: Path) -> Counts:
    """The lists of the Smooth-AP benchmark: paths alone, of other species in each."""
    inat(source)
    names = sorted(str(path.relative_to(source)) for path in source.rglob("*.jpg"))
    for split, kind in ("train", "Plantae"), ("test", "Aves"):
        write_lines(source / f"Inat_dataset_splits/Inaturalist_{split}_set1.txt", [name for name in names if kind in name])
    return {"train": (2, 1), "test": (2, 1)}


def food(source: Path) -> Counts:
    """Names without `.jpg`."""
    root = source / "food-101"
    rows = {"train": ["apple_pie/1005649", "waffles/981485"], "test": ["apple_pie/1011328", "waffles/596753"]}
    for split, names in rows.items():
        write_photographs(root / "images", [f"{name}.jpg" for name in names])
        write_lines(root / f"meta/{split}.txt", names)
        by_class = {name.split("/")[0]: [other for other in names if other.split("/")[0] == name.split("/")[0]] for name in names}
        (root / f"meta/{split}.json").write_text(json.dumps(by_class))
    write_lines(root / "meta/classes.txt", ["apple_pie", "waffles"])
    return {"train": (2, 2), "test": (2, 2)}


def svhn(source: Path) -> Counts:
    """Pixels in MATLAB arrays, the image last; label 10 is the digit 0."""
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3, 4), dtype=np.uint8)
    savemat(source / "train_32x32.mat", {"X": pixels, "y": np.array([[1], [9], [10], [10]], np.uint8)})
    savemat(source / "test_32x32.mat", {"X": pixels[..., :3], "y": np.array([[10], [5], [2]], np.uint8)})
    return {"train": (4, 3), "test": (3, 3)}


def tiny_imagenet(source: Path) -> Counts:
    """Classes of validation are in a table; the images of test have none."""
    root, labels = source / "tiny-imagenet-200", ("n01443537", "n01629819")
    write_photographs(root, [f"train/{label}/images/{label}_{n}.JPEG" for label in labels for n in (0, 1)])
    write_photographs(root, [*(f"val/images/val_{n}.JPEG" for n in range(3)), "test/images/test_0.JPEG"])
    for label in labels:
        write_lines(root / f"train/{label}/{label}_boxes.txt", [f"{label}_{n}.JPEG\t0\t10\t63\t58" for n in (0, 1)])
    write_lines(root / "val/val_annotations.txt", [f"val_{n}.JPEG\t{labels[n % 2]}\t0\t32\t44\t62" for n in range(3)])
    write_lines(root / "wnids.txt", labels)
    write_lines(root / "words.txt", [f"{label}\ta fish, a fish" for label in labels])
    return {"train": (4, 2), "val": (3, 2)}


def ukbench(source: Path) -> Counts:
    """Groups of four by number; a file of Windows among the images."""
    write_photographs(source / "full", [f"ukbench{n:05d}.jpg" for n in range(8)])
    (source / "full/thumbs.db").write_bytes(b"x")
    return {"": (8, 2)}


def gldv2(source: Path) -> Counts:
    """Landmarks with all of their images in one field; URLs with commas; `None` for queries that are ignored."""
    ids = {
        "train": ["6e158a47eb2ca3f6", "202cd79556f30760", "3ad87684c99c06e1"],
        "index": ["0000070506ea9a8b", "000026950c2f8c1d"],
        "test": ["e8e62a3e45c0bfbb", "67e40359b5e315cc", "000088da12d664db"],
    }
    for split, found in ids.items():
        write_photographs(source / split, [f"{id[0]}/{id[1]}/{id[2]}/{id}.jpg" for id in found])
    first, second, third = ids["train"]
    write_lines(
        source / "train.csv", ["id,url,landmark_id", *(f'{id},"http://x/a,b.jpg",{n // 2}' for n, id in enumerate(ids["train"]))]
    )
    write_lines(source / "train_clean.csv", ["landmark_id,images", f"1,{first} {second}", f"142820,{third}"])
    write_lines(source / "index.csv", ["id", *ids["index"]])
    asked = [f"{ids['test'][0]},{' '.join(ids['index'])},Private", f"{ids['test'][1]},{ids['index'][1]},Public"]
    write_lines(source / "retrieval_solution_v2.1.csv", ["id,images,Usage", *asked, f"{ids['test'][2]},None,Ignored"])
    return {"train": (3, 2), "index": (2, 0), "test": (2, 0)}


def ilias(source: Path) -> Counts:
    """Objects with queries and positives, boxes and texts beside them; distractors in tars."""
    root = source / "ilias_core"
    names = [f"bold_bimp_000/{name}.jpg" for name in ("query/Q000_00", "pos/P000_00", "pos/P000_01")]
    names += [f"zippy_zootlenibble_999/{name}.jpg" for name in ("query/Q999_00", "query/Q999_01", "pos/P999_00")]
    write_photographs(root, names)
    for name in names:
        write_lines(root / f"{name[:-4]}_bbox.txt", ["3 4 20 10"])
    write_lines(root / "bold_bimp_000/query/T000.txt", ["a bold bimp"])
    write_tar(source / "yfcc100m/000.tar", ["000/0a1b2c.jpg", "000/0a1b2d.jpg"])
    return {"query": (3, 2), "gallery": (3, 2), "distractors": (2, 0)}


def r1m(source: Path) -> Counts:
    """A list of paths below `jpg/`."""
    names = ["1/00a1b2.jpg", "1/00a1b3.jpg", "100/ffee01.jpg"]
    write_photographs(source / "jpg", names)
    write_lines(source / "revisitop1m.txt", names)
    return {"": (3, 0)}


TREES: dict[str, list[Callable[[Path], Counts]]] = {
    "cub": [cub],
    "sop": [sop],
    "cars196": [cars, cars_in_parts],
    "inshop": [inshop],
    "inat2018": [inat, inat_retrieval],
    "food101": [food],
    "svhn": [svhn],
    "tiny-imagenet": [tiny_imagenet],
    "ukbench": [ukbench],
    "gldv2": [gldv2],
    "ilias": [ilias],
    "revisitop1m": [r1m],
}
