"""Checkpoints: whole or not there, the same for every world, and refused by the wrong run."""

import os
import pickle
import random
import resource
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from largescale.commit import write_json
from largescale.distributed import World
from largescale.settings import UserError
from largescale.training.checkpoints.checkpoint import Checkpoints, fault_of, load, newest
from largescale.training.settings.config import CheckpointConfig
from tests.training.small import small_engine, train
from tests.world import run_world, start_world

Outcome = tuple[list[float], dict[str, np.ndarray]]
IDENTITY = {"corpus": "f00d", "model.backbone": "small", "optim.betas": (0.9, 0.999)}


def _tensors(value: float) -> dict[str, Tensor]:
    return {f"model.{index}": torch.full((300, 300), value) for index in range(6)} | {"updates": torch.tensor(int(value))}


def _checkpoints(directory: Path, world: World, **settings: object) -> Checkpoints:
    return Checkpoints(directory, CheckpointConfig(**settings), world, IDENTITY)


def _save_forever(world: World, directory: Path) -> None:
    checkpoints = _checkpoints(directory, world)
    last = checkpoints.newest()
    step = 0 if last is None else checkpoints.load(last).step
    while True:
        step += 1
        checkpoints.save(step, _tensors(step), {"epoch": step})


def _assert_whole(path: Path) -> int:
    checkpoint = load(path, IDENTITY)
    assert checkpoint.progress == {"epoch": checkpoint.step}
    for name, tensor in _tensors(checkpoint.step).items():
        assert torch.equal(checkpoint.tensors[name], tensor)
    return checkpoint.step


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("size", [1, 2])
def test_killed_at_any_moment(tmp_path: Path, size: int) -> None:
    """Each life goes on where the one before was killed; no moment leaves a torn newest or loses one that was there."""
    moments, reached = random.Random(size), 0
    for _ in range(10 // size):
        members, _ = start_world(size, _save_forever, tmp_path)
        while newest(tmp_path) is None or int(newest(tmp_path).name[5:]) <= reached + 1:
            time.sleep(0.002)
        time.sleep(moments.uniform(0, 0.1))
        for member in members:
            os.kill(member.pid, signal.SIGKILL)
            member.join()
        step = _assert_whole(newest(tmp_path))
        assert step > reached
        reached = step


@pytest.mark.slow
@pytest.mark.distributed
def test_remains_of_killed_writers_are_removed(tmp_path: Path) -> None:
    run_world(1, _save, tmp_path, 1)
    (tmp_path / ".step-000007.partial").mkdir()
    (tmp_path / "step-000007").mkdir()
    (tmp_path / "step-000007" / "part-00000.safetensors").write_bytes(b"half")
    assert newest(tmp_path).name == "step-000001"
    shutil.copytree(tmp_path / "step-000001", tmp_path / "step-000001 good")  # as people keep them
    (tmp_path / "step-notes").mkdir()
    run_world(1, _save, tmp_path, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000001", "step-000001 good", "step-000002", "step-notes"]


def _save(world: World, directory: Path, *steps: int) -> None:
    checkpoints = _checkpoints(directory, world)
    for step in steps:
        checkpoints.save(step, _tensors(step), {"epoch": step})
    checkpoints.wait()


def _keep(world: World, directory: Path) -> list[str]:
    checkpoints = _checkpoints(directory, world)
    for step, score in [(999_998, 0.5), (999_999, 0.9), (1_000_000, 0.7), (1_000_001, 0.6)]:
        checkpoints.save(step, _tensors(1), {})
        checkpoints.mark_best(step, score)
    checkpoints.wait()
    return sorted(path.name for path in directory.iterdir())


@pytest.mark.slow
@pytest.mark.distributed
def test_newest_and_best_stay(tmp_path: Path) -> None:
    names = ["best.json", "step-1000000", "step-1000001", "step-999999"]
    assert run_world(2, _keep, tmp_path) == [names, names]
    assert newest(tmp_path).name == "step-1000001"


def _train(world: World, directory: Path, steps: range) -> Outcome:
    """Go on from the newest checkpoint, if there is one, and leave one after the last step."""
    engine, checkpoints = small_engine(world), _checkpoints(directory, world)
    path = checkpoints.newest()
    if path is not None:
        checkpoint = checkpoints.load(path)
        assert checkpoint.step == steps.start
        engine.load(checkpoint.tensors)
        assert all(torch.equal(tensor, checkpoint.tensors[name]) for name, tensor in engine.state().items())
    numbers = train(engine, steps)
    checkpoints.save(steps.stop, engine.state(), {"epoch": 0})
    checkpoints.wait()
    return numbers, {name: tensor.numpy() for name, tensor in engine.state().items()}


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("sizes", [(1, 1), (2, 2), (2, 1), (1, 2), (4, 2)])
def test_resumed_equals_uninterrupted(tmp_path: Path, sizes: tuple[int, int]) -> None:
    before, after = sizes
    expected, state = run_world(after, _train, tmp_path / "whole", range(4))[0]
    first, _ = run_world(before, _train, tmp_path / "parts", range(2))[0]
    rest, found = run_world(after, _train, tmp_path / "parts", range(2, 4))[0]
    tolerance = {"rtol": 0, "atol": 0} if before == after else {"rtol": 2e-5, "atol": 2e-6}
    np.testing.assert_allclose(first + rest, expected, **tolerance)
    for name, value in state.items():
        np.testing.assert_allclose(found[name], value, **tolerance)


def _go_on(world: World, directory: Path) -> None:
    engine, checkpoints = small_engine(world), _checkpoints(directory, world)
    train(engine, range(2))
    saved = engine.state()
    before = {name: tensor.clone() for name, tensor in saved.items()}
    checkpoints.save(2, saved, {})
    train(engine, range(2, 5))
    checkpoints.wait()
    found = checkpoints.load(checkpoints.newest()).tensors
    assert all(torch.equal(found[name], value) for name, value in before.items())


@pytest.mark.slow
@pytest.mark.distributed
def test_training_goes_on_while_a_checkpoint_is_written(tmp_path: Path) -> None:
    run_world(2, _go_on, tmp_path)


def _refuse(world: World, directory: Path) -> None:
    checkpoints = Checkpoints(directory, CheckpointConfig(), world, IDENTITY | {"corpus": "beef"})
    with pytest.raises(UserError, match=r"(?s)belongs to another run.*corpus: 'f00d' in the checkpoint, 'beef' now"):
        checkpoints.load(checkpoints.newest())
    for wrapped in ("model.module.net.weight", "model._orig_mod.net.weight"):
        with pytest.raises(ValueError, match="wrapper"):
            checkpoints.save(3, {wrapped: torch.zeros(1)}, {})


@pytest.mark.slow
@pytest.mark.distributed
def test_wrong_run_and_wrapped_names_are_refused(tmp_path: Path) -> None:
    run_world(1, _save, tmp_path, 1)
    run_world(1, _refuse, tmp_path)


def _run_out_of_space(world: World, directory: Path) -> str:
    """The last rank may not write more than a few bytes into a file; the error must reach all ranks."""
    checkpoints = _checkpoints(directory, world)
    checkpoints.save(1, _tensors(1), {"epoch": 1})
    checkpoints.wait()
    if world.rank == world.size - 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    checkpoints.save(2, _tensors(2), {"epoch": 2})
    with pytest.raises(UserError, match=r"could be written.*make room") as error:
        checkpoints.wait()
    return str(error.value)


@pytest.mark.slow
@pytest.mark.distributed
def test_background_errors_are_raised_everywhere(tmp_path: Path) -> None:
    for error in run_world(2, _run_out_of_space, tmp_path):
        assert "rank 1" in error
    assert _assert_whole(newest(tmp_path)) == 1


def test_asynchronous_needs_two() -> None:
    with pytest.raises(ValueError, match="keep=2"):
        CheckpointConfig(keep=1)
    assert CheckpointConfig(keep=1, asynchronous=False).keep == 1


def _newest(world: World, directory: Path) -> str:
    checkpoints = _checkpoints(directory, world)
    return str(checkpoints.newest())


@pytest.mark.slow
@pytest.mark.distributed
def test_the_older_whole_state_answers_for_a_damaged_one(tmp_path: Path) -> None:
    """Each file of the newest flipped at many places, cut and removed in turn; nothing of it is ever believed."""
    run_world(2, _save, tmp_path, 1, 2)
    kinds: dict[str, int] = {}
    for file in sorted(path for path in (tmp_path / "step-000002").iterdir() if path.name != "COMPLETE"):
        whole = file.read_bytes()
        places = [*range(0, 1500, 53), *range(1500, len(whole), 150_001)]
        damaged = [whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :] for at in places if at < len(whole)]
        for content in [*damaged, whole[: len(whole) // 2], b""]:
            file.write_bytes(content)
            found = fault_of(file.parent)
            if found is None:
                assert _assert_whole(file.parent) == 2  # a space between two entries
            else:
                assert str(file) in found
            kinds[file.name] = kinds.get(file.name, 0) + (found is not None)
        file.write_bytes(whole)
    assert kinds.keys() == {"part-00000.safetensors", "part-00001.safetensors", "progress.json"}
    assert min(kinds.values()) > 3
    (tmp_path / "step-000002" / "progress.json").unlink()
    assert run_world(1, _newest, tmp_path) == [str(tmp_path / "step-000001")]
    os.truncate(tmp_path / "step-000001" / "part-00000.safetensors", 100)
    with pytest.raises(AssertionError, match=r"no checkpoint in .* is whole"):
        run_world(1, _newest, tmp_path)


def test_a_checkpoint_of_a_stranger_runs_no_code(tmp_path: Path) -> None:
    """Whatever its files are: the formats hold no code, and names of parts lead nowhere."""
    folder, code = tmp_path / "step-000002", tmp_path / "code-was-run"
    folder.mkdir()
    payload = pickle.dumps(_Payload(code))
    for name in (".metadata", "part-00000.safetensors", "__0_0.distcp"):
        (folder / name).write_bytes(payload)
    record = {"format": 2, "step": 2, "identity": dict(IDENTITY), "progress": {}}
    for parts in ({"part-00000.safetensors": "0" * 16}, {"../x": ""}, {"/etc/passwd": ""}, 7, {}):
        write_json(folder / "progress.json", {**record, "parts": parts})
        (folder / "COMPLETE").touch()
        if parts == {}:
            assert load(folder, IDENTITY).tensors == {}
        else:
            with pytest.raises(UserError):
                load(folder, IDENTITY)
    assert not code.exists()


class _Payload:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> object:
        return exec, (f"import pathlib; pathlib.Path({str(self.path)!r}).touch()",)
