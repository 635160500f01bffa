"""A model for other runtimes: ONNX, `torch.export` and TorchScript. What goes in are pixels, what comes out are descriptors.

B pictures, H x W pixels, S scales, D dimensions, d kept dimensions.
"""

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from largescale.commit import committed_file
from largescale.describing.config import Runtime
from largescale.models.pooling import l2_normalize
from largescale.models.sharing.folder import Contents
from largescale.models.transform.multiscale import AtScales, merge_scales
from largescale.models.transform.transform import cut
from largescale.program.extras import Extra
from largescale.settings import UserError

onnxruntime: Any = Extra("onnxruntime", "export", "an export to ONNX")
FILES: dict[Runtime, str] = {"onnx": "model.onnx", "program": "model.pt2", "torchscript": "model.ts.pt"}
OPSET = 18
TOLERANCE = 1e-4
"""Most that a number of a descriptor may differ from the network's."""
TRACED = (96, 128)
"""(H, W) of the pictures by which an export is traced."""


class Standalone(nn.Module):
    """`(B, 3, H, W)` uint8 RGB -> `(B, d)` float32: normalization, network, scales and whitening in one module."""

    mean: torch.Tensor
    std: torch.Tensor
    center: torch.Tensor
    directions: torch.Tensor

    def __init__(self, contents: Contents) -> None:
        super().__init__()
        settings, contract = contents.settings, contents.network.contract
        self.network = AtScales([contents.network] * len(settings.scales), settings.scales)
        self.exponent, self.unit, self.dim = settings.exponent, contents.network.metric == "cosine", contents.transform.dim
        self.register_buffer("mean", torch.tensor(contract.mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(contract.std).view(3, 1, 1))
        whitening = contents.whitening
        self.whitened = whitening is not None
        self.is_done = len(settings.scales) == 1 and not self.whitened and self.dim is None
        if whitening is not None:
            self.register_buffer("center", whitening.mean.float())
            self.register_buffer("directions", whitening.directions.float())
        self.eval()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        scales = self.network((images.float() / 255 - self.mean) / self.std)  # (B, S, D)
        if self.is_done:
            return scales[:, 0]
        rows = merge_scales(scales.transpose(0, 1), self.exponent, self.unit)
        return l2_normalize((rows - self.center) @ self.directions.T) if self.whitened else cut(rows, self.dim, self.unit)


@dataclass(frozen=True)
class Checked:
    """What an exported file does, beside the network."""

    file: Path
    difference: float
    """The largest of a number of a descriptor."""
    seconds: float
    """For a picture, on this machine's processor."""
    seconds_of_torch: float


def export(contents: Contents, kind: Runtime, out: Path, pictures: Sequence[np.ndarray]) -> Checked:
    """Write a model for another runtime and check it on pictures.

    Args:
        pictures: `(H, W, 3)` uint8 each, of several sizes, as the reader gives them to the network.

    Raises:
        UserError: the network cannot be exported so, or what was written computes something else; nothing is left then.
    """
    contract = contents.network.contract
    if contract.fixed:
        raise UserError(
            f"{contents.network.config.backbone} bears pictures of {contract.size} x {contract.size} pixels and no others, and "
            f"an exported file is for pictures of any size: export a model with another backbone, or use this one from the folder"
        )
    module, path = Standalone(contents), out / FILES[kind]
    batches = [torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)[None] for picture in pictures]
    with committed_file(path) as temporary, torch.inference_mode(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit", FutureWarning)  # its successor has no C++ without Python's packages
        with torch.inference_mode(False), torch.no_grad():
            _write(module, kind, temporary)
        run = _runner(kind, temporary)
        expected = [module(batch).numpy() for batch in batches]
        several = torch.cat([batches[0], batches[0]])
        pairs = zip([*batches, several], [*expected, np.repeat(expected[0], 2, axis=0)], strict=True)
        difference = max(float(np.abs(_ran(run, batch, path) - wanted).max()) for batch, wanted in pairs)
        if not difference <= TOLERANCE:
            raise UserError(f"{path.name} differs from the network by {difference:.2g}, more than {TOLERANCE:g}: it was not kept")
        seconds, of_torch = _seconds(run, batches), _seconds(module, batches)
    return Checked(path, difference, seconds, of_torch)


def _write(module: Standalone, kind: Runtime, path: Path) -> None:
    example = torch.zeros(2, 3, *TRACED, dtype=torch.uint8)
    try:
        if kind == "torchscript":
            torch.jit.trace(module, (example,), check_trace=False).save(str(path))
            return
        sides = dict.fromkeys(("batch", "height", "width"), torch.export.Dim.DYNAMIC)
        shapes = ({0: sides["batch"], 2: sides["height"], 3: sides["width"]},)
        program = torch.export.export(module, (example,), dynamic_shapes=shapes)
        if kind == "program":
            with path.open("wb") as file, warnings.catch_warnings():
                warnings.filterwarnings("ignore", "No complete tensor found")  # of parts of one tensor, which it stores whole
                torch.export.save(program, file)
            return
        names: dict[str, Any] = {"input_names": ["images"], "output_names": ["descriptors"]}
        torch.onnx.export(program, f=str(path), opset_version=OPSET, external_data=False, dynamo=True, verbose=False, **names)
    except UserError:
        raise
    except Exception as error:  # tracers raise whatever they stumble on in a network
        reason = (str(error) or repr(error)).strip().splitlines()[0]
        raise UserError(f"this network cannot be exported as {kind} ({type(error).__name__}: {reason})") from None


def _ran(run: Callable[[torch.Tensor], np.ndarray], batch: torch.Tensor, path: Path) -> np.ndarray:
    try:
        return run(batch)
    except Exception as error:  # runtimes raise whatever they stumble on, such as a size that the tracer took for impossible
        count, _, height, width = batch.shape
        reason = (str(error) or repr(error)).strip().splitlines()[0]
        raise UserError(
            f"{path.name} cannot be run on {count} pictures of {width} x {height} ({reason}): it was not kept"
        ) from None


def _runner(kind: Runtime, path: Path) -> Callable[[torch.Tensor], np.ndarray]:
    if kind == "onnx":
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        return lambda batch: session.run(None, {"images": batch.numpy()})[0]
    if kind == "torchscript":
        script = torch.jit.load(str(path))
        return lambda batch: script(batch).numpy()
    with path.open("rb") as file:
        program = torch.export.load(file).module()
    return lambda batch: program(batch).numpy()


def _seconds(run: Callable[[torch.Tensor], Any], batches: Sequence[torch.Tensor]) -> float:
    """The mean over pictures of the best of three."""
    best = []
    for batch in batches:
        times = []
        for _ in range(3):
            start = time.perf_counter()
            run(batch)
            times.append(time.perf_counter() - start)
        best.append(min(times))
    return float(np.mean(best))
