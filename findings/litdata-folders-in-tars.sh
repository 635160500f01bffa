#!/usr/bin/env bash
# litdata's reader of WebDataset tars forgets folders: neighbors of one name in two folders become one sample.
#
# Guess: litdata.iter_webdataset_tar gives the samples of a tar that webdataset gives.
# Found: the key of a sample is the base name of its members alone. In a tar with ash/1.jpg, ash/1.json, oak/1.jpg, oak/1.json, which
#   webdataset reads as two samples, it yields one, with the image and the label of the second: fewer samples, without an error.
#   Names that differ without their folders are read as they are.
# Versions: litdata 0.2.76 (its module of this reader alone, which needs no other package), webdataset 1.0.2, 2026-11-29.
# Output seen:
#   webdataset 1.0.2: ['ash/1', 'oak/1']
#   litdata 0.2.76: [('1', b'{"label": "oak"}')]
#   as stated
set -euo pipefail
packages=$(mktemp -d)
trap 'rm -rf "$packages"' EXIT
python3 -m pip install --quiet --target "$packages" webdataset==1.0.2 numpy==2.4.6
python3 -m pip install --quiet --target "$packages" --no-deps litdata==0.2.76
PYTHONPATH=$packages python3 - "$packages" <<'PYTHON'
import importlib.util
import io
import json
import sys
import tarfile
from importlib.metadata import version

import webdataset

spec = importlib.util.spec_from_file_location("media_folder", f"{sys.argv[1]}/litdata/processing/media_folder.py")
reader = importlib.util.module_from_spec(spec)
spec.loader.exec_module(reader)
file = f"{sys.argv[1]}/0.tar"
with tarfile.open(file, "w") as tar:
    for label in ("ash", "oak"):
        for field, data in (("jpg", label.encode()), ("json", json.dumps({"label": label}).encode())):
            member = tarfile.TarInfo(f"{label}/1.{field}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
keys = [sample["__key__"] for sample in webdataset.WebDataset(file, shardshuffle=False)]
found = [(sample["__key__"], sample["json"]) for sample in reader.iter_webdataset_tar(file)]
print(f"webdataset {version('webdataset')}: {keys}\nlitdata {version('litdata')}: {found}")
assert keys == ["ash/1", "oak/1"]
assert found == [("1", b'{"label": "oak"}')]
print("as stated")
PYTHON
