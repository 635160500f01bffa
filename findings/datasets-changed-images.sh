#!/usr/bin/env bash
# Hugging Face datasets stores the file an image was opened from, not the image.
#
# Guess: a dataset of PIL images holds their pixels; images shrunk by Image.thumbnail are stored small.
# Found: an image that Pillow opened from a path and changed in place (thumbnail, paste, putpixel) still has its filename, and datasets
#   stores that path: rows come back at full size and without the change. Image.resize makes a new image, which is stored as it is.
# Versions: datasets 5.2.0, pillow 13.0.0, 2026-11-28.
# Output seen:
#   datasets 5.2.0, pillow 13.0.0
#   given (64, 48), stored (400, 300); resized (64, 48), stored (64, 48)
#   as stated
set -euo pipefail
packages=$(mktemp -d)
trap 'rm -rf "$packages"' EXIT
python3 -m pip install --quiet --target "$packages" datasets==5.2.0 pillow==13.0.0 pyarrow==26.0.1 dill==0.4.1 pandas==3.1.1
PYTHONPATH=$packages HF_HOME=$packages/cache HF_HUB_OFFLINE=1 python3 - "$packages" <<'PYTHON'
import sys
from importlib.metadata import version

from datasets import Features, Image as ImageFeature
from PIL import Image

print(f"datasets {version('datasets')}, pillow {version('pillow')}")
file = f"{sys.argv[1]}/photograph.jpg"
Image.linear_gradient("L").resize((400, 300)).convert("RGB").save(file)
small = Image.open(file)
small.thumbnail((64, 64))
resized = Image.open(file).resize((64, 48))
features = Features({"image": ImageFeature()})
stored = []
for image in (small, resized):
    row = features.encode_example({"image": image})  # what a data set writes
    stored.append(features.decode_example(row)["image"].size)
print(f"given {small.size}, stored {stored[0]}; resized {resized.size}, stored {stored[1]}")
assert small.size == resized.size == (64, 48)
assert stored == [(400, 300), (64, 48)]
print("as stated")
PYTHON
