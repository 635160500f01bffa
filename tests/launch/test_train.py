import os
import subprocess
import sys
import time

import pytest
import yaml

from largescale.config import load
from largescale.settings import UserError
from largescale.training.settings.recipe import TrainConfig
from tests import programs
from tests.conftest import ROOT
from tests.corpora import make_corpus
from tests.distributed.runs import ENVIRONMENT, lines, run, run_alone
from tests.world import run_world


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    corpus = make_corpus(tmp_path_factory.mktemp("corpus"), labels=8, per_label=4, shards=2, size=48)
    settings = [f"corpus={corpus}", "images.size=48", "model.backbone=squeezenet1_1", "loader.workers=0", "tracking.wandb=off"]
    return [*settings, "tuples={per_step: 2, per_epoch: 8}", "mining.negatives=2", "epochs=1", "tracking.every=1"]


def ask(*arguments: str) -> tuple[subprocess.CompletedProcess, float]:
    start = time.monotonic()
    done = programs.run([sys.executable, "launch/train.py", *arguments])
    return done, time.monotonic() - start


@pytest.mark.slow
def test_help_and_misspelt_keys_answer_without_torch():
    code = "import sys; sys.path.insert(0, 'launch'); import train; train.main(['--help']); print('torch' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "  optim.lr=0.0001 " in shown
    assert shown.endswith("False\n")
    misspelt, _ = ask("optim.learning_rat=1")
    assert misspelt.returncode == 2
    assert "unknown setting 'optim.learning_rat'; did you mean optim.lr" in misspelt.stderr
    assert "Traceback" not in misspelt.stderr


@pytest.mark.slow
@pytest.mark.distributed
def test_dry_run_tries_a_step_on_every_rank_and_writes_nothing(small, tmp_path):
    output = run([*small, f"runs={tmp_path}/runs", "--dry-run"], 2)
    for said in ("32 images, 8 labels, 2 shards", "4 in each of 1 epochs: 4", "8 in a step, 32 in the run", "step tried"):
        assert said in output
    assert "network     squeezenet1_1, gem, " in output
    assert output.count("it begins with random weights") == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_a_run_leaves_what_the_design_promises(small, tmp_path):
    run_alone([*small, f"runs={tmp_path}", "name=r"])
    directory = tmp_path / "r"
    kept = yaml.safe_load((directory / "config.yaml").read_text())
    assert kept["tuples"]["per_step"] == 2
    assert [path.name for path in sorted((directory / "checkpoints").glob("step-*"))] == ["step-000000", "step-000004"]
    assert [path.name for path in sorted((directory / "weights").iterdir())] == [
        "step-000000.safetensors",
        "step-000004.safetensors",
    ]
    assert [path.name for path in (directory / "negatives").iterdir()] == ["gen-000000-000000"]
    sections = {name.partition("/")[0] for line in lines(directory) for name in line if "/" in name}
    assert sections == {"train", "mining", "data", "system", "eval"}


@pytest.mark.slow
@pytest.mark.distributed
def test_more_processes_than_tuples_are_refused(small, tmp_path):
    output = run([*small, f"runs={tmp_path}", "tuples.per_step=1"], 2, status=1)
    assert "but tuples.per_step=1: some would have no part of a step" in output
    assert "Traceback" not in output.partition("torch/distributed")[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("mining.negatives=40", "set mining.negatives to"),
        ("corpus=nowhere", "no corpus"),
        ("model={freeze: -1, gem_exponent: fixed}", "nothing would learn: model.freeze=-1 freezes all of squeezenet1_1"),
    ],
)
def test_what_cannot_work_is_said_before_the_first_step(small, tmp_path, argument, said):
    assert said in run_alone([*small, f"runs={tmp_path}", argument], status=2)
    assert not (tmp_path / "default").exists()


@pytest.mark.slow
def test_two_runs_in_one_directory_are_refused(tmp_path):
    from largescale.evaluation.context import claim_folder
    from largescale.training.preflight import claim

    hold = "import sys, time; from pathlib import Path; from largescale.locks import Lease; lease = Lease(Path(sys.argv[1]))"
    code = f"{hold}; lease.acquire(); print('held', flush=True); time.sleep(60)"
    claim_folder(tmp_path, "run", "name=")
    command = [sys.executable, "-c", code, str(tmp_path / "lock")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=f"is being written to by process {other.pid} on "):
            claim(tmp_path)
        other.kill()
    claim(tmp_path)
    assert (tmp_path / "lock").read_text().startswith(f"process {os.getpid()} on ")


def check_disk(world, keep):
    from largescale.training.preflight import check_run

    class Planner:
        images = 8

    config = load(TrainConfig, [f"checkpoint.keep={keep}"])
    check_run(config, world, Planner(), parameters=1_000_000)


@pytest.mark.slow
@pytest.mark.distributed
def test_full_disk_is_seen_before_the_first_step():
    run_world(1, check_disk, 2)
    with pytest.raises(AssertionError, match="it would run full in the middle"):
        run_world(1, check_disk, 1_000_000_000)


@pytest.mark.slow
def test_a_limit_on_open_files_is_seen(small):
    command = f"ulimit -n 512; exec {sys.executable} launch/train.py {' '.join(small[:1])} --dry-run"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "may open 512 files here" in done.stderr


def test_default_corpus_is_the_one_that_was_built(tmp_path, monkeypatch):
    from largescale.corpus.default import default_corpus

    monkeypatch.chdir(tmp_path)
    make_corpus(tmp_path / "data" / "mine", labels=2, per_label=2, shards=1)
    assert default_corpus() == "data/mine"
    make_corpus(tmp_path / "data" / "other", labels=2, per_label=2, shards=1)
    with pytest.raises(UserError, match="several corpora \\(data/mine, data/other\\)"):
        default_corpus()
    assert not os.path.exists("data/demo")


@pytest.mark.slow
@pytest.mark.distributed
def test_a_bad_setting_is_one_line_of_ours_under_torchrun() -> None:
    """All ranks have the same to say; torchrun adds its own report, of one rank, which ends with our sentence."""
    said = run(["optim.lr=fast"], 4, status=1).splitlines()
    assert sum("optim.lr" in line for line in said) == 2
    assert sum(line.startswith("error: ") for line in said) == 1
    assert "traceback : error: " in "\n".join(said[-5:])
    assert len(said) < 60  # 37 where no rank is more than seconds later than the others; 62 of four that all fail
