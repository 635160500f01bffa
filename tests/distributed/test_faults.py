"""Bad images, losses that are not finite, and a node that dies."""

import json
import time

import pytest

from tests.corpora import make_corpus
from tests.distributed.conftest import STEPS
from tests.distributed.runs import finish, kill_all, lines, losses, run, run_alone, start, wait_for_step
from tests.world import free_port


@pytest.mark.slow
@pytest.mark.distributed
def test_loss_that_is_not_finite_is_skipped_and_then_ends_the_run(settings, tmp_path):
    # the first step throws the weights so far away that every later activation overflows
    output = run([*settings, f"runs={tmp_path}", "optim.lr=1e30", "non_finite.skip=2", "checkpoint.every=1"], 2, status=1)
    directory = tmp_path / "default"
    assert "error: step 4: loss nan" in output
    assert "non_finite.skip=2 allows no more" in output
    assert sorted(losses(directory)) == [1]
    assert [line["train/skipped_steps"] for line in lines(directory) if "train/skipped_steps" in line] == [1, 2, 3]
    dumps = sorted((directory / "non-finite").iterdir())
    assert [dump.name for dump in dumps] == ["step-000002.json", "step-000003.json", "step-000004.json"]
    keys = json.loads(dumps[0].read_text())["keys"]
    assert sorted(keys) == ["0", "1"]
    assert all(len(of_rank) == 2 * 4 for of_rank in keys.values())


@pytest.mark.slow
@pytest.mark.distributed
def test_bad_images_are_named_and_budgeted(settings, tmp_path):
    corpus = make_corpus(tmp_path / "corpus", labels=12, per_label=6, shards=4, size=64, mixed=True, replace={40: b"no image"})
    arguments = [*settings, f"corpus={corpus}", f"runs={tmp_path}", "epochs=1", "mining.pool=24"]
    output = run([*arguments, "name=strict", "bad_images.budget=0"], 2, status=1)
    assert "000040 in shard-00002.tar" in output
    assert "bad_images.budget=0" in output
    run_alone([*arguments, "name=lenient", "bad_images.budget=0.2"])
    found = [line for line in lines(tmp_path / "lenient") if "bad_images" in line]
    assert {image["key"] for line in found for image in line["bad_images"]} == {"000040"}
    assert found[-1]["data/bad_images"] == sum(len(line["bad_images"]) for line in found)
    assert sorted(losses(tmp_path / "lenient")) == list(range(1, STEPS // 2 + 1))


@pytest.mark.slow
@pytest.mark.distributed
def test_a_node_that_dies_and_comes_back(uninterrupted, settings, tmp_path):
    """Four torchrun on one machine; the last is killed with its rank and started again: the others wait and go on with it."""
    rendezvous = ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{free_port()}", "--rdzv-id", "test"]
    options = ["--nnodes", 4, "--nproc-per-node", 1, "--max-restarts", 3, *rendezvous]
    arguments, directory = [*settings, f"runs={tmp_path}"], tmp_path / "default"
    nodes = [start(arguments, *options)]
    time.sleep(1)  # the first hosts the rendezvous
    nodes += [start(arguments, *options) for _ in range(3)]
    try:
        wait_for_step(directory, 8, nodes[0])
        # which torchrun is which rank is theirs to decide: not the host of the rendezvous
        kill_all(nodes[3])
        nodes[3] = start(arguments, *options)
        outputs = [finish(node) for node in nodes]
        assert [node.returncode for node in nodes] == [0, 0, 0, 0], "\n".join(outputs)
    finally:
        for node in nodes:
            kill_all(node)
    assert losses(directory) == losses(uninterrupted(4))
