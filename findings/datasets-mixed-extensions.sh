#!/usr/bin/env bash
# Hugging Face's WebDataset reader refuses tars that webdataset reads: images of two formats, or .JPG beside .jpg.
#
# Guess: load_dataset("webdataset", …) reads what the webdataset package reads.
# Found: the extension, in upper and lower case as written, is the column, and the columns of the first samples must be equal: a tar with
#   1.jpg and 2.png, or 1.jpg and 2.JPG, is an error. webdataset reads both, and gives .JPG as jpg.
# Versions: datasets 5.2.0, webdataset 1.0.2, 2026-11-28.
# Output seen:
#   datasets 5.2.0, webdataset 1.0.2
#   ('1.jpg', '2.png'): webdataset ['jpg', 'png'], datasets: The TAR archives of the dataset should be in WebDataset format, but
#     the files in the archive don't share the same prefix or the same types.
#   ('1.jpg', '2.JPG'): webdataset ['jpg', 'jpg'], datasets: the same
#   as stated
set -euo pipefail
packages=$(mktemp -d)
trap 'rm -rf "$packages"' EXIT
python3 -m pip install --quiet --target "$packages" webdataset==1.0.2 datasets==5.2.0 pillow==13.0.0 pyarrow==26.0.1 dill==0.4.1 pandas==3.1.1 numpy==2.4.6
PYTHONPATH=$packages HF_HOME=$packages/cache HF_HUB_OFFLINE=1 python3 - "$packages" <<'PYTHON'
import io
import sys
import tarfile
from importlib.metadata import version

import datasets
import webdataset
from PIL import Image

datasets.disable_progress_bars()
print(f"datasets {version('datasets')}, webdataset {version('webdataset')}")


def write(*names: str) -> str:
    file = f"{sys.argv[1]}/{'-'.join(names)}.tar"
    with tarfile.open(file, "w") as tar:
        for name in names:
            data = io.BytesIO()
            Image.new("RGB", (8, 8)).save(data, "PNG" if name.endswith("png") else "JPEG")
            member = tarfile.TarInfo(name)
            member.size = data.tell()
            data.seek(0)
            tar.addfile(member, data)
    return file


for names, fields in ((("1.jpg", "2.png"), ["jpg", "png"]), (("1.jpg", "2.JPG"), ["jpg", "jpg"])):
    file = write(*names)
    read = [name for sample in webdataset.WebDataset(file, shardshuffle=False) for name in sample if not name.startswith("__")]
    try:
        datasets.load_dataset("webdataset", data_files=file, split="train")
    except ValueError as error:
        print(f"{names}: webdataset {read}, datasets: {str(error).splitlines()[0]}")
    else:
        raise SystemExit(f"datasets reads {names}")
    assert read == fields
rows = datasets.load_dataset("webdataset", data_files=write("1.jpg", "2.jpg"), split="train")
assert [row["jpg"].size for row in rows] == [(8, 8)] * 2
print("as stated")
PYTHON
