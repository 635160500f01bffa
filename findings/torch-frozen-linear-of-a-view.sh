#!/usr/bin/env bash
# A linear layer on a transposed view takes four times as long once its weights are frozen.
#
# Guess: freezing the weights of a layer changes the backward pass only; the forward pass is the same product.
# Found: where the weights ask for a gradient, torch.nn.functional.linear folds a view (T, B, C) into one product of T * B rows; where
#   they do not, the same view is multiplied in T products of B rows each (bmm). nn.MultiheadAttention with batch_first=True makes such
#   a view of every input, so a frozen ViT of torchvision spends half of its forward pass there.
# Versions: torch 2.14.1, 2026-11-29, x86-64, one thread.
# Output seen:
#   learns aten.mm 25 ms
#   frozen aten.bmm 113 ms
#   as stated 2.14.1
set -euo pipefail
packages=$(mktemp -d)
trap 'rm -rf "$packages"' EXIT
python3 -c 'import torch; assert torch.__version__.split("+")[0] == "2.14.1"' 2>/dev/null ||
  python3 -m pip install --quiet --target "$packages" torch==2.14.1
PYTHONPATH=$packages OMP_NUM_THREADS=1 python3 - <<'PYTHON'
import time

import torch
from torch.nn.functional import linear
from torch.utils.flop_counter import FlopCounterMode

x = torch.randn(3, 197, 768).transpose(0, 1)
taken = {}
for learns in (True, False):
    weight = torch.randn(2304, 768, requires_grad=learns)
    with FlopCounterMode(display=False) as counter:
        linear(x, weight)
    seconds = []
    for _ in range(9):
        began = time.process_time()
        linear(x, weight)
        seconds.append(time.process_time() - began)
    taken[learns] = min(seconds)
    [op] = counter.get_flop_counts()["Global"]
    print("learns" if learns else "frozen", op, f"{1000 * min(seconds):.0f} ms")
    assert str(op) == ("aten.mm" if learns else "aten.bmm")
assert taken[False] > 1.5 * taken[True]
print("as stated", torch.__version__.split("+")[0])
PYTHON
