"""The compiler of torch is imported by who compiles, and by nobody else."""

import subprocess
import sys

import pytest

PROGRAM = """
import sys
import largescale
import torch, torchvision.models, torch.distributed as dist

compiler = "torch._dynamo.eval_frame"
layer = torch.nn.Linear(3, 3)
dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
learning = torch.nn.parallel.DistributedDataParallel(layer)
optimizer = torch.optim.AdamW(layer.parameters(), fused=True)

def update():
    learning(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()

update()
assert compiler not in sys.modules and "sympy" not in sys.modules
import torch._dynamo.eval_frame as asked
from torch._dynamo.utils import get_optimize_ddp_mode
assert sys.modules[compiler] is asked is torch._dynamo.eval_frame and asked.__spec__.origin == asked.__file__
assert not hasattr(torch.optim.Optimizer.zero_grad.__wrapped__, "__dynamo_disable")
update()
assert torch.optim.Optimizer.zero_grad.__wrapped__.__dynamo_disable is not torch.optim.Optimizer.zero_grad.__wrapped__
compiled = torch.compile(layer, backend="eager")
assert torch.equal(compiled(torch.ones(2, 3)), layer(torch.ones(2, 3)))
"""


@pytest.mark.slow
def test_a_step_needs_no_compiler_and_who_asks_has_it_whole() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
