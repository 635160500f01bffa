"""What is written is believed only as it was written, and folders of others are left alone."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from largescale.commit import DamagedError, claim_folder, read_array, read_json, write_array, write_json, write_text
from largescale.settings import UserError

VALUE = {"step": 3, "score": 0.1 + 0.2, "name": "Zürich", "nested": {"7": [1, None, float("inf")]}, "pair": [1, 2]}


def flips(path: Path) -> list[bytes]:
    """The content with each byte in turn changed in one bit."""
    data = path.read_bytes()
    return [data[:i] + bytes([data[i] ^ (1 << i % 8)]) + data[i + 1 :] for i in range(len(data))]


@pytest.mark.slow
def test_every_flipped_byte_of_a_document_is_found_or_harmless(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, VALUE)
    assert read_json(path) == VALUE
    harmless = 0
    for changed in flips(path):
        path.write_bytes(changed)
        try:
            assert read_json(path) == VALUE  # space between entries
            harmless += 1
        except DamagedError:
            pass
    assert harmless < 40


@pytest.mark.slow
@pytest.mark.parametrize("mapped", [False, True])
def test_every_flipped_byte_of_an_array_is_found(tmp_path: Path, mapped: bool) -> None:
    path, array = tmp_path / "a.npy", np.arange(12, dtype=np.float32).reshape(3, 4)
    write_array(path, array)
    assert np.array_equal(read_array(path, mapped), array)
    assert np.array_equal(np.load(path), array)  # other readers do not see the checksum
    for changed in flips(path):
        path.write_bytes(changed)
        with pytest.raises(DamagedError, match="checksum"):
            read_array(path, mapped)


def test_cut_and_strange_files_are_a_sentence(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", VALUE)
    write_array(tmp_path / "a.npy", np.zeros(3))
    for name, read in (("a.json", read_json), ("a.npy", read_array)):
        path = tmp_path / name
        whole = path.read_bytes()
        for damaged in (b"", whole[: len(whole) // 2], whole[:-2], whole + b"x", b"[1]", b"[" * 100_000, b"\xff\xfe{}"):
            path.write_bytes(damaged)
            with pytest.raises(DamagedError, match=str(path)):
                read(path)
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "none.json")


def test_files_have_the_rights_of_the_users_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "a", "x")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    for name in ("new", "empty"):
        if name == "empty":
            (tmp_path / name).mkdir()
        claim_folder(tmp_path / name, "run", "name=")
        write_text(tmp_path / name / "log.jsonl", "")
        claim_folder(tmp_path / name, "run", "name=")  # the run goes on
    with pytest.raises(UserError, match=r"the folder of another kind \(run\).* with out="):
        claim_folder(tmp_path / "new", "evaluation", "out=")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").write_text("three years of work")
    for strange in (tmp_path / "thesis", tmp_path / "thesis" / "thesis.tex"):
        with pytest.raises(UserError, match="nothing was touched"):
            claim_folder(strange, "run", "name=")
    assert [path.name for path in (tmp_path / "thesis").iterdir()] == ["thesis.tex"]


def test_documents_are_json_for_everybody(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", VALUE)
    assert json.loads((tmp_path / "a.json").read_text())["name"] == "Zürich"
