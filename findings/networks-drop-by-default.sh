#!/usr/bin/env bash
# Some published networks leave out blocks at random in training without being asked, and of one name only in one library.
#
# Guess: stochastic depth is off until a rate is given: two passes of a network in training mode, without dropout and with batch
#   normalization in evaluation mode, give the same features.
# Found: five of seven families of torchvision do not, and of eleven of timm only Swin. A network of one name (convnext_tiny) does in
#   one library and does not in the other. Each process draws for itself, so that a step on two processes is not that of one.
# Versions: torch 2.14.1 (CPU), torchvision 0.29.1, timm 1.0.31, 2026-11-29.
# Output seen:
#   torchvision: convnext_tiny swin_t swin_v2_t maxvit_t efficientnet_b0
#   timm: swin_tiny_patch4_window7_224
#   as stated
set -euo pipefail
packages=$(mktemp -d)
trap 'rm -rf "$packages"' EXIT
python3 -m pip install --quiet --target "$packages" torch==2.14.1 torchvision==0.29.1 timm==1.0.31
cat > "$packages/program.py" <<'PYTHON'
import timm
import torch
import torchvision

TORCHVISION = ("resnet18", "vit_b_16", "convnext_tiny", "swin_t", "swin_v2_t", "maxvit_t", "efficientnet_b0")
TIMM = ("resnet18", "vit_tiny_patch16_224", "convnext_tiny", "swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256",
        "maxvit_tiny_rw_224", "efficientnet_b0", "hiera_tiny_224", "pvt_v2_b0", "xcit_nano_12_p16_224", "mvitv2_tiny")
DROPPING = {
    "torchvision": ["convnext_tiny", "swin_t", "swin_v2_t", "maxvit_t", "efficientnet_b0"],
    "timm": ["swin_tiny_patch4_window7_224"],
}


def drops(network, side):
    torch.manual_seed(0)
    network.train()
    for module in network.modules():
        if type(module).__name__.startswith(("Dropout", "BatchNorm")):
            module.eval()
    images = torch.randn(4, 3, side, side)
    with torch.no_grad():
        return any(not torch.equal(network(images), network(images)) for _ in range(3))


for library, names in (("torchvision", TORCHVISION), ("timm", TIMM)):
    found = []
    for name in names:
        network = getattr(torchvision.models, name)() if library == "torchvision" else timm.create_model(name)
        if drops(network, 256 if "256" in name else 224):
            found.append(name)
    print(f"{library}: {' '.join(found)}")
    assert found == DROPPING[library]
print("as stated")
PYTHON
PYTHONPATH=$packages PYTHONWARNINGS=ignore python3 "$packages/program.py"
