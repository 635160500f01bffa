#!/usr/bin/env bash
# Pillow's BOX filter at one half makes images half a level brighter; Image.reduce and OpenCV do not.
#
# Guess: resize by BOX to exactly half the size, Image.reduce(2) and OpenCV's INTER_AREA all give the mean of four pixels.
# Found: resize works in two passes and rounds half up to whole levels in each, where every second mean of two pixels is a half: the result
#   is 0.5 levels above the mean on average. reduce(2) and INTER_AREA round once: 0.125. Halving four times in a row adds up.
# Versions: pillow 13.0.0, opencv-python-headless 5.0.0.93, numpy 2.4.6, 2026-11-28.
# Output seen:
#   pillow 13.0.0, opencv 5.0.0
#   512 x 512 random levels, mean above the mean of four: resize(BOX) 0.50, reduce(2) 0.13, INTER_AREA 0.13
#   halved four times: resize(BOX) 1.99, reduce(2) 0.48
#   as stated
set -euo pipefail
packages=$(mktemp -d)
trap 'rm -rf "$packages"' EXIT
python3 -m pip install --quiet --target "$packages" pillow==13.0.0 opencv-python-headless==5.0.0.93 numpy==2.4.6
PYTHONPATH=$packages python3 - <<'PYTHON'
import cv2
import numpy as np
import PIL
from PIL import Image

print(f"pillow {PIL.__version__}, opencv {cv2.__version__}")
levels = np.random.default_rng(0).integers(0, 256, (512, 512), dtype=np.uint8)
image = Image.fromarray(levels)


def above(pixels) -> float:
    return float(np.asarray(pixels).mean() - levels.mean())


box, reduced = image.resize((256, 256), Image.Resampling.BOX), image.reduce(2)
area = cv2.resize(levels, (256, 256), interpolation=cv2.INTER_AREA)
print(
    f"512 x 512 random levels, mean above the mean of four: resize(BOX) {above(box):.2f}, reduce(2) {above(reduced):.2f}, "
    f"INTER_AREA {above(area):.2f}"
)
assert 0.48 < above(box) < 0.52
assert 0.11 < above(reduced) < 0.14
assert np.array_equal(area, np.asarray(reduced))
for _ in range(3):
    box, reduced = box.resize((box.width // 2, box.height // 2), Image.Resampling.BOX), reduced.reduce(2)
print(f"halved four times: resize(BOX) {above(box):.2f}, reduce(2) {above(reduced):.2f}")
assert above(box) > 1.5 > 0.7 > above(reduced)
print("as stated")
PYTHON
