"""Complete states of a run on disk, written so that a crash at any moment leaves the previous one whole.

A checkpoint is a folder `step-000123/`: tensors in torch.distributed.checkpoint's files under the names of the bare module,
`progress.json` for everything else, and the marker. It does not depend on the number of ranks or on the engine.
"""

import json
import shutil
import warnings
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException

from largescale import commit
from largescale.distributed import World
from largescale.settings import UserError
from largescale.training.config import CheckpointConfig

FORMAT = 1
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
    """
    record = json.loads((path / "progress.json").read_text())
    _check_identity(path, record, identity)
    reader = dcp.FileSystemReader(path)
    entries: Mapping[str, Any] = reader.read_metadata().state_dict_metadata
    tensors = {name: torch.empty(entry.size, dtype=entry.properties.dtype) for name, entry in entries.items()}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*assuming the intent is to load in a single process")
        dcp.load(tensors, storage_reader=reader, no_dist=True)
    return Checkpoint(record["step"], tensors, record["progress"])


class Checkpoints:
    """The checkpoints of a run: written in the background if so configured, the newest and the best kept.

    Every method is called by all ranks together.
    """

    def __init__(self, directory: Path, config: CheckpointConfig, world: World, identity: Mapping[str, Any]) -> None:
        self.directory, self.config, self.world, self.identity = directory, config, world, dict(identity)
        self._group = dist.new_group(backend="gloo")
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
        if not self.world.decide(lambda: self._begin(directory, record)):
            return
        self._pending = self._thread.submit(self._write, directory, dict(tensors))
        if not self.config.asynchronous:
            self.wait()

    def wait(self) -> None:
        """Until the save under way is complete. An error of any rank is raised on every rank."""
        if self._pending is None:
            return
        error = self._pending.exception()
        self._pending = None
        errors = [text for text in self.world.gather(error and _describe(error, self.world.rank)) if text]
        if errors:
            place = f"{self.directory} ({shutil.disk_usage(self.directory).free / 1e9:.1f} GB free)"
            raise RuntimeError(f"no checkpoint could be written to {place}; those before are whole: {errors[0]}") from error

    def mark_best(self, step: int, score: float) -> bool:
        """Keep the checkpoint of `step` when its score is the highest so far; whether it is."""
        return self.world.decide(lambda: self._mark_best(step, score))

    def load(self, path: Path) -> Checkpoint:
        return load(path, self.identity)

    def newest(self) -> Path | None:
        return self.world.decide(lambda: newest(self.directory))

    def _begin(self, directory: Path, record: dict[str, Any]) -> bool:
        if commit.is_complete(directory):
            return False
        remove_remains(self.directory)
        commit.write_json(commit.begin_directory(directory) / "progress.json", record)
        return True

    def _write(self, directory: Path, tensors: dict[str, Tensor]) -> None:
        dcp.save(tensors, storage_writer=dcp.FileSystemWriter(commit.partial(directory)), process_group=self._group)
        if self.world.is_first:
            commit.commit_directory(directory)
            self._remove_old()

    def _remove_old(self) -> None:
        complete = sorted(_complete(self.directory), key=step_of)
        best = best_of(self.directory)
        for path in complete[: -self.config.keep]:
            if step_of(path) != best.get("step"):
                commit.remove_directory(path)

    def _mark_best(self, step: int, score: float) -> bool:
        better = score > best_of(self.directory).get("score", float("-inf"))
        if better:
            commit.write_json(self.directory / "best.json", {"step": step, "score": score})
        return better


def step_of(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def remove_remains(directory: Path) -> None:
    """Delete what killed writers left: partial folders, and folders without a marker."""
    for path in [*directory.glob(".step-*"), *directory.glob("step-*")]:
        if not commit.is_complete(path):
            commit.remove_directory(path)


def _describe(error: BaseException, rank: int) -> str:
    """One line: torch.distributed.checkpoint wraps the errors of all ranks with their stacks."""
    failures = error.failures if isinstance(error, CheckpointException) else {rank: (error, None)}
    return "; ".join(f"rank {where}: {type(cause).__name__}: {cause}" for where, (cause, _) in failures.items())


def _complete(directory: Path) -> list[Path]:
    return commit.complete_directories(directory, "step-")


def best_of(directory: Path) -> dict[str, Any]:
    """Step and score of the best evaluation; empty where there was none."""
    path = directory / "best.json"
    return json.loads(path.read_text()) if path.exists() else {}


def _refuse_wrappers(tensors: Mapping[str, Tensor]) -> None:
    wrapped = [name for name in tensors if WRAPPERS & set(name.split("."))]
    if wrapped:
        raise ValueError(f"{wrapped[0]} is a name of a wrapper, not of the bare module: no other engine could read it")


def _check_identity(path: Path, record: Mapping[str, Any], identity: Mapping[str, Any]) -> None:
    if record["format"] != FORMAT:
        raise UserError(f"{path} has format {record['format']}, this version reads {FORMAT}; go on with the one that wrote it")
    found, wanted = record["identity"], json.loads(json.dumps(dict(identity)))
    differing = [key for key in sorted({*found, *wanted}) if found.get(key) != wanted.get(key)]
    if differing:
        lines = [f"{key}: {found.get(key)!r} in the checkpoint, {wanted.get(key)!r} now" for key in differing]
        raise UserError(
            f"{path} belongs to another run, so that going on from it would not be the same training:\n  "
            + "\n  ".join(lines)
            + "\nrestore these settings, or name another run directory to begin anew"
        )
