"""The service in real worlds, on run directories as training leaves them; kills are real, so are the disks that are full."""

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from largescale.commit import write_text
from largescale.distributed import World
from largescale.mining import Generation, service
from largescale.settings import UserError
from tests.corpora import make_corpus
from tests.mining.served import (
    EPOCHS,
    STEPS,
    add_weights,
    generations,
    make_run,
    mine_inline,
    mined,
    serve,
    serve_and_die,
)
from tests.world import kill_in_world, run_world, start_world


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("service") / "corpus", 8, 4, shards=4, size=64, mixed=True)


@pytest.fixture(scope="module")
def inline(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Generation:
    """Of epoch 1, mined by one process inside of training."""
    [found] = run_world(1, mine_inline, tmp_path_factory.mktemp("inline"), corpus, 1, STEPS)
    return found


def assert_same(found: Generation, expected: Generation) -> None:
    assert found.negatives.tobytes() == expected.negatives.tobytes()
    assert found.similarities.tobytes() == expected.similarities.tobytes()
    assert (found.epoch, found.step) == (expected.epoch, expected.step)


def record(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "mining" / "log.jsonl").read_text().splitlines()]


def wait_until(condition: Any, timeout_s: float = 300) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.distributed
def test_finds_what_the_inline_miner_finds_and_keeps_its_own_record(corpus: Path, tmp_path: Path, inline: Generation) -> None:
    run = make_run(tmp_path / "run", corpus, 0, STEPS)
    assert run_world(2, serve, run, (0, 0), (1, STEPS)) == ["asked to stop; the same command goes on"] * 2
    assert_same(mined(run, corpus, 1, STEPS), inline)
    lines = record(run)
    assert sorted((line["mining/epoch"], line["step"]) for line in lines) == [(0, 0), (1, STEPS)]
    assert all(line["mining/pool"] == 32 and line["mining/refresh_seconds"] > line["mining/seconds"] > 0 for line in lines)
    # another life of the service goes on behind the last whole line
    with (run / "mining" / "log.jsonl").open("a") as file:
        file.write('{"step": 99, "cut')
    add_weights(run, corpus, 2 * STEPS)
    run_world(1, serve, run, (2, 2 * STEPS))
    assert [line["step"] for line in record(run)] == [*[line["step"] for line in lines], 2 * STEPS]
    add_weights(run, corpus, EPOCHS * STEPS)
    assert run_world(1, serve, run) == ["the run is finished"]


