import os
import re
import signal
import subprocess
import sys

import pytest
import yaml
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from largescale.config import explain, load, to_yaml, walk
from largescale.evaluation.config import EvaluateConfig
from largescale.settings import UserError
from largescale.training.settings.recipe import TrainConfig, named
from tests import programs
from tests.conftest import ROOT


def message(*arguments: str) -> str:
    with pytest.raises(UserError) as error:
        load(TrainConfig, arguments)
    return str(error.value)


def test_later_arguments_win(tmp_path):
    (tmp_path / "a.yaml").write_text("optim: {lr: 1e-3, momentum: 0.5}\nepochs: 3\n")
    (tmp_path / "b.yaml").write_text("epochs: 4\n")
    config = load(TrainConfig, [str(tmp_path / "a.yaml"), "optim.lr=2e-4", str(tmp_path / "b.yaml")])
    assert (config.optim.lr, config.optim.momentum, config.epochs) == (2e-4, 0.5, 4)


def test_exponents_are_numbers_where_any_value_is_allowed():
    config = load(TrainConfig, ["loss={name: metric_learning, loss: ArcFaceLoss, arguments: {margin: 1e-3}}"])
    assert config.loss.arguments == {"margin": 0.001}


@pytest.mark.parametrize(
    ("argument", "nearest"),
    [
        ("model.backbon=x", "model.backbone"),
        ("lr=1", "optim.lr"),
        ("optim.learning_rat=1", "optim.lr"),
        ("epoch=1", "epochs"),
        ("tupels.per_step=1", "tuples"),
        ("loss.margim=1", "loss.margin"),
        ("images.augment.flop=1", "images.augment.flip"),
    ],
)
def test_misspelt_key_names_the_nearest(argument, nearest):
    assert f"; did you mean {nearest}" in message(argument)


@pytest.mark.parametrize("value", ["nan", ".nan", "inf", "-.inf"])
@pytest.mark.parametrize("name", ["optim.lr", "mining.similarity_cap", "checkpoint.minutes"])
def test_numbers_are_finite(name, value):
    assert f"{name}: " in message(f"{name}={value}")


def test_nearest_key_is_one_of_the_chosen_class():
    # `margin` is nearer, but the loss chosen has none
    assert "unknown setting 'loss.argin'; did you mean loss.a" in message("loss={name: metric_learning, loss: X, argin: 1}")
    assert "unknown setting 'loss.argin'; did you mean loss.margin" in message("loss.argin=1")


def test_every_fault_is_named():
    text = message("epochs=0", "optim.lr=abc", "modle.backbone=x")
    assert all(key in text for key in ("epochs: ", "optim.lr: ", "unknown setting 'modle'; did you mean model"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["tuples.per_step=3"], "tuples: loss.name=metric_learning learns from labels"),
        (["mining.stored=3"], "stored negatives would never be read"),
        (["mining.negatives=3", "batches.shots=5"], "batches.shots chooses by itself; remove one of them"),
        (["engine.gradient_accumulation=2"], "use engine.gradcache_chunk=IMAGES"),
        (["engine.gradcache_chunk=8", "model.freeze_batchnorm=false"], "would see each chunk twice and never the batch"),
    ],
)
def test_contradictions_say_the_consequence(arguments, said):
    assert said in message("loss.name=metric_learning", "loss.loss=TripletMarginLoss", *arguments)


def test_class_anchors_need_descriptors_as_they_are():
    assert "use model.normalize=false" in message("loss.name=class_anchor")
    assert "set loss.memory=0" in message("loss.name=class_anchor", "loss.memory=9", "model.normalize=false")
    assert load(TrainConfig, ["loss.name=class_anchor", "model.normalize=false"]).loss.learned


def test_batches_of_labels_contradict_a_tuple_loss():
    assert "batches: loss.name=contrastive learns from tuples" in message("batches.classes_per_batch=3")


def test_plan_follows_from_the_loss():
    tuples, labels = load(TrainConfig, []), load(TrainConfig, ["loss={name: metric_learning, loss: TripletMarginLoss}"])
    assert (tuples.tuples is None, tuples.mining is None, tuples.batches is None) == (False, False, True)
    assert (labels.tuples is None, labels.mining is None, labels.batches is None) == (True, True, False)


@pytest.mark.parametrize("arguments", [[], ["loss={name: metric_learning, loss: TripletMarginLoss}"], ["model.pooling=mac"]])
def test_written_configuration_is_read_back(tmp_path, arguments):
    config = load(TrainConfig, arguments)
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    assert load(TrainConfig, [str(tmp_path / "config.yaml")]) == config


def test_a_missing_or_broken_file_is_an_error(tmp_path):
    (tmp_path / "list.yaml").write_text("- 1\n")
    (tmp_path / "broken.yaml").write_text("a: [1\n")
    assert "there is no configuration file" in message(str(tmp_path / "none.yaml"))
    assert "holds a list" in message(str(tmp_path / "list.yaml"))
    assert "not valid YAML" in message(str(tmp_path / "broken.yaml"))


