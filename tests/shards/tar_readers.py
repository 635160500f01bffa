"""What tools read from tars that others write: `python -m tests.shards.tar_readers`. Absent tools are left out.

Each tar holds six plain images, so that a reader that looks at the first samples knows the fields, and then one of each kind.
"""

import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path

import webdataset

from shards.sources import Item
from shards.sources.tars import Tars
from tests.corpora import encode, photograph

LONG = f"{'deep/' * 30}{'x' * 150}"
KINDS = {"sub/folder": "folder", LONG: "long name", "hard": "hard link", "soft": "symbolic link", "holes": "file with holes"}
PLAIN = [f"{number}" for number in range(6)]


def write_folder(folder: Path) -> list[str]:
    """Names of the files, a sample's beside each other."""
    for number, key in enumerate([*PLAIN, *KINDS]):
        (folder / key).parent.mkdir(parents=True, exist_ok=True)
        (folder / f"{key}.json").write_text(json.dumps({"label": number}))
        if key not in ("hard", "soft"):
            (folder / f"{key}.jpg").write_bytes(encode(photograph(number, 0, 16, 16)))
    os.link(folder / "0.jpg", folder / "hard.jpg")
    (folder / "soft.jpg").symlink_to("0.jpg")
    with (folder / "holes.jpg").open("r+b") as file:
        file.truncate(4 << 20)
    return [f"{key}.{field}" for key in [*PLAIN, *KINDS] for field in ("jpg", "json")]


def run(*command: str) -> Callable[[Path, list[str], Path], None]:
    def write(folder: Path, names: list[str], file: Path) -> None:
        subprocess.run([*command, "-cf", file, *names], cwd=folder, check=True)

    return write


def by_python(folder: Path, names: list[str], file: Path) -> None:
    with tarfile.open(file, "w") as tar:
        for name in names:
            tar.add(folder / name, name)


def by_webdataset(folder: Path, names: list[str], file: Path) -> None:
    with webdataset.TarWriter(str(file)) as tar:
        for key in [*PLAIN, *KINDS]:
            tar.write({"__key__": key, **{field: (folder / f"{key}.{field}").read_bytes() for field in ("jpg", "json")}})


def to_webdataset(file: Path) -> Mapping[str, bool]:
    return {sample["__key__"]: "jpg" in sample for sample in webdataset.WebDataset(str(file), shardshuffle=False)}


def to_datasets(file: Path) -> Mapping[str, bool]:
    import datasets

    datasets.disable_progress_bars()
    rows = datasets.load_dataset("webdataset", data_files=str(file), split="train", cache_dir=str(file.with_suffix(".cache")))
    return {row["__key__"]: row["jpg"] is not None for row in rows.cast_column("jpg", datasets.Image(decode=False))}


def to_litdata(file: Path) -> Mapping[str, bool]:
    """Its keys have no folders."""
    import litdata

    names = {key.rpartition("/")[2]: key for key in [*PLAIN, *KINDS]}
    return {names[sample["__key__"]]: "jpg" in sample for sample in litdata.iter_webdataset_tar(str(file))}


def to_ours(file: Path) -> Mapping[str, bool]:
    source = Tars(file.parent)
    return {item.key.removeprefix(f"{file.stem}/"): True for item in source.index(file.name) if isinstance(item, Item)}


WRITERS = {
    "tar": run("tar"),
    "tar --sparse": run("tar", "--sparse"),
    "tar --format=pax": run("tar", "--format=pax"),
    "bsdtar": run("bsdtar"),
    "Python": by_python,
    "webdataset": by_webdataset,
}
READERS: Mapping[str, Callable[[Path], Mapping[str, bool]]] = {
    f"webdataset {version('webdataset')}": to_webdataset,
    "Hugging Face datasets": to_datasets,
    "litdata": to_litdata,
    "make shards": to_ours,
}


def rows(folder: Path) -> Iterator[tuple[str, str, list[str]]]:
    """Writer, reader, and the keys whose image it does not give."""
    names = write_folder(folder / "in")
    for number, (writer, write) in enumerate(WRITERS.items()):
        if not shutil.which(writer.split()[0]) and write not in (by_python, by_webdataset):
            continue
        file = folder / f"{number}" / "0.tar"
        file.parent.mkdir()
        write(folder / "in", names, file)
        for reader, read in READERS.items():
            try:
                found = read(file)
            except ImportError:
                continue
            yield writer, reader, [kind for key, kind in KINDS.items() if not found.get(key)]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        for writer, reader, missing in rows(Path(place)):
            print(f"| {writer} | {reader} | {', '.join(missing) or 'all'} |", flush=True)
