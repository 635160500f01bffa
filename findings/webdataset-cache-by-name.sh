#!/usr/bin/env bash
# webdataset's cache gives one data set's samples for another's, where their shards have one name.
#
# Guess: cache_dir keeps a copy for each URL.
# Found: it is keyed by the last part of the URL alone: after …/paris/00000.tar, the reader of …/oxford/00000.tar gets Paris, without
#   an error and without a request.
# Versions: webdataset 1.0.2, 2026-11-28.
# Output seen:
#   webdataset 1.0.2
#   with cache_dir: paris gives ['paris'], oxford gives ['paris']; asked for ['/paris/00000.tar']
#   as stated
set -euo pipefail
packages=$(mktemp -d)
trap 'rm -rf "$packages"' EXIT
python3 -m pip install --quiet --target "$packages" webdataset==1.0.2 numpy==2.4.6
command -v curl >/dev/null || { echo "curl is needed: webdataset reads http through it"; exit 1; }
PYTHONPATH=$packages python3 - "$packages" <<'PYTHON'
import io
import sys
import tarfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path
from threading import Thread

from webdataset import WebDataset

print("webdataset", version("webdataset"))
asked = []


class Handler(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        asked.append(self.path)


root = Path(sys.argv[1]) / "served"
for place in ("paris", "oxford"):
    (root / place).mkdir(parents=True)
    with tarfile.open(root / place / "00000.tar", "w") as tar:
        member = tarfile.TarInfo("1.txt")
        member.size = len(place)
        tar.addfile(member, io.BytesIO(place.encode()))
server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(root)))
Thread(target=server.serve_forever, daemon=True).start()


def read(place: str, **cache: str) -> list[str]:
    url = f"http://127.0.0.1:{server.server_port}/{place}/00000.tar"
    return [sample["txt"].decode() for sample in WebDataset(url, shardshuffle=False, **cache)]


(root / "cache").mkdir()
cached = [read(place, cache_dir=f"{root}/cache") for place in ("paris", "oxford")]
print(f"with cache_dir: paris gives {cached[0]}, oxford gives {cached[1]}; asked for {asked}")
assert cached == [["paris"], ["paris"]]
assert asked == ["/paris/00000.tar"]
assert read("oxford") == ["oxford"]
print("as stated")
PYTHON
