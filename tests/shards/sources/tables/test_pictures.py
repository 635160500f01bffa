from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from largescale.settings import UserError
from shards.sources import Item, Skipped, Source
from shards.sources.layout import Request
from shards.sources.tables.pictures import Tables
from tests.corpora import encode, photograph

IMAGES = [encode(photograph(number // 2, number, 20, 16)) for number in range(6)]
LABELS = [0, 0, 1, 1, 0, None]


def items(source: Source) -> list[Item]:
    return [item for item in source.items() if isinstance(item, Item)]


def check(source: Source, labels: list[str | None]) -> None:
    found = items(source)
    assert [item.label for item in found] == labels
    assert [source.read(item.place) for item in found] == IMAGES[: len(labels)]
    assert len({item.key for item in found}) == len(found)


def rows() -> dict[str, list]:
    return {"image": [{"bytes": data, "path": None} for data in IMAGES], "label": LABELS, "id": list(range(6))}


def test_parquet_of_plain_bytes_in_row_groups(tmp_path: Path) -> None:
    pq.write_table(
        pa.table({"picture": IMAGES, "label": ["a", "a", "b", "b", "a", None]}), tmp_path / "x.parquet", row_group_size=2
    )
    assert Tables().recognize(tmp_path)
    check(Tables().read(Request(tmp_path))[""], ["a", "a", "b", "b", "a", None])
    check(Tables().read(Request(tmp_path / "x.parquet"))[""], ["a", "a", "b", "b", "a", None])
    with pytest.raises(UserError, match="has no column 'klass'; it has: picture, label"):
        items(Tables().read(Request(tmp_path, label_field="klass"))[""])


@pytest.mark.slow
def test_parquet_and_folders_of_hugging_face_name_their_classes(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["oak", "ash"]), "id": datasets.Value("int64")}
    )
    table = datasets.Dataset.from_dict(rows(), features=features)
    named = ["oak", "oak", "ash", "ash", "oak", None]
    (tmp_path / "hub").mkdir()
    table.to_parquet(tmp_path / "hub/train-00000-of-00001.parquet")
    table.select(range(2)).to_parquet(tmp_path / "hub/test-00000-of-00001.parquet")
    hub = Tables().read(Request(tmp_path / "hub"))
    check(hub["train"], named)
    check(hub["test"], named[:2])
    table.shuffle(seed=1).sort("id").save_to_disk(str(tmp_path / "one"))
    check(Tables().read(Request(tmp_path / "one"))[""], named)
    datasets.DatasetDict({"train": table, "test": table.select(range(2))}).save_to_disk(str(tmp_path / "several"))
    check(Tables().read(Request(tmp_path / "several"))["test"], named[:2])
    assert Tables().recognize(tmp_path / "several") == "dataset_dict.json"


@pytest.mark.parametrize("name", ["x.parquet", "x.arrow", "data.mdb"])
def test_tables_that_are_damaged_are_named(tmp_path: Path, name: str) -> None:
    pytest.importorskip("lmdb")
    (tmp_path / name).write_bytes(bytes(8192))
    with pytest.raises(UserError, match=rf"{name}|is no LMDB"):
        items(Tables().read(Request(tmp_path))[""])


@pytest.mark.parametrize("write", [pa.ipc.new_file, pa.ipc.new_stream])
def test_arrow_files(tmp_path: Path, write) -> None:
    table = pa.table(rows())
    with write(str(tmp_path / "data.arrow"), table.schema) as writer:
        writer.write_table(table, max_chunksize=4)
    check(Tables().read(Request(tmp_path, label_field="id"))[""], ["0", "1", "2", "3", "4", "5"])


@pytest.mark.slow
def test_lance(tmp_path: Path) -> None:
    lance = pytest.importorskip("lance")
    lance.write_dataset(pa.table({"image": IMAGES, "class": ["a", "a", "b", "b", "a", "c"]}), str(tmp_path / "x.lance"))
    assert Tables().recognize(tmp_path / "x.lance") == "a Lance data set"
    check(Tables().read(Request(tmp_path / "x.lance"))[""], ["a", "a", "b", "b", "a", "c"])


def test_lmdb(tmp_path: Path) -> None:
    lmdb = pytest.importorskip("lmdb")
    with lmdb.open(str(tmp_path / "db"), map_size=1 << 24) as store, store.begin(write=True) as transaction:
        for n, data in enumerate(IMAGES[:4]):
            transaction.put(f"{'oak' if n < 2 else 'pine'}/{n}.jpg".encode(), data)
        transaction.put(b"~length", b"4")
    source = Tables().read(Request(tmp_path / "db"))[""]
    check(source, ["oak", "oak", "pine", "pine"])
    assert [item for item in source.items() if isinstance(item, Skipped)] == [Skipped("~length", "value is no encoded image")]


def test_a_table_without_images(tmp_path: Path) -> None:
    pq.write_table(pa.table({"name": ["a"], "label": [1]}), tmp_path / "x.parquet")
    assert Tables().recognize(tmp_path) is None
    with pytest.raises(UserError, match="expected a column of encoded images"):
        items(Tables().read(Request(tmp_path))[""])
