import io
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import webdataset
from PIL import Image

from largescale.corpus.corpus import Corpus
from largescale.corpus.manifest import Manifest
from largescale.settings import UserError
from shards.images import Encoding
from shards.plan import WORK, Sharding, settle
from shards.sources.folder import Folder
from shards.verify import Unchecked, faults_of
from shards.writer import BuildPart, build
from tests.programs import Program
from tests.shards.photographs import digests, shard, write_photographs

SIDE = 24
NAMES = [
    f"{label}/{number:03d}.{'png' if number % 5 == 0 else 'jpg'}"
    for label in ("oak", "ash", "fir", "elm")
    for number in range(24)
]


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photographs(tmp_path_factory.mktemp("photographs"), NAMES)


@pytest.fixture(scope="module")
def whole(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus that one process built in one go."""
    out = tmp_path_factory.mktemp("whole") / "trees"
    assert build(Folder(photographs), out, Encoding(max_side=SIDE), workers=2)
    return out


def command(source: Path, out: Path, *options: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "shards",
        "build",
        str(source),
        "--layout",
        "folder",
        "--out",
        str(out),
        "--max-side",
        str(SIDE),
        *options,
    ]


def started(arguments: list[str], **environment: str) -> Program:
    """In a session of its own."""
    clean = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "SLURM_STEP_ID")}
    return Program(arguments, clean | environment, apart=True, session=True)


@pytest.mark.slow
def test_corpus_is_what_the_source_holds(whole: Path, photographs: Path) -> None:
    manifest = Manifest.open(Unchecked(whole))
    assert (len(manifest), len(manifest.shards), list(manifest.label_names.to_pylist())) == (96, 8, ["ash", "elm", "fir", "oak"])
    assert manifest.label.tolist() == sorted(manifest.label.tolist())
    assert manifest.keys.to_pylist() == sorted(name[:-4] for name in NAMES)
    assert manifest.made["max_side"] == SIDE
    assert manifest.made["quality"] == 90
    assert "lanczos" in manifest.made["filter"]
    assert (manifest.width.max(), manifest.height.max()) == (24, 18)
    assert not list(faults_of(whole, 1))
    assert sorted(path.name for path in whole.iterdir()) == [
        "images.arrow",
        "labels.arrow",
        "manifest.json",
        *(shard(whole, n).name for n in range(8)),
    ]


def test_webdataset_reads_the_tars(whole: Path, photographs: Path) -> None:
    manifest = Manifest.open(Unchecked(whole))
    urls = [str(whole / shard.name) for shard in manifest.shards]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == manifest.keys.to_pylist()
    for row, sample in enumerate(samples):
        facts = json.loads(sample["json"])
        assert facts["label"] == manifest.label[row]
        assert facts["label_name"] == sample["__key__"].split("/")[0]
        assert (
            Image.open(io.BytesIO(sample["jpg"])).size
            == (facts["width"], facts["height"])
            == (manifest.width[row], manifest.height[row])
        )
        assert (photographs / facts["source"]).is_file()


@pytest.mark.slow
def test_offsets_lead_to_the_images(whole: Path) -> None:
    manifest = Manifest.open(Unchecked(whole))
    for row in range(len(manifest)):
        tar = whole / manifest.shards[manifest.shard[row]].name
        data = tar.read_bytes()[manifest.offset[row] :][: manifest.size[row]]
        with tarfile.open(tar) as members:
            member = members.extractfile(f"{manifest.keys[row]}.jpg")
            assert member is not None
            assert member.read() == data


@pytest.mark.slow
def test_long_and_foreign_names_are_stored(tmp_path: Path) -> None:
    names = ["x" * 90 + "/" + "y" * 150 + ".jpg", "漢字/ü ñ.jpg"]
    build(Folder(write_photographs(tmp_path / "in", names)), tmp_path / "out", workers=1)
    assert not list(faults_of(tmp_path / "out", 1))
    (url,) = (str(path) for path in (tmp_path / "out").glob("*.tar"))
    assert [f"{sample['__key__']}.jpg" for sample in webdataset.WebDataset([url], shardshuffle=False)] == sorted(names)


def tar_begun(out: Path) -> bool:
    return any(out.glob(".*.tar.*.partial"))


def sidecars(count: int) -> Callable[[Path], bool]:
    return lambda out: len(list((out / WORK).glob("[0-9]*.json"))) >= count


MOMENTS = [
    lambda out: out.exists(),
    lambda out: (out / WORK).exists(),
    tar_begun,
    sidecars(1),
    sidecars(5),
    lambda out: (out / "images.arrow").exists(),
    lambda out: (out / "manifest.json").exists(),
]


@pytest.mark.slow
def test_killed_at_any_moment_and_continued_gives_the_same_bytes(photographs: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "trees"
    for moment in MOMENTS:
        process = started(command(photographs, out, "--workers", "2"))
        while not moment(out) and process.poll() is None:
            time.sleep(0.0005)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        await_end_of_session(process.pid)
    finished = {path.name: path.stat().st_mtime_ns for path in out.glob("*.tar")}
    last = started(command(photographs, out))
    _, errors = last.communicate()
    assert last.returncode == 0, errors
    assert digests(out) == digests(whole)
    assert {path.name: path.stat().st_mtime_ns for path in out.glob("*.tar")}.items() >= finished.items()


def await_end_of_session(session: int, timeout_s: float = 10) -> None:
    """Fail if processes of a session outlive its killed leader."""
    deadline = time.monotonic() + timeout_s
    while living := [line for line in process_states() if line[1] == session and line[0] not in "ZX"]:
        assert time.monotonic() < deadline, f"workers outlive their killed parent: {living}"
        time.sleep(0.02)


def process_states() -> list[tuple[str, int]]:
    """State and session of every process."""
    states = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        states.append((fields[0], int(fields[3])))
    return states


@pytest.mark.slow
def test_interrupted_it_says_how_to_go_on(photographs: Path, tmp_path: Path) -> None:
    for attempt in range(10):  # on a busy machine it may be done before it is told to stop
        out = tmp_path / str(attempt)
        process = started(command(photographs, out, "--workers", "1"))
        while not tar_begun(out) and process.poll() is None:
            time.sleep(0.001)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=20)
        if process.returncode != 0:
            break
    assert process.returncode == 130
    assert "the same command goes on" in errors
    assert "Traceback" not in errors
    await_end_of_session(process.pid)


@pytest.mark.slow
def test_parts_of_several_machines_make_the_same_corpus(photographs: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "trees"
    slurm = {"SLURM_STEP_ID": "0", "SLURM_PROCID": "1", "SLURM_NTASKS": "3"}
    arguments = command(photographs, out, "--workers", "1")
    parts = [started([*arguments, "--part", "1/3"]), started(arguments, **slurm), started(arguments, RANK="2", WORLD_SIZE="3")]
    for part in parts:
        _, errors = part.communicate()
        assert part.returncode == 0, errors
    assert digests(out) == digests(whole)


@pytest.mark.slow
def test_a_part_alone_leaves_the_rest_to_others(
    photographs: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "trees"
    source, encoding = Folder(photographs), Encoding(max_side=SIDE)
    assert not build(source, out, encoding, part=BuildPart(1, 3), workers=1)
    assert "5 of 8 shards are still to be written" in capsys.readouterr().out
    assert sorted(path.name for path in out.glob("*.tar")) == [shard(whole, n).name for n in (1, 4, 7)]
    assert build(source, out, encoding, workers=1)
    assert digests(out) == digests(whole)


@pytest.mark.slow
def test_a_lost_or_cut_tar_is_written_again(photographs: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "trees"
    source, encoding = Folder(photographs), Encoding(max_side=SIDE)
    build(source, out, encoding, part=BuildPart(0, 2), workers=1)
    shard(out, 0).unlink()
    os.truncate(shard(out, 2), 5000)
    assert build(source, out, encoding, workers=1)
    assert digests(out) == digests(whole)


def test_a_complete_corpus_is_left_alone_and_guarded(whole: Path, photographs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = digests(whole)
    assert build(Folder(photographs), whole, Encoding(max_side=SIDE))
    assert "complete" in capsys.readouterr().out
    with pytest.raises(UserError, match="max_side was 24, is 25"):
        build(Folder(photographs), whole, Encoding(max_side=25))
    assert digests(whole) == before


@pytest.fixture
def damaged(photographs: Path, tmp_path: Path) -> Path:
    source = tmp_path / "damaged"
    shutil.copytree(photographs, source)
    (source / "fir" / "003.jpg").write_bytes(b"<html>gone</html>")
    os.truncate(source / "oak" / "017.jpg", 700)
    return source


@pytest.mark.slow
def test_undecodable_images_within_the_budget_are_listed(damaged: Path, tmp_path: Path) -> None:
    assert build(Folder(damaged), tmp_path / "out", workers=2, bad_budget=0.03)
    manifest = Manifest.open(Unchecked(tmp_path / "out"))
    assert (len(manifest), manifest.made["undecodable"]) == (94, 2)
    assert {"fir/003", "oak/017"}.isdisjoint(manifest.keys.to_pylist())
    lines = [line.split("\t") for line in (tmp_path / "out" / "undecodable.txt").read_text().splitlines()]
    assert [line[:2] for line in lines] == [["fir/003", "fir/003.jpg"], ["oak/017", "oak/017.jpg"]]
    assert [line[2] for line in lines] == ["no picture of a format that is read: it begins with b'<html>go'", lines[1][2]]
    assert "truncated" in lines[1][2]
    assert not list(faults_of(tmp_path / "out", 1))


@pytest.mark.slow
def test_over_the_budget_the_build_stops_and_goes_on_with_a_larger_one(damaged: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=re.compile("1 of 96 images cannot be decoded, more than the budget of 1.00%.*fir/003", re.DOTALL)
    ):
        build(Folder(damaged), tmp_path / "out", workers=1)
    assert not (tmp_path / "out" / "manifest.json").exists()
    assert build(Folder(damaged), tmp_path / "out", workers=1, bad_budget=0.03)


@pytest.mark.slow
def test_the_budget_covers_all_parts_together(damaged: Path, tmp_path: Path) -> None:
    (damaged / "ash" / "014.jpg").write_bytes(b"")
    for index in range(4):
        part = BuildPart(index, 4)
        if index < 3:
            build(Folder(damaged), tmp_path / "out", part=part, workers=1, bad_budget=0.02)
        else:
            with pytest.raises(UserError, match="3 of 96 images"):
                build(Folder(damaged), tmp_path / "out", part=part, workers=1, bad_budget=0.02)


def test_a_source_that_loses_a_file_while_it_is_read_stops_the_build(photographs: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        build(Vanishing(photographs), tmp_path / "out", workers=1)


class Vanishing(Folder):
    """A folder on a disk that fails in the middle."""

    def read(self, place: str) -> bytes:
        if place == "fir/007.jpg":
            raise OSError(5, "Input/output error")
        return super().read(place)


@pytest.mark.slow
def test_a_worker_that_dies_is_an_error_and_not_a_hang(photographs: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a worker process died"):
        build(Deadly(photographs), tmp_path / "out", workers=2)


class Deadly(Folder):
    """Kills the worker that reads it."""

    def read(self, place: str) -> bytes:
        if multiprocessing.parent_process():
            os.kill(os.getpid(), signal.SIGKILL)
        return super().read(place)


def test_too_little_disk_is_noticed_before_the_start(photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(UserError, match="96 images need about"):
        build(Folder(photographs), tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.tar"))


@pytest.mark.slow
def test_pairs_become_image_ids_and_lose_undecodable_images(damaged: Path, tmp_path: Path) -> None:
    build(Paired(damaged), tmp_path / "out", workers=1, bad_budget=0.1)
    manifest = Manifest.open(Unchecked(tmp_path / "out"))
    assert manifest.pairs is not None
    keys = manifest.keys.to_pylist()
    named = [
        (keys[query], keys[positive]) for query, positive in zip(manifest.pairs["query"], manifest.pairs["positive"], strict=True)
    ]
    images = sorted(name[:-4] for name in NAMES)
    expected = [(images[i], images[-1 - i]) for i in range(96)]
    assert named == [pair for pair in expected if {"fir/003", "oak/017"}.isdisjoint(pair)]
    assert manifest.pairs["inliers"].tolist() == [i for i, pair in enumerate(expected) if {"fir/003", "oak/017"}.isdisjoint(pair)]


class Paired(Folder):
    """Each image with its mirror in the order of items, which is not the order of rows."""

    def items(self):  # type: ignore[no-untyped-def]
        return reversed(list(super().items()))

    def pairs(self) -> dict[str, np.ndarray]:
        return {"query": np.arange(96)[::-1], "positive": np.arange(96), "inliers": np.arange(96)}


HOLD = """
import fcntl, sys
with open(sys.argv[1], "w") as file:
    fcntl.lockf(file, fcntl.LOCK_EX)
    file.write("process 7 on node-a")
    file.flush()
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.slow
def test_a_part_that_another_process_builds_is_left_to_it(photographs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert settle(Folder(photographs), out, Encoding(max_side=SIDE), Sharding()) is not None
    arguments = [sys.executable, "-c", HOLD, str(out / WORK / "part-1-of-1.lock")]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(UserError, match="process 7 on node-a is building this part of"):
            build(Folder(photographs), out, Encoding(max_side=SIDE), workers=1)
        assert not list(out.glob("*.tar"))
        other.communicate()
    assert build(Folder(photographs), out, Encoding(max_side=SIDE), workers=1)
    assert not list(out.glob(".*"))


@pytest.mark.slow
def test_one_name_for_the_field_of_the_images(tmp_path: Path) -> None:
    """Readers like Hugging Face's refuse a tar whose samples have jpg and png, or JPG, by turns."""
    for names, suffix in ((["a/1.jpg", "a/2.png", "b/3.JPG"], "jpg"), (["a/1.png", "b/2.png"], "png")):
        out = tmp_path / f"{suffix} of-1"
        build(Folder(write_photographs(tmp_path / suffix, names)), out, workers=1)
        with tarfile.open(shard(out, 0)) as tar:
            members = {member.name for member in tar}
        assert members == {f"{name[:3]}.{end}" for name in names for end in (suffix, "json")}
        assert not list(faults_of(out, 1))
        assert list(Corpus.open(str(out)).stream(0))
        assert re.fullmatch(rf"{suffix}-of-1-[0-9a-f]{{8}}-00000\.tar", shard(out, 0).name)


@pytest.mark.slow
def test_shards_of_other_corpora_have_other_names(tmp_path: Path) -> None:
    """Caches of other tools go by the names of files alone."""
    names = set()
    for number, (folder, quality) in enumerate((("x", 90), ("x", 80), ("y", 90))):
        photographs = write_photographs(tmp_path / folder, [f"a/{n}.jpg" for n in range(3)], 40 + number, 30)
        build(Folder(photographs), tmp_path / str(number) / "train", Encoding(quality=quality), workers=1)
        names.add(shard(tmp_path / str(number) / "train", 0).name)
    assert len(names) == 3


@pytest.mark.slow
def test_a_pipe_among_the_photographs_is_counted(tmp_path: Path) -> None:
    photographs = write_photographs(tmp_path / "in", ["a/1.jpg", "a/2.jpg"])
    os.mkfifo(photographs / "a/3.jpg")
    os.mkfifo(photographs / "a/4")
    (photographs / "a/5.jpg").symlink_to("/dev/zero")
    build(Folder(photographs), tmp_path / "out", workers=1, bad_budget=1)
    bad = (tmp_path / "out" / "undecodable.txt").read_text()
    assert [line.split("\t")[::2] for line in bad.splitlines()] == [["a/3", "no regular file"], ["a/5", "no regular file"]]
