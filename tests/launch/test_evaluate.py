"""launch/evaluate.py as a user starts it."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from largescale.config import load
from largescale.distributed import StopSignal, World
from largescale.evaluation import read_records, read_results
from largescale.evaluation.config import EvaluateConfig
from largescale.settings import UserError
from launch.evaluate import main, take
from tests import programs
from tests.corpora import make_corpus
from tests.evaluation.small import SIZE, alone, make_weights, settings

SMALL = [f"images.size={SIZE}", "batch_size=4", "loader.workers=1"]


def evaluate(*arguments: object, processes: int = 0) -> subprocess.CompletedProcess[str]:
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)] if processes else []
    return programs.run([sys.executable, *torchrun, "launch/evaluate.py", *arguments])


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with alone() as world:
        yield world


@pytest.fixture(scope="module")
def signal(world: World) -> StopSignal:
    return StopSignal(world)


@pytest.mark.slow
@pytest.mark.distributed
def test_two_processes_print_a_table_and_write_results_and_report(
    tmp_path: Path, world: World, signal: StopSignal, capfd: pytest.CaptureFixture[str]
) -> None:
    gallery = make_corpus(tmp_path / "test", labels=5, per_label=4, shards=4, size=SIZE)
    far = make_corpus(tmp_path / "far", labels=0, per_label=0, shards=2, size=SIZE, unlabeled=12)
    weights, out = make_weights(tmp_path / "w.safetensors"), tmp_path / "out"
    settings = [f"weights={weights}", f"gallery={gallery}", f"distractors={far}", f"out={out}", *SMALL]
    found = evaluate(*settings, processes=2)
    assert found.returncode == 0, found.stderr
    (protocol,) = read_results(out).protocols
    rows = [line.split() for line in found.stdout.splitlines() if line.startswith("labels-leave-one-out")]
    assert [row[1] for row in rows] == ["0", "12"]
    main = protocol.metrics["map_rectangle"]
    assert rows[1][2:7] == ["map_rectangle", f"{100 * main.value:.2f}", f"{100 * main.low:.2f}", "to", f"{100 * main.high:.2f}"]
    assert f"report: {out / 'report' / 'index.html'}" in found.stdout
    assert (out / "report" / "index.html").exists()
    assert len(list(read_records(out / protocol.records))) == 20
    capfd.readouterr()
    take(None, load(EvaluateConfig, settings), world, signal)  # one process; everything is done
    again = capfd.readouterr()
    assert [line.split() for line in again.out.splitlines() if line.startswith("labels-leave-one-out")] == rows
    assert "embed" not in again.err


def test_the_plan_only(tmp_path: Path, world: World, signal: StopSignal, capsys: pytest.CaptureFixture[str]) -> None:
    gallery = make_corpus(tmp_path / "test", labels=5, per_label=4, size=SIZE)
    take("plan", settings(tmp_path / "out", weights=tmp_path / "none", gallery=str(gallery)), world, signal)
    printed = capsys.readouterr().out
    assert "20 queries of 5 landmarks or labels" in printed
    assert "right: same label; left out of the ranking: own image" in printed
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_step_by_step(tmp_path: Path, world: World, signal: StopSignal, capsys: pytest.CaptureFixture[str]) -> None:
    gallery = make_corpus(tmp_path / "test", labels=5, per_label=4, shards=4, size=SIZE)
    weights, out = make_weights(tmp_path / "w.safetensors"), tmp_path / "out"
    config = settings(out, weights=weights, gallery=str(gallery))
    with pytest.raises(UserError, match="is not sealed, so there is no score: run the steps embed and seal first"):
        take("search", config, world, signal)
    for step in ("embed", "seal"):
        take(step, config, world, signal)
    with pytest.raises(UserError, match="1 of 1 blocks of queries are not searched yet: run the step search first"):
        take("score", config, world, signal)
    for step in ("search", "score", "report"):
        assert not (out / "report").exists()
        take(step, config, world, signal)
    whole = config.model_copy(update={"out": tmp_path / "whole"})
    take(None, whole, world, signal)
    assert read_results(out).protocols == read_results(whole.out).protocols
    assert f"report: {out / 'report' / 'index.html'}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ([], "nothing to score: give weights=FILE, model=FOLDER, or descriptors=FILE.npy"),
        (["weigths=a"], "unknown setting 'weigths'; did you mean weights"),
        (["weights=a", "descriptors=b"], "weights and descriptors: one of them is scored"),
        (["weights=a", "score.whitening=pca"], "whitening is fitted on descriptors of a training corpus"),
        (
            ["descriptors=b", "names=c", "ground_truth=d", "score.whitening=pca"],
            "score.whitening: a file of descriptors comes without a training corpus to fit it on; whiten its rows before",
        ),
        (["weights=a", "model=b"], "weights and model: one of them is scored"),
        (["model.backbone=resnet18"], "model.weights: which does the backbone have? give imagenet, a file, or none"),
        (["seal", "descriptors=b", "names=c", "ground_truth=d"], "a file of descriptors is scored in one go"),
        (["descriptors=b"], "names and ground_truth: descriptors say nothing about their rows"),
        (["weights=a", "gallery=b", "protocol=oxford6k"], "protocol: Input should be 'auto', 'labels'"),
    ],
)
def test_contradictions_are_said_at_once(arguments: list[str], error: str) -> None:
    with pytest.raises(UserError) as found:
        main(arguments)
    assert error in str(found.value)


@pytest.mark.slow
@pytest.mark.distributed
def test_an_error_is_one_message() -> None:
    found = evaluate("weigths=a")
    assert found.returncode == 2
    assert "unknown setting 'weigths'" in found.stderr
    assert "Traceback" not in found.stderr


@pytest.mark.slow
def test_a_stop_is_one_sentence(tmp_path: Path) -> None:
    gallery = make_corpus(tmp_path / "test", labels=5, per_label=4, shards=4, size=SIZE)
    weights = make_weights(tmp_path / "w.safetensors")
    program = f"""if True:
        import os, signal
        from largescale.distributed import stoppable_world
        from largescale.program.logs import show_logs
        from launch.evaluate import take
        from tests.evaluation.small import Path, settings
        show_logs()
        with stoppable_world() as (world, received):
            os.kill(os.getpid(), signal.SIGTERM)
            take(None, settings(Path("{tmp_path}/out"), weights=Path("{weights}"), gallery="{gallery}"), world, received)"""
    env = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")}
    found = programs.run([sys.executable, "-c", program], env)
    assert found.returncode == 0
    assert found.stderr.endswith(" rank 0: stopped; the same command goes on from what is done\n")
    assert "Traceback" not in found.stderr
    assert not (tmp_path / "out" / "results.json").exists()


def test_no_weights_file(tmp_path: Path, world: World, signal: StopSignal) -> None:
    with pytest.raises(UserError, match="there is no model"):
        take(None, settings(tmp_path / "out", weights=tmp_path / "w.safetensors", gallery=str(tmp_path)), world, signal)


@pytest.mark.parametrize(
    ("benchmark", "expected"),
    [
        ("oxford5k", {"oxford5k-nocrop": 40.29}),
        ("roxford5k", {"roxford5k-easy-nocrop": 28.89, "roxford5k-medium-nocrop": 21.13, "roxford5k-hard-nocrop": 4.60}),
    ],
)
def test_real_descriptors(
    shared_data: Path,
    tmp_path: Path,
    world: World,
    signal: StopSignal,
    capsys: pytest.CaptureFixture[str],
    benchmark: str,
    expected: dict[str, float],
) -> None:
    data = shared_data / "oxford5k"
    given = [f"descriptors={data / 'oxford5k_caffenet_fc7_pca128.npy'}", f"names={data / 'oxford5k_names.txt'}"]
    config = load(EvaluateConfig, [*given, f"ground_truth={data / f'gnd_{benchmark}.json'}", f"out={tmp_path}"])
    take(None, config, world, signal)
    results = read_results(tmp_path)
    assert {p.protocol: round(100 * p.metrics["map_trapezoid"].value, 2) for p in results.protocols} == expected
    printed = capsys.readouterr().out
    assert all(f"{value:.2f}" in printed for value in expected.values())
