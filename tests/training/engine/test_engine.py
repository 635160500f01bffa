"""Both engines: the same results for every world, every stage and every split of a step."""

import json
import warnings
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from largescale.distributed import World
from largescale.losses.tuples.contrastive import ContrastiveLoss
from largescale.precision import Resolved
from largescale.settings import UserError
from largescale.training.engine.deepspeed import compose
from largescale.training.engine.engine import Engine
from largescale.training.settings.config import EngineConfig
from tests.laws import same
from tests.training.small import TUPLES, ProxyLoss, small_engine, train, tuple_batches
from tests.world import run_world

STEPS = range(4)


class Setting(NamedTuple):
    optim: str = "adamw"
    clip: float | None = None
    parts: int = 1
    chunk: int | None = None
    labels: bool = False
    precision: Resolved = "fp32"

    @property
    def rounding(self) -> float:
        """Most that a number may differ, as a share."""
        return 2e-5 if self.precision == "fp32" else 5e-2

    def engine(self, world: World, **settings: object) -> Engine:
        config = EngineConfig(max_grad_norm=self.clip, **settings)
        return small_engine(world, config, ProxyLoss() if self.labels else None, self.precision, name=self.optim)

    def outcome(self, world: World, **settings: object) -> "Outcome":
        """As it is set."""
        return _outcome(self.engine(world, gradient_accumulation=self.parts, gradcache_chunk=self.chunk, **settings), self.parts)

    def plain(self, world: World) -> "Outcome":
        """Without accumulation and chunks."""
        return _outcome(self.engine(world))


SETTINGS = [
    Setting(clip=0.05, parts=2),
    Setting("sgd", chunk=4),
    Setting(labels=True),
    Setting(clip=0.05, chunk=3, labels=True),
    Setting("sgd", chunk=3, precision="bf16"),
    Setting("sgd", labels=True, precision="bf16"),
]

Outcome = tuple[list[float], dict[str, np.ndarray]]
"""Losses and norms; the state as arrays, because tensors do not travel between processes."""


def _arrays(engine: Engine) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in engine.state().items()}


def _outcome(engine: Engine, parts: int = 1) -> Outcome:
    return train(engine, STEPS, parts), _arrays(engine)


def _assert_same(found: Outcome, expected: Outcome, rounding: float = Setting().rounding) -> None:
    np.testing.assert_allclose(found[0], expected[0], rtol=rounding)
    assert found[1].keys() == expected[1].keys()
    for name, value in expected[1].items():
        np.testing.assert_allclose(found[1][name], value, rtol=rounding, atol=rounding / 10, err_msg=name)


def _ddp(world: World) -> dict[int, Outcome]:
    """With as many ranks as leave each of them a tuple in every part."""
    fitting = {index: setting for index, setting in enumerate(SETTINGS) if setting.parts <= TUPLES // world.size}
    return {index: setting.outcome(world) for index, setting in fitting.items()}


@pytest.fixture(scope="module")
def alone() -> list[Outcome]:
    """What one process computes without accumulation and chunks."""
    return run_world(1, plain)[0]


def plain(world: World) -> list[Outcome]:
    return [setting.plain(world) for setting in SETTINGS]


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("size", [1, 2, 4])
def test_ddp_does_not_depend_on_world_or_split(size: int, alone: list[Outcome]) -> None:
    for outcomes in run_world(size, _ddp):
        for index, found in outcomes.items():
            _assert_same(found, alone[index], SETTINGS[index].rounding)


class _Faulty(ContrastiveLoss):
    """Adds `fault` on the last rank: an infinite loss whose own gradient is finite."""

    fault = 0.0

    def forward(self, *rows: Tensor) -> Tensor:
        last = torch.distributed.get_rank() == torch.distributed.get_world_size() - 1
        return super().forward(*rows) + (self.fault if last else 0.0)


def _skips(world: World, config: EngineConfig) -> None:
    engine = small_engine(world, config, _Faulty(0.7))
    train(engine, range(2))
    before = engine.state()
    for engine.module.loss.fault in (float("inf"), float("nan")):
        loss = engine.backward(tuple_batches(world, 2))
        assert not loss.isfinite()
        assert engine.step(1.0).skipped
    after = engine.state()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    engine.module.loss.fault = 0.0
    plain = small_engine(world)
    train(plain, range(2))
    np.testing.assert_allclose(train(engine, range(2, 4)), train(plain, range(2, 4)), rtol=2e-5)


@pytest.mark.slow
@pytest.mark.distributed
def test_ddp_skips_together() -> None:
    run_world(2, _skips, EngineConfig())


def _hand_over(give: Engine, take: Engine, reference: Outcome) -> None:
    """Half of the steps by one engine, the rest by another from its state."""
    first = train(give, STEPS[:2])
    state = give.state()
    take.load(state)
    assert same(take.state(), state)
    second = train(take, STEPS[2:])
    _assert_same((first + second, _arrays(take)), reference)


def assert_stages_equal(world: World, file: Path, alone: list[Outcome]) -> None:
    """Every stage of DeepSpeed computes what one process does, skips together, and goes on from DDP and for it."""
    first, second = world.gather(list({"exp_avg", "exp_avg_sq"}))
    assert first != second  # the ranks must share an order that no set gives them
    plain = _outcome(small_engine(world))
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)  # none that would reach a user's terminal
        _same_at_every_stage(world, file, alone, plain)


