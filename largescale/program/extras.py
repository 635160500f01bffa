"""Libraries that not everybody needs: imported where they are first used, with a sentence where they are missing."""

import importlib
from importlib.util import find_spec
from typing import Any

from largescale.settings import UserError


class Extra:
    """Stands for a module until something of it is asked for."""

    def __init__(self, module: str, extra: str, purpose: str) -> None:
        """
        Args:
            extra: what brings it, as in `pip install 'largescale[EXTRA]'`.
            purpose: who needs it.
        """
        self._module, self._extra, self._purpose = module, extra, purpose

    @property
    def installed(self) -> bool:
        return find_spec(self._module) is not None

    def __getattr__(self, name: str) -> Any:
        try:
            module = importlib.import_module(self._module)
        except ModuleNotFoundError as error:
            if error.name != self._module.partition(".")[0]:
                raise
            raise UserError(
                f"{self._purpose} needs {self._module}, which is not installed: pip install 'largescale[{self._extra}]'"
            ) from None
        return getattr(module, name)


faiss: Any = Extra("faiss", "cpu", "a FAISS index, or the best rows of a query,")
"""Of faiss-cpu or faiss-gpu (`largescale[gpu]`): one of them, never both."""
cv2: Any = Extra("cv2", "verification", "spatial verification (score.verification, verify)")
wandb: Any = Extra("wandb", "wandb", "tracking.wandb (off switches it off)")
wandb_messages: Any = Extra("wandb.proto.wandb_internal_pb2", "wandb", "a part of a run of W&B")
workspaces: Any = Extra("wandb_workspaces.workspaces", "wandb", "the workspace of W&B")
panels: Any = Extra("wandb_workspaces.reports.v2", "wandb", "the workspace of W&B")
tensorboard: Any = Extra("tensorboard", "tensorboard", "tracking.tensorboard")
mlflow: Any = Extra("mlflow", "mlflow", "tracking.mlflow")
