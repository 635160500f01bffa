#!/usr/bin/env bash
# Under DeepSpeed's ZeRO 3, torch's own ways to save a model write tensors without elements.
#
# Guess: get_model_state_dict(net, full_state_dict=True) and torch.distributed.checkpoint.save give whole tensors, as under FSDP.
# Found: parameters of 100,000 elements and more (stage3_param_persistence_threshold) have shape (0,), also in the file, without a
#   word; once a step was taken smaller ones are whole, so that a small network looks right. Loading says "Size mismatch". DeepSpeed's
#   own GatheredParameters has them.
# Versions: torch 2.14.1 (CPU), deepspeed 0.19.8, 2026-11-29. Needs a C++ compiler (deepspeed) and Linux.
# Output seen:
#   saved: {'0.weight': (0,), '0.bias': (400,)}
#   gathered: {'0.weight': (400, 300), '0.bias': (400,)}
#   as stated
set -euo pipefail
packages=$(mktemp -d)
trap 'rm -rf "$packages"' EXIT
python3 -m pip install --quiet --target "$packages" torch==2.14.1 numpy==2.4.6 deepspeed==0.19.8
cat > "$packages/program.py" <<'PYTHON'
import os
import sys

os.environ["DS_ACCELERATOR"] = "cpu"
import deepspeed
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # or it is compiled first
dist.init_process_group("gloo")
net = torch.nn.Sequential(torch.nn.Linear(300, 400))
zero = {"train_micro_batch_size_per_gpu": 1, "zero_optimization": {"stage": 3}, "zero_allow_untested_optimizer": True}
engine, *_ = deepspeed.initialize(model=net, optimizer=torch.optim.AdamW(net.parameters()), config=zero)
engine.backward(engine(torch.ones(1, 300)).sum())
engine.step()
whole = get_model_state_dict(net, options=StateDictOptions(full_state_dict=True))
dcp.save(whole, checkpoint_id=sys.argv[1])
saved = {name: tuple(about.size) for name, about in dcp.FileSystemReader(sys.argv[1]).read_metadata().state_dict_metadata.items()}
with deepspeed.zero.GatheredParameters(list(net.parameters())):
    gathered = {name: tuple(value.shape) for name, value in net.state_dict().items()}
if dist.get_rank() == 0:
    print(f"saved: {saved}\ngathered: {gathered}")
    assert saved == {"0.weight": (0,), "0.bias": (400,)}
    assert gathered == {"0.weight": (400, 300), "0.bias": (400,)}
    print("as stated")
dist.barrier()
dist.destroy_process_group()
PYTHON
PYTHONPATH=$packages PYTHONWARNINGS=ignore python3 -m torch.distributed.run --standalone --nproc-per-node 2 "$packages/program.py" \
    "$packages/saved" 2> "$packages/errors" | grep -v -e WARNING -e INFO || { cat "$packages/errors"; exit 1; }
