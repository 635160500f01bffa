"""The loop with its real parts, in real processes; stops are real signals that a process sends to itself."""

import json
import os
import shutil
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from safetensors.torch import load_file

import largescale.precision
from largescale.config import load
from largescale.corpus.corpus import Corpus
from largescale.distributed import World
from largescale.settings import UserError
from largescale.training.build import _left_out, build_trainer
from largescale.training.callbacks import Callback
from largescale.training.settings.recipe import TrainConfig
from tests.corpora import make_corpus
from tests.distributed.runs import lines, losses
from tests.training.small import SHORT_VIT
from tests.world import run_world

SCORE = "eval/labels-leave-one-out/map_rectangle"
TRIPLETS = "loss={name: metric_learning, loss: TripletMarginLoss}"
ALIKE = [TRIPLETS, "batches={classes_per_batch: 4, images_per_class: 2}"]
"""Labels that mining puts together."""
TUPLES = ["tuples={per_step: 4, per_epoch: 16}"]
"""Tuples with mined negatives."""


class SignalAt(Callback):
    """Sends SIGTERM to its own process at a place of the run."""

    def __init__(self, place: str, step: int) -> None:
        self.place, self.step = place, step

    def at_epoch_boundary(self) -> None:
        if (self.place, self.step) == ("boundary", self.trainer.progress.step):
            os.kill(os.getpid(), signal.SIGTERM)

    def after_step(self, images: Any, outcome: Any) -> None:
        if (self.place, self.step) == ("step", self.trainer.progress.step):
            os.kill(os.getpid(), signal.SIGTERM)


class Counted(Callback):
    """Counts the steps of a run, over all of its lives."""

    steps = 0

    def after_step(self, images: Any, outcome: Any) -> None:
        self.steps += 1

    def state(self) -> dict[str, Any]:
        return {"steps": self.steps}

    def load_state(self, state: Any) -> None:
        self.steps = state["steps"]


def train(world: World, settings: Sequence[str], first: Sequence[Callback] = (), last: Sequence[Callback] = ()) -> dict[str, Any]:
    """What launch/train.py does, with further callbacks before and after the usual ones."""
    trainer = build_trainer(load(TrainConfig, settings), world, first=first, last=last)
    trainer.begin()
    trainer.fit()
    sums = {name: float(tensor.double().sum()) for name, tensor in trainer.tensors().items()}
    counts = [callback.steps for callback in last if isinstance(callback, Counted)]
    return {"step": trainer.progress.step, "stopping": trainer.stopping, "sums": sums, "counts": counts}


def test_labels_with_one_image_are_counted(tmp_path):
    ones, twos = (Corpus.open(str(make_corpus(tmp_path / str(count), 3, count, shards=1, size=8))) for count in (1, 2))
    batches = load(TrainConfig, ["loss.name=smooth_ap", "batches.classes_per_batch=2"])
    for config in (load(TrainConfig, []), batches):
        assert _left_out(config, ones) == ["labels with one image, which has no positive: 3 of 3, left out"]
        assert not _left_out(config, twos)
    assert not _left_out(load(TrainConfig, ["loss.name=arcface", "batches.images_per_class=1"]), ones)


@pytest.mark.slow
@pytest.mark.distributed
def test_callbacks_of_ones_own_go_on_and_may_come_later(settings, tmp_path):
    """Two of a class have a state each, and one that an earlier life did not have begins where it comes."""
    (first,) = run_world(1, train, [*settings, f"runs={tmp_path}"], [], [SignalAt("step", 3), Counted()])
    assert first["counts"] == [first["step"]]
    (second,) = run_world(1, train, [*settings, f"runs={tmp_path}"], [], [Counted(), Counted()])
    assert second["step"] == 8
    assert second["counts"] == [8, 8 - first["step"]]


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> list[str]:
    corpus = make_corpus(tmp_path_factory.mktemp("corpus"), labels=8, per_label=4, shards=3, size=48)
    plan = ["tuples={per_step: 4, per_epoch: 16}", "mining.negatives=2", "epochs=2", "optim.lr=1e-4"]
    model = ["model={backbone: 'timm:test_resnet', weights: none}", "images.size=48", "loader.workers=0"]
    return [f"corpus={corpus}", *plan, *model, "tracking={wandb: 'off', every: 1}", "precision=fp32"]


@pytest.fixture(scope="module")
def whole(settings, tmp_path_factory) -> Path:
    """The directory of an uninterrupted run of eight steps."""
    directory = tmp_path_factory.mktemp("whole")
    run_world(1, train, [*settings, f"runs={directory}"])
    return directory / "default"


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize(
    ("place", "step", "stopped"), [("boundary", 4, "a stop signal while mining"), ("step", 6, "a stop signal")]
)
def test_stop_is_heeded_in_mining_and_in_steps(settings, whole, tmp_path, place, step, stopped):
    # the signal comes after Preemption has asked at the boundary, so that mining is the first to see it
    (first,) = run_world(1, train, [*settings, f"runs={tmp_path}"], [], [SignalAt(place, step)])
    assert first["stopping"] == stopped
    assert first["step"] == (4 if place == "boundary" else 7)
    (second,) = run_world(1, train, [*settings, f"runs={tmp_path}"])
    assert second["step"] == 8
    assert losses(tmp_path / "default") == losses(whole)


