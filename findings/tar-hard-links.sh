#!/usr/bin/env bash
# GNU tar stores the second name of a file as a link, and webdataset drops it without a word.
#
# Guess: a tar of a folder in which two names are one file (de-duplicated storage, cp -l, rsync --link-dest) gives both images.
# Found: the second is a member without data. webdataset takes regular members only: the sample has its label and no image. Python's
#   tarfile.extractfile follows the link. tar --hard-dereference writes the data twice.
# Versions: webdataset 1.0.2, GNU tar 1.34, 2026-11-28.
# Output seen:
#   webdataset 1.0.2, tar (GNU tar) 1.34
#   as written: {'a': ['cls', 'jpg'], 'b': ['cls']}
#   with --hard-dereference: {'a': ['cls', 'jpg'], 'b': ['cls', 'jpg']}
#   as stated
set -euo pipefail
packages=$(mktemp -d)
trap 'rm -rf "$packages"' EXIT
python3 -m pip install --quiet --target "$packages" webdataset==1.0.2 numpy==2.4.6
cd "$packages"
echo image >a.jpg
ln a.jpg b.jpg
echo 0 | tee a.cls >b.cls
tar -cf linked.tar a.jpg a.cls b.jpg b.cls
tar --hard-dereference -cf copied.tar a.jpg a.cls b.jpg b.cls
PYTHONPATH=$packages python3 - "$(tar --version | head -n 1)" <<'PYTHON'
import sys
import tarfile
from importlib.metadata import version

from webdataset import WebDataset

print(f"webdataset {version('webdataset')}, {sys.argv[1]}")


def fields(file: str) -> dict[str, list[str]]:
    """Names by key."""
    samples = WebDataset(file, shardshuffle=False)
    return {sample["__key__"]: sorted(name for name in sample if not name.startswith("__")) for sample in samples}


linked, copied = fields("linked.tar"), fields("copied.tar")
print("as written:", linked)
print("with --hard-dereference:", copied)
with tarfile.open("linked.tar") as tar:
    assert tar.extractfile("b.jpg").read() == b"image\n"
assert linked == {"a": ["cls", "jpg"], "b": ["cls"]}
assert copied == {"a": ["cls", "jpg"], "b": ["cls", "jpg"]}
print("as stated")
PYTHON
