"""DeepSpeed's ZeRO around the step module. DeepSpeed is imported when such an engine is built, not before."""

import contextlib
import copy
import importlib
import io
import json
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from largescale.program.extras import Extra
from largescale.settings import UserError
from largescale.training.engine.class_rows import build_share
from largescale.training.engine.engine import Update, gradient_norm, packed, poisoned, shared_objective
from largescale.training.engine.gradcache import passes
from largescale.training.engine.optim import build_optimizer, set_rates
from largescale.training.engine.optimizer_state import ShardedMoments, Tensors, WholeMoments, copied, part
from largescale.training.engine.step_module import Batch, StepModule
from largescale.training.settings.config import EngineConfig, OptimConfig

DECIDED = {
    "train_batch_size": "tuples.per_step or batches.classes_per_batch and batches.images_per_class",
    "train_micro_batch_size_per_gpu": "engine.gradient_accumulation",
    "gradient_accumulation_steps": "engine.gradient_accumulation",
    "gradient_clipping": "engine.max_grad_norm",
    "optimizer": "optim",
    "scheduler": "schedule",
    "fp16": "precision",
    "bf16": "precision",
    "torch_autocast": "precision",
    "amp": "precision",
}
"""Keys of DeepSpeed's configuration, and the settings of ours that decide them."""
MUON = "deepspeed.runtime.zero.muon.muon_optimizer"
"""An optimizer that no setting of ours chooses; every ZeRO stage imports it to ask whether it is the one."""
RENAMED = r"`torch\.distributed\.\w+_tensor` is deprecated"
"""What torch says of collectives that DeepSpeed calls by their old names."""


def import_deepspeed(device: torch.device) -> Any:
    """DeepSpeed without its log lines, and without the operator that it would compile at its first start on a CPU."""
    os.environ.setdefault("DS_ACCELERATOR", device.type)
    deepspeed: Any = Extra("deepspeed", "deepspeed", "engine.kind=deepspeed")
    with contextlib.redirect_stdout(io.StringIO()), _without_mlflow():
        deepspeed.__version__  # noqa: B018
    _import_muon()
    warnings.filterwarnings("ignore", RENAMED, FutureWarning)
    deepspeed.utils.logger.setLevel(logging.ERROR)
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