@pytest.mark.slow
@pytest.mark.distributed
def test_evaluation_decides_the_best_and_is_not_repeated(settings, tmp_path):
    gallery = settings[0].partition("=")[2]
    arguments = [*settings, f"runs={tmp_path}", f"evaluation.gallery={gallery}", "checkpoint.keep=2", "average=0.5"]
    directory = tmp_path / "default"
    (stopped,) = run_world(1, train, [*arguments, "tracking.wandb=offline", "evaluation.strips=3"], [], [SignalAt("step", 4)])
    assert stopped["stopping"] == "a stop signal"
    pictures = [Image.open(path) for path in (directory / "wandb" / "artifacts" / "staging").iterdir() if is_png(path)]
    sizes = sorted(picture.size for picture in pictures)
    assert sizes == [(4 * 96, 96)] * 3 + [(11 * 96, 96)] * 3  # hardest tuples, rankings
    run_world(1, train, arguments)
    scores = {
        line["step"]: line["eval/labels-leave-one-out/map_rectangle"]
        for line in lines(directory)
        if "eval/labels-leave-one-out/map_rectangle" in line
    }
    assert sorted(scores) == [0, 4, 8]
    found = {path.name: json.loads((path / "results.json").read_text()) for path in (directory / "evaluation").iterdir()}
    assert sorted(found) == ["step-000000", "step-000004", "step-000008"]
    assert {results["preprocess"]["precision"] for results in found.values()} == {"fp32"}  # as it was trained
    best = json.loads((directory / "checkpoints" / "best.json").read_text())
    assert best["score"] == max(scores.values())
    assert scores[best["step"]] == best["score"]
    written = {name: (directory / "evaluation" / name / "results.json").stat().st_mtime for name in found}
    run_world(1, train, arguments)  # a finished run reads its last scores back
    assert {name: (directory / "evaluation" / name / "results.json").stat().st_mtime for name in found} == written


@pytest.mark.slow
@pytest.mark.distributed
def test_exported_weights_are_the_average(settings, tmp_path):
    (done,) = run_world(1, train, [*settings, f"runs={tmp_path}", "average=0.5", "epochs=1"])
    exported = load_file(tmp_path / "default" / "weights" / "step-000004.safetensors")
    averages = {name: value for name, value in done["sums"].items() if name.startswith("average.")}
    assert {f"average.{name}": float(tensor.double().sum()) for name, tensor in exported.items()} == averages
    assert any(done["sums"][f"model.net.{name}"] != averages[f"average.{name}"] for name in exported)


ROUNDING = pytest.mark.parametrize(("precision", "rounding"), [("fp32", 1e-3), ("bf16", 5e-2)])
"""Most that losses on two worlds may differ, as a share, after some steps."""


@pytest.mark.slow
@pytest.mark.distributed
@ROUNDING
def test_labels_do_not_depend_on_the_world(settings, tmp_path, precision, rounding):
    plan = ["batches={classes_per_batch: 4, images_per_class: 2}", "epochs=1", "optim={name: sgd, lr: 1e-3}"]
    arguments = [settings[0], *settings[5:-1], f"precision={precision}", TRIPLETS, *plan]
    for size in (1, 2):
        run_world(size, train, [*arguments, f"runs={tmp_path}", f"name={size}"])
    assert losses(tmp_path / "2") == pytest.approx(losses(tmp_path / "1"), rel=rounding)
    assert len(losses(tmp_path / "1")) == 4


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize(
    ("plan", "precision", "rounding"), [(ALIKE, "fp32", 1e-3), (ALIKE, "bf16", 5e-2), (TUPLES, "bf16", 5e-2)]
)
def test_what_is_mined_on_another_world_and_after_a_stop(settings, tmp_path, plan, precision, rounding):
    """Laws 1 and 2: interrupted in the second epoch on one process, and whole on two."""
    plan = [*plan, "mining.negatives=3", "optim={name: sgd, lr: 1e-3}"]
    arguments = [settings[0], *settings[5:-1], f"precision={precision}", *plan, f"runs={tmp_path}", "epochs=2"]
    run_world(1, train, [*arguments, "name=1"])
    run_world(2, train, [*arguments, "name=2"])
    run_world(1, train, [*arguments, "name=stopped"], [], [SignalAt("step", 6)])
    assert len(losses(tmp_path / "stopped")) == 7
    run_world(1, train, [*arguments, "name=stopped"])
    assert losses(tmp_path / "stopped") == losses(tmp_path / "1")
    one, two = losses(tmp_path / "1"), losses(tmp_path / "2")
    apart = [step for step in one if two[step] != pytest.approx(one[step], rel=rounding)]
    assert len(apart) <= (precision == "bf16"), "in bf16 two negatives may be equally hard and change places, in one step at most"
    assert two == pytest.approx(one, rel=4 * rounding)
    near = [line["mining/near_labels"] for line in lines(tmp_path / "1") if "mining/near_labels" in line]
    assert len(near) == (2 if TRIPLETS in plan else 0)
    assert all(share > 0.5 for share in near)


