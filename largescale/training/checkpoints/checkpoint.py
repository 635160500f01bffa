"""Complete states of a run on disk, written so that a crash at any moment leaves the previous one whole.

A checkpoint is a folder `step-000123/`: tensors under the names of the bare module in `part-00000.safetensors`, …, each written
by one rank, `progress.json` for everything else, and the marker. It does not depend on the number of ranks or on the engine,
holds no code, and every byte of it is covered by a checksum that is compared when a run goes on from it.
"""

import itertools
import json
import logging
import shutil
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch.distributed as dist
from pydantic import NonNegativeInt, ValidationError
from torch import Tensor

from largescale import commit
from largescale.commit import DamagedError
from largescale.distributed import World
from largescale.names import Component
from largescale.settings import Settings, UserError
from largescale.tensors import Tensors, read_tensors, write_tensors
from largescale.training.settings.config import CheckpointConfig

log = logging.getLogger(__name__)

FORMAT = 2
RECORD = "progress.json"
NAME = r"step-\d{6,}"
"""Of a checkpoint."""
WEIGHTS_NAME = rf"{NAME}\.((whitening\.)?safetensors|anchors\.npy)"
"""Of the weights of a step, of its whitening and of its class anchors."""
WRAPPERS = {"module", "_orig_mod"}


class Checkpoint(NamedTuple):
    step: int
    tensors: dict[str, Tensor]
    """On the CPU, whole."""
    progress: dict[str, Any]


def newest(directory: Path) -> Path | None:
    """The complete checkpoint of the highest step under `directory`; None when there is none."""
    return max(_complete(directory), key=step_of, default=None)


def load(path: Path, identity: Mapping[str, Any]) -> Checkpoint:
    """Read a checkpoint on this rank alone.

    Args:
        identity: what must be the same in the run that wrote it, such as the corpus's fingerprint and the network's name.

    Raises:
        UserError: it was written for another corpus, network or optimizer.
        DamagedError: a file of it is missing or not what was written.
    """
    record = _read_record(path)
    _check_identity(path, record.identity, identity)
    return Checkpoint(record.step, _read_parts(path, record.parts), record.progress)


def fault_of(path: Path) -> str | None:
    """What is wrong with a committed checkpoint, or None."""
    try:
        _read_parts(path, _read_record(path).parts)
    except DamagedError as error:
        return str(error)
    except UserError:
        return None  # of another format: whoever loads it hears of that
    return None


class ProgressRecord(Settings):
    """`progress.json`, as somebody sent it."""

    format: int
    step: NonNegativeInt
    identity: dict[str, Any]
    progress: dict[str, Any]
    parts: dict[Component, str]


def _read_record(path: Path) -> ProgressRecord:
    try:
        record = commit.read_json(path / RECORD)
    except FileNotFoundError:
        raise DamagedError(f"{path / RECORD} is missing; restore it from a copy") from None
    if record.get("format") != FORMAT:
        found = record.get("format")
        raise UserError(f"{path} has format {found}, this version reads {FORMAT}; go on with the one that wrote it")
    try:
        return ProgressRecord.model_validate(record)
    except ValidationError as error:
        raise UserError(f"{path / RECORD} is no record of a checkpoint: {error.errors()[0]['msg']}") from None


def _read_parts(path: Path, parts: Mapping[str, str]) -> Tensors:
    tensors: Tensors = {}
    for name, checksum in parts.items():
        try:
            tensors |= read_tensors(path / name, checksum)[0]
        except FileNotFoundError:
            raise DamagedError(f"{path / name} is missing; restore it from a copy") from None
    return tensors