@pytest.mark.slow
def test_help_shows_the_defaults_of_the_program():
    """What evaluation sets for a group that others have too."""
    assert "\n  tracking.wandb='off'\n" in explain(EvaluateConfig, "", (), "tracking")
    assert "\n  tracking.wandb=auto\n" in explain(TrainConfig, "", (), "tracking")


def test_runs_without_a_name_go_on_with_the_same_settings_only(tmp_path):
    (tmp_path / "fast.yaml").write_text("epochs: 3\n")
    (tmp_path / "named.yaml").write_text("name: mine\n")

    def name(*arguments):
        given = [str(tmp_path / argument) if argument.endswith(".yaml") else argument for argument in arguments]
        return named(load(TrainConfig, given), given).name

    assert (name("named.yaml", "epochs=5"), name("fast.yaml", "name=x")) == ("mine", "x")
    first = name("fast.yaml")
    assert re.fullmatch(r"named-[0-9a-f]{8}", name("named.yaml", "name=auto"))
    assert re.fullmatch(r"fast-[0-9a-f]{8}", first)
    assert name() == first.replace("fast", "run")
    assert first == name("fast.yaml", "engine.kind=deepspeed", "checkpoint.every=7") == name("fast.yaml")
    assert len({first, name("fast.yaml", "seed=1"), name("fast.yaml", "corpus=data/a"), name("fast.yaml", "optim.lr=1")}) == 4


@pytest.mark.slow
def test_torchrun_is_told_what_was_wrong(tmp_path):
    code = "from largescale.program.running import run_program\nfrom largescale.settings import UserError\n"
    code += "def main(arguments): raise UserError('no such corpus')\nrun_program(main)"
    for rank, expected in enumerate([(2, "error: no such corpus\n"), (0, "")]):  # the second has nothing new to say
        (tmp_path / str(rank)).mkdir()
        environment = {**os.environ, "TORCHELASTIC_ERROR_FILE": str(tmp_path / str(rank) / "error.json"), "PYTHONPATH": str(ROOT)}
        done = programs.run([sys.executable, "-c", code], environment)
        assert (done.returncode, done.stderr) == expected
    failure = ProcessFailure(0, 1, 2, str(tmp_path / "0" / "error.json"))
    assert "traceback : error: no such corpus" in ChildFailedError("train", {0: failure}).format_msg()


@pytest.mark.slow
def test_help_documents_every_setting():
    text = explain(TrainConfig, "", (), "all")
    undocumented = [key for key, field, _ in walk(TrainConfig) if not field.description]
    assert not undocumented
    assert all(f"  {key}=" in text for key, _, _ in walk(TrainConfig))
    defaults = {key: field for key, field, _ in walk(TrainConfig)}
    shown = next(line for line in text.splitlines() if line.startswith("  optim.betas="))
    assert tuple(yaml.safe_load(shown.partition("=")[2])) == defaults["optim.betas"].default


def test_settings_that_decide_the_result_bind_a_run():
    base = load(TrainConfig, []).resume_identity()
    free = ["epochs=99", "loader.workers=0", "tracking.wandb=off", "engine.kind=deepspeed", "checkpoint.every=3", "name=other"]
    assert load(TrainConfig, free).resume_identity() == base
    for argument in (
        "optim.lr=1",
        "seed=1",
        "images.size=32",
        "mining.negatives=2",
        "model.backbone=vgg16",
        "engine.max_grad_norm=1",
    ):
        changed = load(TrainConfig, [argument]).resume_identity()
        assert [key for key in base if base[key] != changed[key]] == [argument.partition("=")[0]]
    assert "epochs" in load(TrainConfig, ["schedule.name=cosine"]).resume_identity()


@pytest.mark.slow
def test_settings_need_no_torch():
    modules = "sys, largescale.config, largescale.training.settings.recipe"
    code = f"import {modules}; print({{'torch', 'torchvision', 'timm'}} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


@pytest.mark.slow
@pytest.mark.parametrize("program", ["evaluate", "train"])
def test_a_reader_that_leaves_is_no_error(program: str) -> None:
    """As in `python launch/evaluate.py --help | head -0`."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, f"launch/{program}.py", "--help"]
    done = subprocess.run(command, cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")


@pytest.mark.slow
def test_pipes_of_the_program_itself_break_with_a_traceback() -> None:
    code = (
        "from largescale.program.running import run_program\ndef main(_): raise BrokenPipeError('to a worker')\nrun_program(main)"
    )
    done = programs.run([sys.executable, "-c", code])
    assert done.returncode == 1
    assert "BrokenPipeError: to a worker" in done.stderr