@pytest.mark.slow
@pytest.mark.distributed
def test_batch_normalization_that_learns_resumes_exactly(settings, tmp_path):
    """Each rank has statistics of its own images; mining reads their mean, and a checkpoint keeps it."""
    arguments = [*settings, f"runs={tmp_path}", "model.freeze_batchnorm=false", "model.weights=none"]
    run_world(2, train, [*arguments, "name=whole"])
    run_world(2, train, [*arguments, "name=parts"], [], [SignalAt("step", 2)])
    assert len(losses(tmp_path / "parts")) == 3
    sums = [done["sums"] for done in run_world(2, train, [*arguments, "name=parts"])]
    assert losses(tmp_path / "parts") == pytest.approx(losses(tmp_path / "whole"), rel=1e-5)
    statistics = [name for name in sums[0] if "running_" in name]
    assert statistics
    assert [sums[0][name] for name in statistics] == [sums[1][name] for name in statistics]


WAYS = {
    "late": [f"model={{backbone: '{SHORT_VIT}', freeze: 2, unfreeze_at: 5, drop_path: 0.5}}", "optim.layer_decay=0.7"],
    "adapters": [f"model={{backbone: '{SHORT_VIT}', lora: {{rank: 2}}}}", "optim.layer_decay=0.7"],
}
"""Of a backbone to learn."""


def train_whole_and_in_parts(world: World, settings: Sequence[str], stops: Mapping[str, Sequence[int]]) -> None:
    """Each way without a stop and with stops; both runs end with the same tensors."""
    for way, steps in stops.items():
        arguments = [*settings, *WAYS[way]]
        whole = train(world, [*arguments, f"name={way}-whole"])
        for stop in steps:
            train(world, [*arguments, f"name={way}-parts"], [], [SignalAt("step", stop)])
        assert train(world, [*arguments, f"name={way}-parts"]) == whole | {"counts": []}


@pytest.mark.slow
@pytest.mark.distributed
def test_what_learns_late_or_in_adapters_goes_on_to_the_last_bit(settings, tmp_path):
    """Stopped before the update from which frozen layers learn, and after it; what is mined in between is the same too."""
    arguments = [*settings[:4], *settings[5:], f"runs={tmp_path}"]
    run_world(1, train_whole_and_in_parts, arguments, {"late": (2, 6), "adapters": (4,)})
    for way in WAYS:
        assert losses(tmp_path / f"{way}-parts") == losses(tmp_path / f"{way}-whole")
        assert len(losses(tmp_path / f"{way}-whole")) == 8


def is_png(path: Path) -> bool:
    return path.read_bytes().startswith(b"\x89PNG")


def resume_without_generation(world, settings):
    with pytest.raises(UserError, match="no whole generation of epoch 1 from step 4"):
        train(world, settings)


@pytest.mark.slow
@pytest.mark.distributed
def test_a_missing_generation_is_an_error_in_the_middle_of_its_epoch(settings, tmp_path):
    run_world(1, train, [*settings, f"runs={tmp_path}"], [], [SignalAt("step", 5)])
    shutil.rmtree(tmp_path / "default" / "negatives" / "gen-000001-000004")
    run_world(1, resume_without_generation, [*settings, f"runs={tmp_path}"])


def resume_as_another(world, settings):
    with pytest.raises(UserError, match=r"optim\.lr: 0\.0001 in the checkpoint, 0\.5 now"):
        train(world, [*settings, "optim.lr=0.5"])
    largescale.precision._fast_on_cpu = lambda: True
    with pytest.raises(UserError, match="precision: 'fp32' in the checkpoint, 'bf16' now"):
        train(world, [*settings, "precision=auto"])


@pytest.mark.slow
@pytest.mark.distributed
def test_another_configuration_does_not_continue_a_run(settings, whole):
    run_world(1, resume_as_another, [*settings, f"runs={whole.parent}"])


@pytest.mark.slow
@pytest.mark.distributed
def test_a_minute_on_the_clock_of_one_rank_saves_on_all(settings, tmp_path):
    run_world(2, train, [*settings, f"runs={tmp_path}", "checkpoint={minutes: 1e-9, keep: 20}", "epochs=1"])
    assert len(list((tmp_path / "default" / "checkpoints").glob("step-*"))) == 5
