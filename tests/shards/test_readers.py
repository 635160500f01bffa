"""A corpus in the hands of other tools; those that are not installed are skipped."""

import io
import json
from pathlib import Path

import pytest
import webdataset
from PIL import Image

from largescale.corpus.manifest import Manifest
from shards.sources.folder import Folder
from shards.verify import Unchecked
from shards.writer import build
from tests.shards.photographs import write_photographs

NAMES = ["oak/1.jpg", "oak/2.png", "ash/3.JPG", "ash/v1.2.jpg", "loose.png"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpora")
    build(Folder(write_photographs(folder / "in", NAMES)), folder / "trees", workers=1)
    return folder / "trees"


def expected(corpus: Path) -> dict[str, int]:
    manifest = Manifest.open(Unchecked(corpus))
    return dict(zip(manifest.keys.to_pylist(), manifest.label.tolist(), strict=True))


def test_webdataset(corpus: Path) -> None:
    tars = [str(path) for path in corpus.glob("*.tar")]
    samples = list(webdataset.WebDataset(tars, shardshuffle=False).decode("pil"))
    assert {sample["__key__"]: sample["json"]["label"] for sample in samples} == expected(corpus)
    assert {sample["jpg"].size for sample in samples} == {(40, 30)}


def test_hugging_face_datasets(corpus: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    tars = [str(path) for path in corpus.glob("*.tar")]
    rows = datasets.load_dataset("webdataset", data_files=tars, split="train", cache_dir=str(tmp_path))
    assert {row["__key__"]: row["json"]["label"] for row in rows} == expected(corpus)
    assert {row["jpg"].size for row in rows} == {(40, 30)}


def test_torchdata(corpus: Path) -> None:
    nodes = pytest.importorskip("torchdata.nodes")
    tars = [str(path) for path in corpus.glob("*.tar")]
    source = nodes.IterableWrapper(webdataset.WebDataset(tars, shardshuffle=False))
    read = {sample["__key__"]: sample for sample in nodes.Loader(nodes.Mapper(source, dict))}
    assert {key: json.loads(sample["json"])["label"] for key, sample in read.items()} == expected(corpus)
    assert all(Image.open(io.BytesIO(sample["jpg"])).size == (40, 30) for sample in read.values())
