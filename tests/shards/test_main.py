import json
import os
import sys
import tarfile
from argparse import ArgumentTypeError
from pathlib import Path

import pytest

from largescale.corpus.manifest import Manifest
from shards.__main__ import _layout, main, parse_part, part_of
from shards.layouts import LAYOUTS
from shards.sources.layout import Request
from shards.verify import Unchecked
from shards.writer import BuildPart
from tests import programs
from tests.shards.photographs import shard, write_photographs
from tests.shards.trees import cub, sop


def test_part_is_said_or_taken_from_torchrun_or_slurm() -> None:
    assert parse_part("3/32") == BuildPart(2, 32)
    assert part_of({}) == BuildPart(0, 1)
    assert part_of({"RANK": "3", "WORLD_SIZE": "8"}) == BuildPart(3, 8)
    assert part_of({"SLURM_STEP_ID": "0", "SLURM_PROCID": "5", "SLURM_NTASKS": "6"}) == BuildPart(5, 6)
    assert part_of({"SLURM_PROCID": "0", "SLURM_NTASKS": "6"}) == BuildPart(0, 1), "a batch script runs once, not once per task"


@pytest.mark.parametrize("text", ["0/4", "5/4", "3", "a/b", "1/0", "-1/4"])
def test_parts_that_do_not_exist(text: str) -> None:
    with pytest.raises(ArgumentTypeError, match="expected NUMBER/COUNT"):
        parse_part(text)


def test_help_names_every_layout_and_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["build", "--help"])
    text = capsys.readouterr().out
    assert all(f"\n  {layout} " in text for layout in LAYOUTS)
    assert all(option in text for option in ("--max-side", "--part", "--bad-budget", "--ground-truth", "--label-field"))


@pytest.mark.slow
def test_command_builds_and_verifies(tmp_path: Path) -> None:
    write_photographs(tmp_path / "in", ["a/1.jpg", "a/2.jpg", "b/1.jpg"])
    command = [sys.executable, "-m", "shards"]
    built = programs.run([*command, "build", tmp_path / "in", "--layout", "folder", "--out", tmp_path / "out"])
    assert built.returncode == 0, built.stderr
    assert "3 images of 2 labels in 1 shards, 0 undecodable" in built.stdout
    assert main(["verify", str(tmp_path / "out")]) == 0
    os.truncate(shard(tmp_path / "out", 0), 100)
    assert main(["verify", str(tmp_path / "out")]) == 1


