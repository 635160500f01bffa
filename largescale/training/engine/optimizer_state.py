"""The running averages of an optimizer as whole tensors named after their parameters, however they are sharded."""

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

Tensors = dict[str, Tensor]


class OptimizerMoments(Protocol):
    def read(self) -> Tensors:
        """Copies on the CPU, named `PARAMETER.KEY`, whole on every rank; empty before the first update."""
        ...

    def write(self, moments: Mapping[str, Tensor], updates: int) -> None:
        """Take over what `read` gave after `updates` updates."""
        ...


def copied(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True)


def part(tensors: Mapping[str, Tensor], prefix: str) -> Tensors:
    """The entries under `prefix`, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _learning(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad)


def _keys(state: Mapping[str, Any]) -> list[str]:
    """Which entries of an optimizer's state of a tensor are running averages of its shape; every rank in the same order."""
    return sorted(key for key, value in state.items() if key != "step" and isinstance(value, Tensor))


def _step(updates: int, device: torch.device | None = None) -> Tensors:
    """Adam's count of updates; a tensor of its own for each parameter, because it is incremented in place."""
    return {"step": torch.tensor(float(updates), device=device)}


def _state(parameter: Tensor, moments: Mapping[str, Tensor], updates: int) -> Tensors:
    """Fused optimizers walk through memory: an average in another order than its weights (channels last) would be mixed up."""
    return {key: torch.empty_like(parameter).copy_(moment) for key, moment in moments.items()} | _step(updates)


class WholeMoments:
    """Of an optimizer that holds everything on every rank."""

    def __init__(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.module, self.optimizer = module, optimizer

    def read(self) -> Tensors:
        state = self.optimizer.state
        return {
            f"{name}.{key}": copied(state[parameter][key])
            for name, parameter in _learning(self.module)
            for key in _keys(state.get(parameter, {}))
        }

    def write(self, moments: Mapping[str, Tensor], updates: int) -> None:
        names = {id(parameter): name for name, parameter in _learning(self.module)}
        order = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        own = [part(moments, f"{names[id(parameter)]}.") for parameter in order]
        state = {index: _state(parameter, own[index], updates) for index, parameter in enumerate(order)}
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state if updates else {}, "param_groups": groups})


class ShardedMoments:
    """Of DeepSpeed's ZeRO optimizers, which flatten the parameters and keep a part of them on each rank."""

    def __init__(self, module: nn.Module, optimizer: Any, stage: int) -> None:
        self.module, self.optimizer, self.stage = module, optimizer, stage
        self.inner: torch.optim.Optimizer = optimizer.optimizer

    def read(self) -> Tensors:
        from deepspeed.utils import safe_get_full_optimizer_state

        self._link()
        keys = _keys(self.inner.state.get(self._flats()[0], {}))
        learning = list(_learning(self.module))
        return {f"{name}.{key}": copied(safe_get_full_optimizer_state(p, key)) for key in keys for name, p in learning}

    def write(self, moments: Mapping[str, Tensor], updates: int) -> None:
        if not updates:
            return
        # ranks gather the parts of one average after the other, so they need one order; that of a set differs between them
        keys = sorted({name.rpartition(".")[2] for name in moments})
        for flat in self._flats():
            self.inner.state[flat] = {key: torch.zeros_like(flat) for key in keys} | _step(updates, flat.device)
        self._link()
        for name, parameter in _learning(self.module):
            for key in keys:
                self._put(parameter, moments[f"{name}.{key}"], key)

    def write_masters(self, weights: Mapping[str, Tensor]) -> None:
        """The copies of the weights that the optimizer updates."""
        for name, parameter in _learning(self.module):
            self._put(parameter, weights[name], None)

    def _flats(self) -> list[Tensor]:
        if self.stage == 3:
            return self.optimizer.fp32_partitioned_groups_flat
        return [group["params"][0] for group in self.inner.param_groups]

    def _link(self) -> None:
        """Tie parameters to their parts of the flat state: ZeRO 1 and 2 do so once, when only the first group has a state."""
        from deepspeed.utils import lazy_init_hp_params_optimizer_state

        if self.stage < 3:
            for members, flat in zip(self.optimizer.bit16_groups, self._flats(), strict=True):
                lazy_init_hp_params_optimizer_state(members, flat, self.inner.state)

    def _put(self, parameter: Any, value: Tensor, key: str | None) -> None:
        from deepspeed import utils

        value = value.to(parameter.device)
        if self.stage < 3:
            set_state, set_weights = utils.safe_set_full_optimizer_state, utils.safe_set_full_fp32_param
        else:
            # DeepSpeed's setters of whole tensors fail at ZeRO-3 where a tensor does not divide evenly
            value = _partition(parameter, value)
            set_state, set_weights = utils.safe_set_local_optimizer_state, utils.safe_set_local_fp32_param
        set_state(parameter, value, key) if key else set_weights(parameter, value)


def _partition(parameter: Any, value: Tensor) -> Tensor:
    """This rank's part of a parameter of ZeRO-3: equal parts of the flat tensor, the last padded with zeros."""
    size, ranks, rank = parameter.ds_tensor.numel(), torch.distributed.get_world_size(), torch.distributed.get_rank()
    padded = value.new_zeros(size * ranks)
    padded[: value.numel()] = value.flatten()
    return padded[size * rank :][:size]
