"""A run in object storage: a machine whose disk is empty goes on from there as if it were the first."""

import io
import shutil
import tarfile
from pathlib import Path

import fsspec
import numpy as np
import pytest

from largescale.commit import committed_directory, complete_directories, write_array, write_json, write_text
from largescale.settings import UserError
from largescale.training.checkpoints.mirror import RunMirror
from largescale.training.settings.config import CheckpointConfig
from tests.mining.service.test_exchange import url as url


def checkpoint(run: Path, step: int) -> None:
    """What training leaves at a step, with the negatives that it follows from."""
    for folder in (run / f"negatives/gen-{step:06d}-{step:06d}", run / f"checkpoints/step-{step:06d}"):
        with committed_directory(folder) as partial:
            write_array(partial / "part-00000.npy", np.arange(step))
    write_text(run / f"weights/step-{step:06d}.safetensors", f"weights of {step}")
    write_json(run / f"negatives/taken-{step:06d}.json", {"epoch": step})
    write_json(run / "checkpoints/best.json", {"step": step, "score": 0.5})
    write_text(run / "log.jsonl", "line\n" * step)


def files(run: Path) -> dict[str, bytes]:
    return {str(path.relative_to(run)): path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file()}


@pytest.mark.slow
def test_an_empty_disk_gets_what_the_run_had(url: str, tmp_path: Path) -> None:
    """By way of S3."""
    run, other = tmp_path / "run", tmp_path / "other"
    mirror = RunMirror(url, run)
    assert not RunMirror(url, other).restore()
    for step in (3, 5, 8):
        checkpoint(run, step)
        mirror.sync()
    shutil.rmtree(run / "checkpoints/step-000003")
    (run / "weights/step-000003.safetensors").unlink()
    checkpoint(run, 9)
    mirror.sync()
    write_text(run / "weights/step-000009.whitening.safetensors", "fitted when the checkpoint was on its way")
    mirror.sync()
    assert RunMirror(url, other).restore()
    assert files(other) == files(run)
    assert [path.name for path in complete_directories(other / "checkpoints", r"step-\d+")] == [
        f"step-{n:06d}" for n in (5, 8, 9)
    ]


@pytest.mark.slow
def test_a_record_is_as_long_as_its_checkpoints_say(tmp_path: Path) -> None:
    """Lines after the last checkpoint are not sent before the next one: going on cuts them off anyway."""
    mirror, run = RunMirror("memory://record", tmp_path / "run"), tmp_path / "run"
    checkpoint(run, 4)
    mirror.sync()
    write_text(run / "log.jsonl", "line\n" * 40)
    mirror.sync()
    assert RunMirror("memory://record", tmp_path / "other").restore()
    assert (tmp_path / "other/log.jsonl").read_text() == "line\n" * 4


def test_a_run_begun_anew_clears_its_mirror_and_nothing_else(tmp_path: Path) -> None:
    mirror, run = RunMirror("memory://begun", tmp_path / "run"), tmp_path / "run"
    checkpoint(run, 4)
    mirror.sync()
    mirror.clear()
    assert not RunMirror("memory://begun", tmp_path / "other").restore()
    fsspec.filesystem("memory").pipe_file("/strange/data.txt", b"not ours")
    with pytest.raises(UserError, match="was not made by a run"):
        RunMirror("memory://strange", run).clear()


@pytest.mark.parametrize("kind", ["link", "device", "climbs", "strange", "sparse", "cut"])
def test_a_tar_of_a_stranger_is_refused_and_nothing_of_it_is_there(tmp_path: Path, kind: str) -> None:
    member = tarfile.TarInfo({"climbs": "../../x", "strange": ".bashrc"}.get(kind, "part-00000.safetensors"))
    member.type = {"link": tarfile.SYMTYPE, "device": tarfile.CHRTYPE}.get(kind, tarfile.REGTYPE)
    member.linkname, member.size = "/etc/passwd", 0
    if kind == "sparse":
        member.pax_headers = {"GNU.sparse.size": "99999999", "GNU.sparse.map": "0,0"}
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(member)
    data = packed.getvalue()[: 300 if kind == "cut" else None]
    fsspec.filesystem("memory").pipe_file(f"/{kind}/checkpoints/step-000004.tar", data)
    with pytest.raises(UserError, match=r"step-000004.tar is not what a run has put there .*remove it there"):
        RunMirror(f"memory://{kind}", tmp_path / "run").restore()
    assert [path for path in tmp_path.rglob("*") if not path.is_dir()] == []


def test_a_mirror_is_a_url() -> None:
    with pytest.raises(ValueError, match="is no URL"):
        CheckpointConfig(mirror="/scratch/run")