def failed(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    assert main([str(argument) for argument in arguments]) == 2
    text = capsys.readouterr().err
    assert text.startswith("error: ")
    return text


@pytest.mark.slow
def test_wrong_sources_are_errors_without_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = tmp_path / "in", ("--out", tmp_path / "out")
    assert "there is no folder" in failed(capsys, "build", source, "--layout", "folder", *out)
    source.mkdir()
    for layout in ("folder", "distractors", "holidays"):
        assert "holds no image" in failed(capsys, "build", source, "--layout", layout, *out)
    assert "there is no .tar below" in failed(capsys, "build", source, "--layout", "img2dataset", *out)
    assert "found none; give --ground-truth" in failed(capsys, "build", source, "--layout", "oxford", *out)
    assert "expected one .pkl" in failed(capsys, "build", source, "--layout", "sfm", *out)
    assert "expected one folder of CIFAR" in failed(capsys, "build", source, "--layout", "cifar", *out)
    assert "recognized none of those" in failed(capsys, "build", source, *out)
    assert "there is no layout 'foldr'" in failed(capsys, "build", source, "--layout", "foldr", *out)
    assert "there is no list" in failed(capsys, "build", source / "no.csv", "--layout", "list", *out)
    assert not (tmp_path / "out").exists()


def test_missing_images_of_a_list_are_written_down(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_photographs(tmp_path, ["ok.jpg"])
    names = [f"{number}.jpg" for number in range(20)]
    (tmp_path / "list.csv").write_text("\n".join(["ok.jpg", *names]))
    text = failed(capsys, "build", tmp_path / "list.csv", "--layout", "list", "--out", tmp_path / "out")
    assert "20 of the 21 images" in text
    assert text.count(".jpg") == 10
    assert (tmp_path / "out" / "missing.txt").read_text().split() == names


@pytest.mark.slow
def test_labels_that_were_expected_and_are_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_photographs(tmp_path / "in", ["1.jpg", "2.jpg"])
    (tmp_path / "list.csv").write_text("path,label\nin/1.jpg,\nin/2.jpg,\n")
    text = failed(capsys, "build", tmp_path / "list.csv", "--layout", "list", "--out", tmp_path / "out")
    assert "expects labels and found none for 2 images" in text
    assert not (tmp_path / "out").exists()
    assert main(["build", str(tmp_path / "in"), "--layout", "folder", "--out", str(tmp_path / "flat")]) == 0


def test_a_url_is_no_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_photographs(tmp_path / "in", ["a/1.jpg"])
    assert "corpora are built on a disk" in failed(capsys, "build", tmp_path / "in", "--out", "s3://bucket/corpus")
    assert not Path("s3:").exists()
    assert "corpora are built on a disk" in failed(capsys, "build", tmp_path / "in", "--out", "gs:/bucket/corpus")
    for url in ("https://host/photos", "s3://bucket/photos", "gs://bucket/photos", "hf://datasets/some/photos"):
        for option in (["--root"], ["--ground-truth"], []):
            with pytest.raises(SystemExit):
                main(["build", *([str(tmp_path / "in")] if option else []), *option, url, "--out", str(tmp_path / "out")])
            assert "sources are read from a disk or a mounted bucket" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_list_beside_images_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_photographs(tmp_path, ["1.jpg", "2.jpg"])
    (tmp_path / "sizes.csv").write_text("side,count\n40,2\n")
    (tmp_path / "train.csv").write_text("file_name,label\n1.jpg,oak\n2.jpg,ash\n")
    assert _layout(Request(tmp_path), None).name == "distractors"
    said = capsys.readouterr().out
    assert f"train.csv looks like a list of images, and is not read; SOURCE={tmp_path / 'train.csv'} takes" in said
    assert "sizes.csv" not in said
    assert _layout(Request(tmp_path / "train.csv"), None).name == "list"


@pytest.mark.slow
def test_a_data_set_is_recognized_and_makes_its_corpora(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cub(tmp_path / "in")
    assert main(["build", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--max-side", "20", "--workers", "1"]) == 0
    said = capsys.readouterr().out
    assert "recognized layout cub by images.txt, image_class_labels.txt, classes.txt, images" in said
    assert "under layout folder it would be 12 images, 4 labels" in said
    assert "train: 6 images, 2 labels" in said
    for name in ("train", "test"):
        assert main(["verify", str(tmp_path / "out" / name)]) == 0
        manifest = Manifest.open(Unchecked(tmp_path / "out" / name))
        assert len(manifest) == 6
        assert manifest.boxes is not None
        assert manifest.boxes.tolist() == [[5, 2.5, 15, 10]] * 6, "half of the size is stored"
    assert (
        main(["build", str(tmp_path / "in" / "CUB_200_2011/images"), "--layout", "folder", "--out", str(tmp_path / "all")]) == 0
    )
    assert "left out" not in capsys.readouterr().out


@pytest.mark.slow
def test_a_wrong_layout_is_told_what_the_source_looks_like(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sop(tmp_path / "in")
    arguments = [str(tmp_path / "in"), "--layout", "folder", "--out", str(tmp_path / "out"), "--workers", "1"]
    assert main(["build", *arguments]) == 0
    said = capsys.readouterr().out
    assert "looks like layout sop (by Ebay_train.txt, Ebay_test.txt), which makes: train, test; labels CATEGORY/PRODUCT" in said
    assert "left out: 4 no image (.txt)" in said


@pytest.mark.slow
def test_classes_are_divided_by_one_command(tmp_path: Path) -> None:
    write_photographs(tmp_path / "in", [f"{label}/{n}.jpg" for label in "abcd" for n in (1, 2)])
    command = ["build", str(tmp_path / "in"), "--layout", "folder", "--out", str(tmp_path / "out"), "--workers", "1"]
    assert main([*command, "--split-classes", "0.5"]) == 0
    train, test = (Manifest.open(Unchecked(tmp_path / "out" / side)).label_names.to_pylist() for side in ("train", "test"))
    assert (len(train), len(test), sorted(train + test)) == (2, 2, list("abcd"))


def test_output_inside_of_the_source_and_wrong_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_photographs(tmp_path, ["a/1.jpg"])
    assert "lies in" in failed(capsys, "build", tmp_path, "--layout", "folder", "--out", tmp_path / "out")
    out = ("--out", tmp_path.parent / "elsewhere")
    assert "max_side" in failed(capsys, "build", tmp_path, "--layout", "folder", *out, "--max-side", "-3")
    assert "quality" in failed(capsys, "build", tmp_path, "--layout", "folder", *out, "--quality", "101")
    assert "shard_images" in failed(capsys, "build", tmp_path, "--layout", "folder", *out, "--shard-images", "0")


def corpus(out: Path, source: Path, layout: str, *options: str) -> Manifest:
    assert main(["build", str(source), "--layout", layout, "--out", str(out), *options]) == 0
    assert main(["verify", str(out)]) == 0
    return Manifest.open(Unchecked(out))


@pytest.fixture(scope="session")
def unpacked(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some of the real photographs."""
    folder = tmp_path_factory.mktemp("real")
    for name, every in (("grocery192", 5), ("imagenet1k_distract256", 4), ("cifar100_subset", 20)):
        with tarfile.open(shared_data / f"{name}.tar") as tar:
            members = [member for member in tar if member.isfile()]
            photographs = [member for member in members if member.name.endswith((".jpg", ".png"))][::every]
            tar.extractall(folder, photographs + [member for member in members if member.name.endswith(".txt")], filter="data")
    return folder


def test_real_list_of_groceries(unpacked: Path, tmp_path: Path) -> None:
    root = unpacked / "grocery192"
    lines = [line for line in (root / "test.txt").read_text().splitlines() if (root / line.split(",")[0]).is_file()]
    (root / "some.txt").write_text("\n".join(lines))
    manifest = corpus(tmp_path / "out", root / "some.txt", "list", "--max-side", "128")
    assert len(manifest) == len(lines) > 400
    expected = {line.split(",")[0][:-4]: line.split(",")[1].strip() for line in lines}
    names = manifest.label_names.to_pylist()
    assert names == sorted(names, key=int)
    assert {key: names[label] for key, label in zip(manifest.keys.to_pylist(), manifest.label, strict=True)} == expected
    assert max(manifest.width.max(), manifest.height.max()) == 128


def test_real_distractors_keep_their_bytes(unpacked: Path, tmp_path: Path) -> None:
    source = unpacked / "imagenet1k_distract256"
    manifest = corpus(tmp_path / "out", source, "distractors", "--max-side", "0")
    assert (len(manifest), set(manifest.label), len(manifest.label_names)) == (250, {-1}, 0)
    assert manifest.size.tolist() == [next(source.glob(f"{key}.*")).stat().st_size for key in manifest.keys.to_pylist()]


def test_real_cifar_folders(unpacked: Path, tmp_path: Path) -> None:
    manifest = corpus(tmp_path / "out", unpacked / "cifar100", "cifar", "--split", "test")
    assert (len(manifest.label_names), set(manifest.width)) == (100, {32})
    with tarfile.open(shard(tmp_path / "out", 0)) as tar:
        names = tar.getnames()
        facts = json.loads(tar.extractfile(names[1]).read())  # type: ignore[union-attr]
    assert names[0].endswith(".png")
    assert facts["label_name"] == facts["source"].split("/")[0]