@contextlib.contextmanager
def _without_mlflow() -> Iterator[None]:
    """Within it there is none, unless it has been imported: DeepSpeed takes it, seconds long, for a tuner that we do not call."""
    if "mlflow" in sys.modules:
        yield
        return
    sys.modules["mlflow"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules["mlflow"]


def _import_muon() -> None:
    """As it is imported it would have torch compile its kernels, and torch would import its compiler: longer than all else."""
    compiler: Any = importlib.import_module("deepspeed.runtime.compiler")
    theirs, compiler.compile = compiler.compile, lambda *_, **__: lambda function: function
    try:
        with contextlib.suppress(ImportError):
            importlib.import_module(MUON)
    finally:
        compiler.compile = theirs


def compose(config: EngineConfig) -> dict[str, Any]:
    """DeepSpeed's configuration: what ours decides, and what the user's file adds.

    Raises:
        UserError: the file cannot be read, or contradicts this configuration.
    """
    theirs = {} if config.deepspeed_config is None else _read(config.deepspeed_config)
    zero = theirs.pop("zero_optimization", {})
    if zero.get("stage", config.zero_stage) != config.zero_stage:
        raise UserError(
            f"{config.deepspeed_config} has zero_optimization.stage={zero['stage']}, engine.zero_stage={config.zero_stage}: "
            "only one of them can hold; remove the stage from the file"
        )
    return {
        "train_micro_batch_size_per_gpu": 1,
        # beyond 1, all that DeepSpeed reads from it is that gradients of several passes add up
        "gradient_accumulation_steps": config.gradient_accumulation if config.gradcache_chunk is None else 2,
        "gradient_clipping": config.max_grad_norm or 0.0,
        "zero_optimization": zero | {"stage": config.zero_stage},
        "zero_allow_untested_optimizer": True,
        "steps_per_print": None,
        **theirs,
    }


def _read(path: Path) -> dict[str, Any]:
    try:
        theirs = json.loads(path.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(f"engine.deepspeed_config={path} is not a readable JSON file: {error}") from None
    for key, ours in DECIDED.items():
        if key in theirs:
            raise UserError(f"{path} has {key}, which {ours} decides here: two values for one thing; remove it from the file")
    return theirs


class DeepSpeedEngine:
    """Optimizer state, gradients and weights sharded over the ranks as `zero_stage` says; fp32 with autocast as under DDP."""

    def __init__(self, module: StepModule, config: EngineConfig, optim: OptimConfig) -> None:
        if not any(parameter.requires_grad for parameter in module.parameters()):
            raise UserError("engine.kind=deepspeed has nothing to shard where the network does not learn; use engine.kind=ddp")
        self.deepspeed = import_deepspeed(module.world.device)
        # DeepSpeed flattens parameters and takes them for contiguous
        self.module = module.to(module.world.device).to(memory_format=torch.contiguous_format)
        self.stage, self.chunk, self.updates = config.zero_stage, config.gradcache_chunk, 0
        # ZeRO-3 hooks into every layer of the module; the network with whole weights is a twin without hooks
        self._twin = copy.deepcopy(module.net) if self.stage == 3 else None
        self.share = build_share(module.loss, optim)
        optimizer = build_optimizer(module, optim, module.layers)
        self.engine, *_ = self.deepspeed.initialize(model=module, optimizer=optimizer, config=compose(config))
        self.optimizer = self.engine.optimizer
        whole = self.stage == 0
        self.moments = WholeMoments(module, self.optimizer) if whole else ShardedMoments(module, self.optimizer, self.stage)

    def backward(self, batches: Sequence[Batch]) -> Tensor:
        self.module.hold_statistics(self.updates)
        totals = []
        for batch, last in passes(self.engine, self.module.world, batches, self.chunk, self._prepare):
            self.engine.set_gradient_accumulation_boundary(last)
            objective = self.engine(batch)
            if batch.pull is None:
                totals.append(shared_objective(objective))
            self.engine.backward(poisoned(objective, totals[-1]), scale_wrt_gas=False)
            if not last:
                self.engine.step()
        return torch.stack(totals).sum()

    def _prepare(self, batch: Batch) -> Batch:
        return self._aligned(batch).to(self.module.world.device)

    def _aligned(self, batch: Batch) -> Batch:
        """ZeRO-3 gathers each layer when it is used, so all ranks must use it equally often."""
        if self.stage < 3:
            return batch
        [passes] = self.module.world.max(len(batch.groups))
        return replace(batch, passes=int(passes))

    def step(self, factor: float) -> Update:
        set_rates(self.optimizer, factor, self.updates)
        norm, finite = self._step_whole() if self.stage == 0 else self._step_sharded()
        self.updates += finite
        if finite:
            self.share.step(factor)
        self.share.zero()
        return Update(norm, not finite)

    def _step_whole(self) -> tuple[float, bool]:
        """Without shards DeepSpeed neither looks at the norm nor reports it."""
        norm = gradient_norm(self.module)
        if not norm.isfinite():
            self.engine.zero_grad()
            return float(norm), False
        self.engine.step()
        return float(norm), True

    def _step_sharded(self) -> tuple[float, bool]:
        self.engine.step()
        return float(self.engine.get_global_grad_norm()), not self.optimizer.overflow

    def network(self) -> nn.Module:
        if self._twin is None:
            return self.module.net
        with self._gathered():
            self._twin.load_state_dict(self.module.net.state_dict())
        return self._twin

    def state(self) -> Tensors:
        with self._gathered():
            weights = {name: copied(tensor) for name, tensor in self.module.state_dict().items()}
        return packed(weights, self.moments, self.updates) | self.share.state()

    def load(self, state: Mapping[str, Tensor]) -> None:
        state = self.share.load(state)
        weights = part(state, "model.")
        with self._gathered(modifier_rank=0):
            self.module.load_state_dict(weights)
        self.updates = int(state["updates"])
        self.moments.write(part(state, "optimizer."), self.updates)
        if isinstance(self.moments, ShardedMoments):
            self.moments.write_masters(weights)

    def _gathered(self, modifier_rank: int | None = None) -> Any:
        """Within it every parameter is whole on every rank."""
        parameters = list(self.module.parameters())
        return self.deepspeed.zero.GatheredParameters(parameters, modifier_rank=modifier_rank, enabled=self.stage == 3)
