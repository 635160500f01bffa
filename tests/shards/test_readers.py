"""A corpus in the hands of other tools; those that are not installed are skipped."""

import io
import json
import re
from pathlib import Path

import pytest
import webdataset
from PIL import Image

from largescale.corpus.manifest import Manifest
from shards.images import Encoding
from shards.plan import Sharding, settle
from shards.shard import ShardJob
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


@pytest.mark.slow
def test_shards_of_different_corpora_have_different_names(tmp_path: Path) -> None:
    """Caches of other tools go by the name of a file alone."""
    stems = []
    for number, names in enumerate((NAMES[:2], NAMES[1:], NAMES[:2])):
        source = Folder(write_photographs(tmp_path / f"{number}/in", names))
        encoding = Encoding(max_side=20 if number == 2 else 512)
        plan = settle(source, tmp_path / f"{number}/trees", encoding, Sharding())
        assert plan is not None
        stems.append(ShardJob(source, tmp_path / f"{number}/trees", encoding, plan.stem).tar(0).name)
    assert all(re.fullmatch(r"trees-[0-9a-f]{8}-00000\.tar", name) for name in stems)
    assert len(set(stems)) == len(stems)


@pytest.mark.slow
def test_webdataset(corpus: Path) -> None:
    tars = [str(path) for path in corpus.glob("*.tar")]
    samples = list(webdataset.WebDataset(tars, shardshuffle=False).decode("pil"))
    assert {sample["__key__"]: sample["json"]["label"] for sample in samples} == expected(corpus)
    assert {sample["jpg"].size for sample in samples} == {(40, 30)}


@pytest.mark.slow
def test_hugging_face_datasets(corpus: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    tars = [str(path) for path in corpus.glob("*.tar")]
    rows = datasets.load_dataset("webdataset", data_files=tars, split="train", cache_dir=str(tmp_path))
    assert {row["__key__"]: row["json"]["label"] for row in rows} == expected(corpus)
    assert {row["jpg"].size for row in rows} == {(40, 30)}


def test_litdata(corpus: Path) -> None:
    """Its keys have no folders."""
    litdata = pytest.importorskip("litdata")
    samples = [sample for path in corpus.glob("*.tar") for sample in litdata.iter_webdataset_tar(str(path))]
    read = {sample["__key__"]: json.loads(sample["json"])["label"] for sample in samples}
    assert read == {key.rpartition("/")[2]: label for key, label in expected(corpus).items()}
    assert all(Image.open(io.BytesIO(sample["jpg"])).size == (40, 30) for sample in samples)


def test_torchdata(corpus: Path) -> None:
    nodes = pytest.importorskip("torchdata.nodes")
    tars = [str(path) for path in corpus.glob("*.tar")]
    source = nodes.IterableWrapper(webdataset.WebDataset(tars, shardshuffle=False))
    read = {sample["__key__"]: sample for sample in nodes.Loader(nodes.Mapper(source, dict))}
    assert {key: json.loads(sample["json"])["label"] for key, sample in read.items()} == expected(corpus)
    assert all(Image.open(io.BytesIO(sample["jpg"])).size == (40, 30) for sample in read.values())