@pytest.mark.slow
@pytest.mark.distributed
def test_mines_ahead_for_those_who_never_wait(corpus: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", corpus, 0, 2, wait="never")
    run_world(1, serve, run, (1, 2))
    assert [path.name for path in (run / "negatives").iterdir()] == ["gen-000001-000002"]  # the newest weights only


@pytest.mark.slow
@pytest.mark.distributed
def test_weights_that_are_not_whole_are_left_out_until_they_are(corpus: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", corpus, 0, STEPS)
    path = run / "weights" / f"step-{STEPS:06d}.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    run_world(1, serve, run, (0, 0))
    assert not generations(run, corpus).path(1, STEPS).exists()
    members, results = start_world(1, serve, run, (0, 0), (1, STEPS))
    path.write_bytes(whole)
    assert results.get(timeout=300)[2] is None
    members[0].join()
    assert mined(run, corpus, 1, STEPS).statistics["pool"] == 32


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize(("stage", "victim"), [("embedding", 1), ("search", 1), ("writing", 1), ("commit", 0)])
def test_a_rank_is_killed_and_the_next_life_publishes_the_same(
    corpus: Path, tmp_path: Path, inline: Generation, stage: str, victim: int
) -> None:
    run = make_run(tmp_path / "run", corpus, STEPS)
    kill_in_world(victim, serve_and_die, run, stage, victim)
    assert generations(run, corpus).read(1, STEPS) is None
    run_world(2, serve, run, (1, STEPS))
    assert_same(mined(run, corpus, 1, STEPS), inline)
    assert [path.name for path in (run / "negatives").iterdir()] == [f"gen-000001-{STEPS:06d}"]


@pytest.mark.slow
@pytest.mark.distributed
def test_a_second_service_waits_and_takes_over(corpus: Path, tmp_path: Path, inline: Generation) -> None:
    run = make_run(tmp_path / "run", corpus, 0)
    first, _ = start_world(1, serve, run)
    wait_until(lambda: generations(run, corpus).read(0, 0) is not None)
    second, results = start_world(1, serve, run, (1, STEPS))
    try:
        time.sleep(1)
        held = (run / "mining" / "lease").read_text()
        assert held.startswith(f"process {first[0].pid} on ")
        first[0].kill()
        first[0].join()
        add_weights(run, corpus, STEPS)
        assert results.get(timeout=300)[2] is None
    finally:
        for member in (*first, *second):
            member.join(timeout=5)
            member.kill()
    assert (run / "mining" / "lease").read_text().startswith(f"process {second[0].pid} on ")
    assert_same(mined(run, corpus, 1, STEPS), inline)
    assert [line["step"] for line in record(run)] == [0, STEPS]


@pytest.mark.slow
@pytest.mark.distributed
def test_a_generation_that_lost_a_file_is_made_again(corpus: Path, tmp_path: Path, inline: Generation) -> None:
    run = make_run(tmp_path / "run", corpus, STEPS)
    run_world(2, serve, run, (1, STEPS))
    (generations(run, corpus).path(1, STEPS) / "part-00001.npy").unlink()
    assert generations(run, corpus).newest(1) is None
    members, _ = start_world(1, serve, run)
    try:
        wait_until(lambda: generations(run, corpus).read(1, STEPS) is not None)
    finally:
        members[0].kill()
    assert_same(mined(run, corpus, 1, STEPS), inline)


def refused(world: World, directory: Path) -> str:
    with pytest.raises(UserError) as caught:
        serve(world, directory)
    return str(caught.value)


@pytest.mark.slow
@pytest.mark.distributed
def test_a_corpus_that_changed_under_the_run_is_refused(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "corpus", 8, 4, shards=4, size=64)
    run = make_run(tmp_path / "run", corpus, 0)
    run_world(1, serve, run, (0, 0))
    changed = make_corpus(tmp_path / "changed" / "corpus", 8, 4, shards=2, size=64)
    members, results = start_world(2, refused, run)
    corpus.rename(tmp_path / "before")  # whole in place of whole: half of one would be refused for that
    changed.rename(corpus)
    (run / "weights" / "step-000000.safetensors").rename(run / "weights" / f"step-{STEPS:06d}.safetensors")
    answers = [results.get(timeout=300) for _ in members]
    for member in members:
        member.join()
    assert all("bring the corpus back" in answer or "was mined from the corpus" in answer for _, answer, _ in answers), answers
    assert [path.name for path in (run / "negatives").iterdir()] == ["gen-000000-000000"]


@pytest.mark.slow
@pytest.mark.distributed
def test_runs_that_do_not_follow_a_service_are_refused(corpus: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", corpus)
    text = (run / "config.yaml").read_text()
    write_text(run / "config.yaml", text.replace("home: service", "home: inline"))
    assert "mining.home=service" in run_world(1, refused, run)[0]


def serve_after_failure(world: World, directory: Path, name: tuple[int, int]) -> str:
    service.RETRY_S = 0.2
    return serve(world, directory, name)


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk_is_told_and_survived(corpus: Path, tmp_path: Path, inline: Generation) -> None:
    run = make_run(tmp_path / "run", corpus, STEPS)
    disk = run / "negatives"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], check=True)
    try:
        filler = disk / "filler"
        with pytest.raises(OSError, match="No space left"):
            filler.write_bytes(bytes(65536 + 1))
        members, results = start_world(2, serve_after_failure, run, (1, STEPS))
        told = run / "mining" / "log.jsonl"
        wait_until(lambda: told.exists() and told.read_text().count("No space left") >= 2)
        assert not list(disk.glob("*gen-*"))
        filler.unlink()
        assert [results.get(timeout=300)[2] for _ in members] == [None, None]
        for member in members:
            member.join()
        assert_same(mined(run, corpus, 1, STEPS), inline)
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


@pytest.mark.slow
@pytest.mark.distributed
def test_bits_are_those_of_every_world(corpus: Path, tmp_path: Path, inline: Generation) -> None:
    run = make_run(tmp_path / "run", corpus, STEPS)
    run_world(4, serve, run, (1, STEPS))
    found = mined(run, corpus, 1, STEPS)
    assert_same(found, inline)
    np.testing.assert_array_equal(found.queries, inline.queries)
