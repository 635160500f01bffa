import io
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from largescale.corpus.corpus import Corpus
from largescale.corpus.manifest import Manifest
from largescale.settings import UserError
from shards.images import Encoding
from shards.sources.labeled.cifar import cifar
from shards.verify import Unchecked
from shards.writer import build
from tests.shards.photographs import write_photographs

random = np.random.default_rng(0)
BATCHES = [*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]
TEN = {name: (random.integers(0, 3, 7), random.integers(0, 256, (7, 3072), dtype=np.uint8)) for name in BATCHES}
HUNDRED = {name: (random.integers(0, 4, 5), random.integers(0, 256, (5, 3072), dtype=np.uint8)) for name in ("train", "test")}
CLASSES = ["airplane", "automobile", "bird"]
COARSE = ["fish", "fruit", "mammals", "people"]
FINE = ["apple", "aquarium_fish", "baby", "bear"]
COARSE_OF = np.array([1, 0, 3, 2])
BOTH = ["fruit/apple", "fish/aquarium_fish", "people/baby", "mammals/bear"]


def as_binary(root: Path) -> Path:
    root.mkdir(parents=True)
    (root / "batches.meta.txt").write_text("\n".join(CLASSES) + "\n\n")
    for name, (labels, pixels) in TEN.items():
        (root / f"{name}.bin").write_bytes(np.hstack([labels[:, None].astype(np.uint8), pixels]).tobytes())
    return root


def as_pickles(root: Path) -> Path:
    root.mkdir(parents=True)
    (root / "batches.meta").write_bytes(pickle.dumps({"label_names": CLASSES}, 2))
    for name, (labels, pixels) in TEN.items():
        (root / name).write_bytes(pickle.dumps({"labels": labels.tolist(), "data": pixels, "filenames": ["x"] * 7}, 2))
    return root


def hundred_as_binary(root: Path) -> Path:
    root.mkdir(parents=True)
    (root / "fine_label_names.txt").write_text("\n".join(FINE))
    (root / "coarse_label_names.txt").write_text("\n".join(COARSE) + "\n")
    for name, (labels, pixels) in HUNDRED.items():
        both = np.stack([COARSE_OF[labels], labels], 1).astype(np.uint8)
        (root / f"{name}.bin").write_bytes(np.hstack([both, pixels]).tobytes())
    return root


def hundred_as_pickles(root: Path) -> Path:
    root.mkdir(parents=True)
    (root / "meta").write_bytes(pickle.dumps({"fine_label_names": FINE, "coarse_label_names": COARSE}, 2))
    for name, (labels, pixels) in HUNDRED.items():
        both = {"fine_labels": labels.tolist(), "coarse_labels": COARSE_OF[labels].tolist()}
        (root / name).write_bytes(pickle.dumps(both | {"data": pixels}, 2))
    return root


SPLITS_OF_TEN = {"train": BATCHES[:5], "test": BATCHES[5:]}
SPLITS_OF_HUNDRED = {"train": ["train"], "test": ["test"]}


@pytest.mark.parametrize(
    ("write", "names", "batches"),
    [
        (as_binary, CLASSES, SPLITS_OF_TEN),
        (as_pickles, CLASSES, SPLITS_OF_TEN),
        (hundred_as_binary, BOTH, SPLITS_OF_HUNDRED),
        (hundred_as_pickles, BOTH, SPLITS_OF_HUNDRED),
    ],
)
@pytest.mark.parametrize("split", ["train", "test"])
def test_pixels_and_labels_are_those_of_the_batches(tmp_path: Path, write, names, batches, split: str) -> None:
    source = cifar(write(tmp_path / "cifar").parent, split)
    contents = TEN | HUNDRED
    expected = [(names[label], image) for name in batches[split] for label, image in zip(*contents[name], strict=True)]
    items = list(source.items())
    assert [item.label for item in items] == [name for name, _ in expected]
    assert items[3].key == f"{split}/00003"
    for item, (_, image) in zip(items, expected, strict=True):
        read = np.asarray(Image.open(io.BytesIO(source.read(item.place))))
        np.testing.assert_array_equal(read, image.reshape(3, 32, 32).transpose(1, 2, 0))


@pytest.mark.slow
def test_a_corpus_of_either_version_holds_the_same_images_without_loss(tmp_path: Path) -> None:
    for write in (as_binary, as_pickles):
        build(cifar(write(tmp_path / write.__name__), "train"), tmp_path / "out" / write.__name__, Encoding(), workers=1)
    first, second = (Manifest.open(Unchecked(tmp_path / "out" / name)) for name in ("as_binary", "as_pickles"))
    assert first.keys.equals(second.keys)
    assert first.label.tolist() == second.label.tolist() == sorted(first.label)
    assert first.size.tolist() == second.size.tolist()
    ids = range(len(first))
    assert Corpus(first).read(ids) == Corpus(second).read(ids)


def test_a_folder_per_class(tmp_path: Path) -> None:
    write_photographs(tmp_path, ["train/apple/1.png", "test/apple/2.png"])
    assert [tuple(item)[:3] for item in cifar(tmp_path, "test").items()] == [("apple/2", "apple", "apple/2.png")]


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected one folder of CIFAR batches"):
        cifar(tmp_path, "train")
    root = as_binary(tmp_path / "bin")
    (root / "data_batch_3.bin").write_bytes(b"x" * 100)
    with pytest.raises(UserError, match=r"data_batch_3\.bin is truncated"):
        list(cifar(root, "train").items())
    (root / "data_batch_3.bin").unlink()
    with pytest.raises(UserError, match=r"data_batch_3\.bin is missing"):
        list(cifar(root, "train").items())
