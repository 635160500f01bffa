"""Training and its mining service as two programs: neither notices the death of the other, and training never waits."""

import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from largescale.commit import is_complete
from tests.corpora import make_corpus
from tests.distributed.runs import (
    ENVIRONMENT,
    TORCHRUN,
    finish,
    kill_all,
    lines,
    losses,
    run_alone,
    start,
    wait_for,
    wait_for_step,
)
from tests.mining.served import STEPS, make_run, mined, serve
from tests.programs import Program
from tests.world import free_port, run_world

ONE, TWO = (["--standalone", "--nproc-per-node", ranks] for ranks in (1, 2))
MINE = "launch/mine.py"
CUT_S, TIMEOUT_S = 8, 4
"""How long the link is cut, and how long a rank may keep the others waiting."""


@pytest.mark.slow
@pytest.mark.distributed
def test_deaths_on_both_sides_do_not_change_what_is_learned(uninterrupted, settings, tmp_path):
    """With mining.wait=always the losses are those of the inline miner, whoever was killed, and however many mine."""
    directory = tmp_path / "default"
    arguments = [*settings, f"runs={tmp_path}", "mining={negatives: 2, home: service, wait: always}"]
    service = start([directory], *TWO, program=MINE)
    trainers = start(arguments, *ONE)
    try:
        wait_for_step(directory, 2, trainers)
        kill_all(service)
        service = start([directory], *ONE, program=MINE)
        wait_for_step(directory, 14, trainers)
        kill_all(trainers)
        run_alone(arguments)
        output = finish(service)
    finally:
        kill_all(service)
        kill_all(trainers)
    assert service.returncode == 0, output
    assert f"the service of {directory} ends: the run is finished" in output
    assert losses(directory) == losses(uninterrupted(1))


@pytest.mark.slow
@pytest.mark.distributed
def test_training_never_waits(settings, tmp_path):
    """Two trainers and two miners on one machine."""
    directory = tmp_path / "default"
    service = start([directory], *TWO, program=MINE)
    trainers = start([*settings, f"runs={tmp_path}", "epochs=5", "mining={negatives: 2, home: service}"], *TWO)
    try:
        output = finish(trainers)
        assert trainers.returncode == 0, output
        assert "the run is finished" in finish(service)
    finally:
        kill_all(service)
        kill_all(trainers)
    epochs = [line for line in lines(directory) if "mining/coverage" in line]
    assert [line["epoch"] for line in epochs] == [0, 1, 2, 3, 4]
    assert max(line["mining/wait_seconds"] for line in epochs) < 0.1
    assert (epochs[0]["mining/coverage"], epochs[0]["mining/fallbacks"]) == (0, 1)  # it begins before anything was mined
    assert epochs[-1]["mining/coverage"] == 1
    assert epochs[-1]["mining/fallbacks"] < 5
    assert 0 < epochs[-1]["mining/age_steps"] <= 24
    told = [json.loads(line) for line in (directory / "mining" / "log.jsonl").read_text().splitlines()]
    assert {line["mining/epoch"] for line in told} <= {1, 2, 3, 4}


@pytest.fixture
def nodes() -> Iterator[list[str]]:
    """Two network namespaces joined by a link."""
    names = [f"largescale{os.getpid()}{side}" for side in "ab"]
    ends = ["lsa" + str(os.getpid() % 10**6), "lsb" + str(os.getpid() % 10**6)]
    try:
        ip("link", "add", ends[0], "type", "veth", "peer", "name", ends[1])
        for number, (name, end) in enumerate(zip(names, ends, strict=True), 1):
            ip("netns", "add", name)
            ip("link", "set", end, "netns", name, "name", "eth0")
            ip("-n", name, "addr", "add", f"10.77.0.{number}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                ip("-n", name, "link", "set", "dev", device, "up")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False)


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


def start_node(number: int, name: str, directory: Path, port: int) -> Program:
    meeting = ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"10.77.0.1:{port}", "--rdzv-id", "cut"]
    meeting += ["--rdzv-conf", f"is_host={int(number == 1)}"]
    options = ["--nnodes", 2, "--nproc-per-node", 1, "--max-restarts", 5, "--local-addr", f"10.77.0.{number}", *meeting]
    command = [*TORCHRUN, *options, "tests/distributed/slow_mine.py", directory, f"timeout={TIMEOUT_S}"]
    return Program(command, {**ENVIRONMENT, "GLOO_SOCKET_IFNAME": "eth0"}, network=Path("/run/netns") / name)


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")
def test_a_link_that_is_cut_during_a_search(nodes, tmp_path):
    """Both nodes end with an error after the timeout, torchrun starts them again, and the generation is that of one process."""
    corpus = make_corpus(tmp_path / "corpus", 8, 4, shards=4, size=64, mixed=True)
    run_directory, alone = make_run(tmp_path / "run", corpus, STEPS), make_run(tmp_path / "alone", corpus, STEPS)
    generation = f"negatives/gen-000001-{STEPS:06d}"
    port = free_port()
    services = [start_node(number, name, run_directory, port) for number, name in enumerate(nodes, 1)]
    try:
        wait_for(lambda: (run_directory / "searching").exists(), services[0])
        ip("-n", nodes[1], "link", "set", "dev", "eth0", "down")
        time.sleep(CUT_S)
        assert not is_complete(run_directory / generation)
        ip("-n", nodes[1], "link", "set", "dev", "eth0", "up")
        wait_for(lambda: is_complete(run_directory / generation), services[0])
    finally:
        for service in services:
            kill_all(service)
    outputs = [service.communicate()[0] for service in services]
    assert all("imed out" in output or "closed by peer" in output for output in outputs), "\n".join(outputs)
    run_world(1, serve, alone, (1, STEPS))
    one, two = (mined(place, corpus, 1, STEPS) for place in (alone, run_directory))
    assert one.negatives.tobytes() == two.negatives.tobytes()
