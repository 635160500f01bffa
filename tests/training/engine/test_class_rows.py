"""Class anchors that are shared among ranks: as if one process had all of them, in every world and engine."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from largescale.distributed import World
from largescale.losses.build import build_loss as build_whole
from largescale.losses.labels import class_anchor
from largescale.losses.settings.base import LossSettings
from largescale.losses.settings.labels import ArcFaceConfig, ClassAnchorConfig, CosFaceConfig
from largescale.training.engine import class_rows
from largescale.training.engine.build import build_engine
from largescale.training.engine.class_rows import RowsShare, build_loss
from largescale.training.engine.engine import Engine
from largescale.training.engine.step_module import Batch
from largescale.training.settings.config import EngineConfig, OptimConfig
from tests.training.small import TUPLES, WIDTH, build_module, images, small_engine
from tests.world import run_world

CLASSES, DIM, STEPS = 9, 5, 3
LABELS = torch.arange(TUPLES * WIDTH) ** 2 % CLASSES
CONFIG = ClassAnchorConfig(init="gaussian", radius=0.8)
Outcome = tuple[list[float], dict[str, np.ndarray]]


def _engine(world: World, shared: bool = True, optim: str = "adamw", **settings: object) -> Engine:
    class_anchor.BLOCK["cpu"] = 2
    torch.manual_seed(8)
    loss = build_loss(CONFIG, CLASSES, DIM, world) if shared else build_whole(CONFIG, CLASSES, DIM)
    return small_engine(world, EngineConfig(**settings), loss, name=optim, loss_lr_mult=5.0, loss_weight_decay=0.2)


def _train(engine: Engine, steps: range) -> list[float]:
    world = engine.module.world
    rows, numbers = range(len(LABELS))[world.share(len(LABELS))], []
    for step in steps:
        numbers.append(float(engine.backward([Batch.of_labels(images(step, rows), LABELS, step)])))
        engine.step(1.0 / (1 + step))
    return numbers


def _arrays(engine: Engine) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in engine.state().items()}


def _outcome(engine: Engine, steps: range = range(STEPS)) -> Outcome:
    return _train(engine, steps), _arrays(engine)


def _assert_same(found: Outcome, expected: Outcome) -> None:
    np.testing.assert_allclose(found[0], expected[0], rtol=2e-5)
    assert found[1].keys() == expected[1].keys()
    for name, value in expected[1].items():
        np.testing.assert_allclose(found[1][name], value, rtol=2e-5, atol=2e-6, err_msg=name)


def plain(world: World) -> dict[str, Outcome]:
    """The anchors as a parameter like any other."""
    return {optim: _outcome(_engine(world, shared=False, optim=optim)) for optim in ("adamw", "sgd")}


@pytest.fixture(scope="module")
def whole() -> dict[str, Outcome]:
    return run_world(1, plain)[0]


def _shared(world: World) -> tuple[list[Outcome], list[int]]:
    outcomes = [_outcome(_engine(world)), _outcome(_engine(world, optim="sgd")), _outcome(_engine(world, gradcache_chunk=2))]
    engine = _engine(world)
    assert not dict(engine.module.loss.named_parameters())
    _train(engine, range(1))
    share: RowsShare = engine.share
    [state] = share.optimizer.state.values()
    held = [len(share.rows["loss.anchors"]), len(state["exp_avg"]), len(state["exp_avg_sq"])]
    before = _arrays(engine)
    engine.module.net.projection.bias.data.fill_(torch.nan)
    assert not np.isfinite(_train(engine, range(1, 2))).any()
    np.testing.assert_array_equal(_arrays(engine)["model.loss.anchors"], before["model.loss.anchors"])
    return outcomes, held


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("size", [1, 2, 4])
def test_shares_are_as_good_as_the_whole(size: int, whole: dict[str, Outcome]) -> None:
    """Nine classes over four ranks are uneven shares, in blocks of two; each rank holds its own only."""
    answers = run_world(size, _shared)
    assert [held for _, held in answers] == [[len(part)] * 3 for part in np.array_split(range(CLASSES), size)]
    for outcomes, _ in answers:
        for found, optim in zip(outcomes, ("adamw", "sgd", "adamw"), strict=True):
            _assert_same(found, whole[optim])


def _part(world: World, state: dict[str, np.ndarray] | None, steps: range) -> Outcome:
    engine = _engine(world)
    if state is not None:
        engine.load({name: torch.from_numpy(np.array(array)) for name, array in state.items()})
    return _outcome(engine, steps)


@pytest.mark.slow
@pytest.mark.distributed
def test_a_run_goes_on_in_another_world(whole: dict[str, Outcome]) -> None:
    first = run_world(4, _part, None, range(1))[0]
    second = run_world(2, _part, first[1], range(1, 2))[0]
    third = run_world(1, _part, second[1], range(2, STEPS))[0]
    _assert_same((first[0] + second[0] + third[0], third[1]), whole["adamw"])


HEADS = {
    "sampled": CosFaceConfig(scale=8, sample_rate=0.4),
    "sub-centers, matryoshka": ArcFaceConfig(scale=8, sub_centers=2, matryoshka=(3,)),
}


def _heads(world: World) -> dict[str, Outcome]:
    """Softmax over shared centers, two steps with each optimizer, of which the second begins from the state of the first."""
    outcomes = {}
    for name, config in HEADS.items():
        for optim in ("adamw", "sgd"):
            engines = [_head(world, config, optim) for _ in range(2)]
            numbers = _train(engines[0], range(1))
            engines[1].load(engines[0].state())
            outcomes[f"{name}, {optim}"] = numbers + _train(engines[1], range(1, 2)), _arrays(engines[1])
    return outcomes


def _head(world: World, config: LossSettings, optim: str) -> Engine:
    class_rows.STEPPED = 2
    torch.manual_seed(8)
    loss = build_loss(config, CLASSES, DIM, world)
    return small_engine(world, EngineConfig(), loss, name=optim, loss_lr_mult=5.0, loss_weight_decay=0.2)


@pytest.mark.slow
@pytest.mark.distributed
def test_heads_do_not_depend_on_the_number_of_ranks() -> None:
    expected = run_world(1, _heads)[0]
    for size in (2, 4):
        for answer in run_world(size, _heads):
            for name, outcome in expected.items():
                _assert_same(answer[name], outcome)


def assert_stages_equal(world: World, file: Path, whole: Outcome) -> None:
    """A run goes from DDP to each stage of DeepSpeed, and back."""
    for stage in (0, 1, 2, 3):
        sharded = partial(_engine, world, kind="deepspeed", zero_stage=stage, deepspeed_config=file)
        for give, take in ((sharded, partial(_engine, world)), (partial(_engine, world), sharded)):
            first, second = give(), take()
            numbers = _train(first, range(1))
            second.load(first.state())
            _assert_same((numbers + _train(second, range(1, STEPS)), _arrays(second)), whole)


def _frozen(world: World, chunk: int | None) -> Outcome:
    """Of a network that does not learn, so that no engine has anything to average."""
    torch.manual_seed(8)
    module = build_module(world, build_loss(CosFaceConfig(), CLASSES, DIM, world))
    module.net.requires_grad_(False)
    before = {name: x.clone() for name, x in module.net.state_dict().items()}
    engine = build_engine(EngineConfig(gradcache_chunk=chunk), OptimConfig(lr=1e-2), module)
    outcome = _outcome(engine)
    assert all(x.equal(before[name]) for name, x in module.net.state_dict().items())
    module.net.projection.bias.data.fill_(torch.nan)
    engine.backward([Batch.of_labels(images(0, range(len(LABELS))[world.share(len(LABELS))]), LABELS, 0)])
    assert engine.step(1.0).skipped
    engine.load({name: torch.from_numpy(x) for name, x in outcome[1].items()})
    assert _arrays(engine)["model.loss.centers"].tolist() == outcome[1]["model.loss.centers"].tolist()
    return outcome


@pytest.mark.slow
@pytest.mark.distributed
def test_centers_learn_where_the_network_does_not() -> None:
    alone, chunked = run_world(1, _frozen, None)[0], run_world(2, _frozen, 2)[0]
    assert len({*alone[0]}) == STEPS
    _assert_same(chunked, alone)