def _same_at_every_stage(world: World, file: Path, alone: list[Outcome], plain: Outcome) -> None:
    for stage in (0, 1, 2, 3):
        engine = partial(Setting().engine, world, kind="deepspeed", zero_stage=stage, deepspeed_config=file)
        for setting, expected in zip(SETTINGS, alone, strict=True):
            found = setting.outcome(world, kind="deepspeed", zero_stage=stage, deepspeed_config=file)
            _assert_same(found, expected, setting.rounding)
        _skips(world, EngineConfig(kind="deepspeed", zero_stage=stage, deepspeed_config=file))
        _hand_over(engine(), small_engine(world), plain)
        _hand_over(small_engine(world), engine(), plain)
        _hand_over(engine(), engine(), plain)
    _same_network(engine())


def _same_network(engine: Engine) -> None:
    """The network with whole weights is what the engine trains, and its forward pass needs no other rank."""
    train(engine, STEPS[:2])
    net = engine.network()
    weights = {name.removeprefix("model.net."): value for name, value in engine.state().items() if name.startswith("model.net.")}
    assert all(torch.equal(value, weights[name]) for name, value in net.state_dict().items())
    if engine.module.world.is_first:
        net(torch.zeros(2, 3, 8, 8))


def write_deepspeed_file(file: Path) -> Path:
    """Small tensors would stay whole at stage 3 without it."""
    file.write_text(json.dumps({"zero_optimization": {"stage3_param_persistence_threshold": 0}}))
    return file


def _near_in_bf16(world: World) -> None:
    """Losses and norms of bf16 are near those of fp32, and others; descriptors are in fp32."""
    rough = small_engine(world, precision="bf16")
    found, exact = train(rough, STEPS), train(small_engine(world), STEPS)
    assert found != exact
    np.testing.assert_allclose(found, exact, rtol=5e-2)
    assert rough.module.embed(tuple_batches(world, 0)[0].to(world.device)).dtype == torch.float32


@pytest.mark.distributed
def test_bf16_is_near_fp32() -> None:
    run_world(1, _near_in_bf16)


def _on_gpu(world: World, file: Path, alone: list[Outcome]) -> None:
    """fp32 as on the CPU, up to the order of sums; all engines the same; bf16 near it."""
    torch.backends.cudnn.allow_tf32 = False
    for setting, expected in zip(SETTINGS, alone, strict=True):
        exact = setting.outcome(world)
        np.testing.assert_allclose(exact[0], expected[0], rtol=max(1e-3, setting.rounding))
        for stage in (0, 1, 2, 3):
            _assert_same(
                setting.outcome(world, kind="deepspeed", zero_stage=stage, deepspeed_config=file), exact, setting.rounding
            )
    _near_in_bf16(world)


@pytest.mark.distributed
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_equals_cpu(tmp_path: Path, alone: list[Outcome]) -> None:
    run_world(1, _on_gpu, write_deepspeed_file(tmp_path / "deepspeed.json"), alone, gpu=True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"gradient_clipping": 1.0}', "gradient_clipping, which engine.max_grad_norm decides"),
        ('{"bf16": {"enabled": true}}', "bf16, which precision decides"),
        ('{"zero_optimization": {"stage": 3}}', r"zero_optimization.stage=3, engine.zero_stage=2"),
        ("{", "not a readable JSON file"),
    ],
)
def test_contradicting_deepspeed_files_are_errors(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "deepspeed.json"
    file.write_text(content)
    with pytest.raises(UserError, match=message):
        compose(EngineConfig(kind="deepspeed", zero_stage=2, deepspeed_config=file))


def test_deepspeed_file_adds_to_ours(tmp_path: Path) -> None:
    file = tmp_path / "deepspeed.json"
    file.write_text('{"zero_optimization": {"overlap_comm": true, "stage": 2}, "wall_clock_breakdown": true}')
    composed = compose(
        EngineConfig(kind="deepspeed", zero_stage=2, max_grad_norm=0.5, gradient_accumulation=3, deepspeed_config=file)
    )
    assert composed["zero_optimization"] == {"overlap_comm": True, "stage": 2}
    assert composed["wall_clock_breakdown"] is True
    assert composed["gradient_clipping"] == 0.5
    assert composed["gradient_accumulation_steps"] == 3
    with pytest.raises(ValueError, match="would be ignored"):
        EngineConfig(deepspeed_config=file)
