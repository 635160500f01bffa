"""A slice of what `make torture` does: every kind of file, every stage."""

import os
from pathlib import Path

import pytest

from largescale.corpus.corpus import Corpus
from tests.corpora import make_corpus
from tests.corpus.servers import serve
from tests.evaluation.small import alone
from tests.torture import disk, flips, kills, proxy, stages


@pytest.mark.slow
def test_no_flipped_byte_alters_what_is_read_without_a_word(tmp_path: Path) -> None:
    with alone() as world:
        found = flips.flips(flips.build_kinds(tmp_path, world), 6)
    assert len(found) >= 16
    assert {name: dict(of) for name, of in found.items() if of["altered"] or of["traceback"]} == {}
    assert sum(of["refused"] + of["repaired"] for of in found.values()) > 60


@pytest.mark.slow
def test_a_server_behind_a_bad_line_gives_the_right_bytes_or_an_error(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "corpus", labels=4, per_label=3, shards=3, size=32)
    right = Corpus.open(str(corpus)).read(range(12))
    with serve(corpus) as server, proxy.before("127.0.0.1", server.server_address[1]) as line:
        found = proxy.read_through(f"http://127.0.0.1:{line.port}", right, tmp_path / "cache", 8)
    assert not found["altered"] + found["traceback"]
    assert found["right"]
    assert all(line.counts[fault] for fault in ("cut", "repeated", "falsified"))


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_small_disks_and_closed_folders_are_sentences_and_nothing_is_lost(tmp_path: Path) -> None:
    made = stages.stages(tmp_path / "inputs")
    with disk.cache(tmp_path / "cached") as cached:
        for name, stage in (("cache", cached), ("index", made["index"]), ("mining service", made["mining service"])):
            counts = disk.fill(name, stage, tmp_path / name, 1 if name == "mining service" else 2)
            assert counts["closed"] == 1


@pytest.mark.slow
def test_killed_work_ends_as_undisturbed_work(tmp_path: Path) -> None:
    made = stages.stages(tmp_path / "inputs")
    for name in ("training", "mining"):
        assert kills.torture(name, made[name], tmp_path / name, 3)["ends compared"] >= 1
