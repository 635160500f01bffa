#!/usr/bin/env bash
# webdataset: the ._ members of a tar made on a Mac become samples with an empty key, unless they lie at the top of the archive.
#
# Guess: webdataset leaves the AppleDouble members of tars made on macOS out (it has a pattern for such files) wherever they are.
# Found: ._1.jpg is left out; photos/._1.jpg is not: the key ends at the first dot after the folder, so that it is "photos/" and the
#   field is "_1.jpg". Half of the samples of such a tar have no image, and whoever asks for sample["jpg"] stops at the first.
# Versions: webdataset 1.0.2, 2026-11-28.
# Output seen:
#   webdataset 1.0.2
#   at the top: [{'key': '1', 'jpg': 'image'}, {'key': '2', 'jpg': 'image'}]
#   in a folder: [{'key': 'photos/', '_1.jpg': 'finder'}, {'key': 'photos/1', 'jpg': 'image'}, …]
#   as stated
set -euo pipefail
packages=$(mktemp -d)
trap 'rm -rf "$packages"' EXIT
python3 -m pip install --quiet --target "$packages" webdataset==1.0.2 numpy==2.4.6
PYTHONPATH=$packages python3 - "$packages" <<'PYTHON'
import io
import sys
import tarfile
from importlib.metadata import version

from webdataset import WebDataset

print("webdataset", version("webdataset"))


def samples(folder: str) -> list[dict[str, str]]:
    file = f"{sys.argv[1]}/photographs.tar"
    with tarfile.open(file, "w") as tar:
        for number in "12":
            for name, data in ((f"._{number}.jpg", b"finder"), (f"{number}.jpg", b"image")):
                member = tarfile.TarInfo(folder + name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    kept = []
    for sample in WebDataset(file, shardshuffle=False):
        fields = {name: data.decode() for name, data in sample.items() if not name.startswith("__")}
        kept.append({"key": sample["__key__"]} | fields)
    return kept


top, inside = samples(""), samples("photos/")
print("at the top:", top)
print("in a folder:", inside)
assert top == [{"key": "1", "jpg": "image"}, {"key": "2", "jpg": "image"}]
assert inside == [
    {"key": "photos/", "_1.jpg": "finder"},
    {"key": "photos/1", "jpg": "image"},
    {"key": "photos/", "_2.jpg": "finder"},
    {"key": "photos/2", "jpg": "image"},
]
print("as stated")
PYTHON
