#!/usr/bin/env bash
# One layer with weights of five dimensions, and a whole network cannot be laid out with its channels last.
#
# Guess: module.to(memory_format=torch.channels_last) changes the weights of four dimensions and leaves all others, so that it
#   works for every network of images.
# Found: it takes weights of four and of five dimensions, and the layout is only of four: timm's lambda networks, which have some
#   Conv3d, end with an error. Parameter by parameter, those of four dimensions alone, it works.
# Versions: torch 2.14.1 (CPU), torchvision 0.29.1, timm 1.0.31, 2026-11-29.
# Output seen:
#   refused: required rank 4 tensor to use channels_last format
#   5 dimensions: ['stages.2.1.self_attn.conv_lambda.weight', 'stages.3.0.self_attn.conv_lambda.weight', 'stages.3.1.self_attn.conv_lambda.weight']
#   one by one: (1, 2048, 8, 8)
#   as stated
set -euo pipefail
packages=$(mktemp -d)
trap 'rm -rf "$packages"' EXIT
python3 -m pip install --quiet --target "$packages" torch==2.14.1 torchvision==0.29.1 timm==1.0.31
cat > "$packages/program.py" <<'PYTHON'
import timm
import torch

network = timm.create_model("lambda_resnet26t").eval()
try:
    network.to(memory_format=torch.channels_last)
    raise SystemExit("it was laid out")
except RuntimeError as error:
    print(f"refused: {error}")
    assert "required rank 4" in str(error)
five = [name for name, weight in network.named_parameters() if weight.ndim == 5]
print(f"5 dimensions: {five}")
assert five
for weight in network.parameters():
    if weight.ndim == 4:
        weight.data = weight.data.contiguous(memory_format=torch.channels_last)
with torch.no_grad():
    features = network.forward_features(torch.randn(1, 3, 256, 256).contiguous(memory_format=torch.channels_last))
print(f"one by one: {tuple(features.shape)}")
assert features.isfinite().all()
print("as stated")
PYTHON
PYTHONPATH=$packages PYTHONWARNINGS=ignore python3 "$packages/program.py"
