"""The corpora on which the default recipe was chosen: `python -m tests.benchmarks.choice_sets RAW OUT`.

RAW holds grocery192/, cifar100/ and imagenet1k_distract256/. Of each set OUT/SET/{fit,held,train,test} are made: no class is in
both train and test, and train is fit and held together, so that what is chosen on held has seen nothing of test.
"""

import random
import sys
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from PIL import Image, ImageEnhance, ImageOps

from largescale.config import check
from shards.demo.corpus import Demo, DemoSource
from shards.images import Encoding
from shards.sources.tables.table import Table, TableSource
from shards.writer import build

Classes = Mapping[str, list[str]]
"""Class -> paths of its images below the root."""
COPIES = 6


def grocery(raw: Path, column: int) -> dict[str, list[str]]:
    """By fine (1) or coarse (2) label."""
    classes = defaultdict(list)
    for split in ("train", "val", "test"):
        for line in (raw / "grocery192" / f"{split}.txt").read_text().splitlines():
            cells = [cell.strip() for cell in line.split(",")]
            classes[f"grocery-{int(cells[column]):02d}"].append(f"grocery192/{cells[0]}")
    return dict(classes)


def cifar(raw: Path) -> dict[str, list[str]]:
    folders = sorted((raw / "cifar100" / "train").iterdir())
    found = {folder.name: [*folder.iterdir(), *(raw / "cifar100" / "test" / folder.name).iterdir()] for folder in folders}
    return {f"cifar-{name}": [str(path.relative_to(raw)) for path in sorted(paths)] for name, paths in found.items()}


def near_duplicates(raw: Path) -> dict[str, list[str]]:
    """Each photograph is a class: itself and altered copies, which are written beside it."""
    classes = {}
    for path in sorted((raw / "imagenet1k_distract256").glob("*.jpg")):
        folder = raw / "copies" / path.stem
        folder.mkdir(parents=True, exist_ok=True)
        with Image.open(path) as photograph:
            for number in range(COPIES):
                altered(photograph.convert("RGB"), random.Random(f"{path.stem} {number}")).save(
                    folder / f"{number}.jpg", quality=60
                )
        classes[path.stem] = [f"copies/{path.stem}/{number}.jpg" for number in range(COPIES)]
    return classes


def altered(image: Image.Image, rng: random.Random) -> Image.Image:
    """A crop of a quarter to a half, turned, other colors; by chance mirrored or gray."""
    w, h = image.size
    side = rng.uniform(0.5, 0.7)
    left, top = rng.uniform(0, 1 - side) * w, rng.uniform(0, 1 - side) * h
    image = image.rotate(rng.uniform(-20, 20)).crop((int(left), int(top), int(left + side * w), int(top + side * h)))
    for change in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        image = change(image).enhance(rng.uniform(0.4, 1.6))
    image = ImageOps.mirror(image) if rng.random() < 0.5 else image
    return ImageOps.grayscale(image).convert("RGB") if rng.random() < 0.3 else image


def some(classes: Classes, images: int) -> dict[str, list[str]]:
    """At most so many images of each class."""
    return {name: random.Random(name).sample(paths, min(images, len(paths))) for name, paths in classes.items()}


def write(raw: Path, out: Path, classes: Classes) -> None:
    """Every second class to train on; of these, every fourth is held back."""
    train, test = sorted(classes)[::2], sorted(classes)[1::2]
    splits = {"train": train, "test": test, "held": train[3::4], "fit": [name for name in train if name not in train[3::4]]}
    for split, names in splits.items():
        listing = out.with_name(f"{out.name}-{split}.csv")
        listing.write_text("".join(f"{path},{name}\n" for name in names for path in sorted(classes[name])))
        build(TableSource(Table.open(listing, raw), raw), out / split, check(Encoding, {"max_side": 192}), workers=1)


def landmarks(raw: Path, out: Path) -> dict[str, list[str]]:
    """Photographs of rendered landmarks, written as files."""
    classes = defaultdict(list)
    source = DemoSource("train", Demo().seed, 100, 10, 128)
    for item in source.items():
        path = raw / "landmarks" / f"{item.key}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.write_bytes(source.read(item.place))
        classes[item.label or ""].append(str(path.relative_to(raw)))
    return dict(classes)


def main(raw: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    fine, small = grocery(raw, 1), cifar(raw)
    write(raw, out / "grocery", fine)
    write(raw, out / "fine", some(fine | small, 20))
    write(raw, out / "many", some(fine | small, 4))
    write(raw, out / "cifar", some(small, 40))
    largest = sorted(grocery(raw, 2).items(), key=lambda entry: -len(entry[1]))[:16]
    write(raw, out / "few", dict(largest))
    write(raw, out / "copies", near_duplicates(raw))
    write(raw, out / "landmarks", landmarks(raw, out))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