class Checkpoints:
    """The checkpoints of a run: written in the background if so configured, the newest and the best kept.

    Every method is called by all ranks together.
    """

    def __init__(self, directory: Path, config: CheckpointConfig, world: World, identity: Mapping[str, Any]) -> None:
        self.directory, self.config, self.world, self.identity = directory, config, world, dict(identity)
        self._group: Any = dist.new_group(backend="gloo")
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None

    def save(self, step: int, tensors: Mapping[str, Tensor], progress: Mapping[str, Any]) -> None:
        """Write the state after `step` steps, unless it is there already. An error of the save before is raised here.

        Args:
            tensors: copies that nobody changes any more, the same on every rank.
            progress: everything else, as JSON.
        """
        _refuse_wrappers(tensors)
        self.wait()
        directory = self.directory / f"step-{step:06d}"
        record = {"format": FORMAT, "step": step, "identity": self.identity, "progress": dict(progress)}
        record = json.loads(json.dumps(record))  # as it is now: it is written while training goes on
        if not self.world.decide(lambda: self._begin(directory)):
            return
        self._pending = self._thread.submit(self._write, directory, dict(tensors), record)
        if not self.config.asynchronous:
            self.wait()

    def wait(self) -> None:
        """Until the save under way is complete. An error of any rank is raised on every rank."""
        if self._pending is None:
            return
        error = self._pending.exception()
        self._pending = None
        errors = [text for text in self.world.gather(error and str(error)) if text]
        if errors:
            place = f"{self.directory} ({shutil.disk_usage(self.directory).free / 1e9:.1f} GB free)"
            raise UserError(
                f"no checkpoint could be written to {place}: {errors[0]}; those before are whole: make room, and the same "
                "command goes on from them"
            ) from error

    def mark_best(self, step: int, score: float) -> bool:
        """Keep the checkpoint of `step` when its score is the highest so far; whether it is."""
        return self.world.decide(lambda: self._mark_best(step, score))

    def load(self, path: Path) -> Checkpoint:
        return load(path, self.identity)

    def newest(self) -> Path | None:
        """The newest whole checkpoint; damaged ones are told of and passed over.

        Raises:
            UserError: there are checkpoints, and none of them is whole.
        """
        return self.world.decide(self._newest)

    def _newest(self) -> Path | None:
        faults: list[str] = []
        for path in sorted(_complete(self.directory), key=step_of, reverse=True):
            fault = fault_of(path)
            if fault is None:
                for text in faults:
                    log.warning("%s\nthe run goes on from %s in its place", text, path)
                return path
            faults.append(fault)
        if faults:
            raise UserError(
                f"no checkpoint in {self.directory} is whole:\n  " + "\n  ".join(faults) + "\nrestore one, or delete the folder "
                "of the run to begin anew"
            )
        return None

    def _begin(self, directory: Path) -> bool:
        if commit.is_complete(directory) and fault_of(directory) is None:
            return False
        remove_remains(self.directory)
        commit.begin_directory(directory)
        return True

    def _write(self, directory: Path, tensors: Tensors, record: Mapping[str, Any]) -> None:
        """Each rank writes its part; rank 0 commits when it has heard of all. An error of a rank is one of all."""
        name = f"part-{self.world.rank:05d}.safetensors"
        written: tuple[str, str, str | None] = (name, "", None)
        try:
            written = (name, write_tensors(commit.partial(directory) / name, self._own(tensors)), None)
        except Exception as error:  # of any kind: the other ranks must hear of it
            written = (name, "", f"{type(error).__name__}: {error}")
        everyone: list[Any] = [None] * self.world.size
        dist.all_gather_object(everyone, written, group=self._group)
        failed = [f"rank {rank}: {fault}" for rank, (_, _, fault) in enumerate(everyone) if fault is not None]
        if failed:
            raise RuntimeError("; ".join(failed))
        if self.world.is_first:
            parts = {of_rank: checksum for of_rank, checksum, _ in everyone}
            commit.write_json(commit.partial(directory) / RECORD, {**record, "parts": parts})
            commit.commit_directory(directory)
            self._remove_old(record["step"])

    def _own(self, tensors: Tensors) -> Tensors:
        """This rank's part of the tensors, about as many bytes as every other's."""
        names = sorted(tensors)
        ends = list(itertools.accumulate(tensors[name].nbytes for name in names))
        total = max(ends[-1], 1) if ends else 1
        own = [(end - 1) * self.world.size // total == self.world.rank for end in ends]
        return {name: tensors[name] for name, mine in zip(names, own, strict=True) if mine}

    def _remove_old(self, step: int) -> None:
        """Those after this step are of a run that went on from an earlier one."""
        complete = sorted(_complete(self.directory), key=step_of)
        best, past = best_of(self.directory), [path for path in complete if step_of(path) <= step]
        for path in [*(path for path in complete if step_of(path) > step), *past[: -self.config.keep]]:
            if step_of(path) != best.get("step"):
                commit.remove_directory(path)

    def _mark_best(self, step: int, score: float) -> bool:
        better = score > best_of(self.directory).get("score", float("-inf"))
        if better:
            commit.write_json(self.directory / "best.json", {"step": step, "score": score})
        return better


def step_of(path: Path) -> int:
    """Of a checkpoint, or of weights."""
    return int(path.name.removeprefix("step-").partition(".")[0])


def remove_remains(directory: Path) -> None:
    """Delete what killed writers left: partial folders, and folders without a marker."""
    for path in commit.own_paths(directory, rf"\.{NAME}\.partial|{NAME}"):
        if not commit.is_complete(path):
            commit.remove_directory(path)


def _complete(directory: Path) -> list[Path]:
    return commit.complete_directories(directory, NAME)


def best_of(directory: Path) -> dict[str, Any]:
    """Step and score of the best evaluation; empty where there was none."""
    path = directory / "best.json"
    try:
        return commit.read_json(path)
    except (FileNotFoundError, DamagedError):
        return {}


def _refuse_wrappers(tensors: Mapping[str, Tensor]) -> None:
    wrapped = [name for name in tensors if WRAPPERS & set(name.split("."))]
    if wrapped:
        raise ValueError(f"{wrapped[0]} is a name of a wrapper, not of the bare module: no other engine could read it")


def _check_identity(path: Path, found: Mapping[str, Any], identity: Mapping[str, Any]) -> None:
    wanted = json.loads(json.dumps(dict(identity)))
    differing = [key for key in sorted({*found, *wanted}) if found.get(key) != wanted.get(key)]
    if differing:
        lines = [f"{key}: {found.get(key)!r} in the checkpoint, {wanted.get(key)!r} now" for key in differing]
        raise UserError(
            f"{path} belongs to another run, so that going on from it would not be the same training:\n  "
            + "\n  ".join(lines)
            + "\nrestore these settings, or name another run directory to begin anew"
        )
