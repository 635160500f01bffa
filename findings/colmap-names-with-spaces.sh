#!/usr/bin/env bash
# COLMAP's text format loses image names at the first space, without an error.
#
# Guess: a model that pycolmap writes as text and reads again has the images that it had.
# Found: "facade 1.jpg" comes back as "facade", and so does "facade 2.jpg": two images of one name. The binary format keeps names.
# Versions: pycolmap 4.2.1, 2026-11-28.
# Output seen:
#   pycolmap 4.2.1
#   text ['facade', 'facade'], binary ['facade 1.jpg', 'facade 2.jpg']
#   as stated
set -euo pipefail
packages=$(mktemp -d)
trap 'rm -rf "$packages"' EXIT
python3 -m pip install --quiet --target "$packages" pycolmap==4.2.1 numpy==2.4.6
PYTHONPATH=$packages python3 - "$packages" <<'PYTHON'
import sys
from pathlib import Path

import pycolmap

print("pycolmap", pycolmap.__version__)
options = pycolmap.SyntheticDatasetOptions()
options.num_rigs, options.num_frames_per_rig, options.num_points3D = 1, 2, 10
model = pycolmap.synthesize_dataset(options)
for number, image in sorted(model.images.items()):
    image.name = f"facade {number}.jpg"
given = sorted(image.name for image in model.images.values())
read = {}
for kind in ("text", "binary"):
    folder = Path(sys.argv[1]) / kind
    folder.mkdir()
    getattr(model, f"write_{kind}")(folder)
    again = pycolmap.Reconstruction()
    getattr(again, f"read_{kind}")(folder)
    read[kind] = sorted(image.name for image in again.images.values())
print(f"text {read['text']}, binary {read['binary']}")
assert read == {"text": ["facade", "facade"], "binary": given}
print("as stated")
PYTHON
