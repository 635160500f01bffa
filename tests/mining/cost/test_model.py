"""The cost model: its formulas, and that its rates can be measured. How well it predicts is measured by bench_service."""

import math
from dataclasses import asdict
from pathlib import Path

import pytest

from largescale.corpus.config import ImagesConfig
from largescale.corpus.corpus import Corpus
from largescale.distributed import World
from largescale.mining.config import PlanConfig
from largescale.mining.cost.model import Rates, estimate, table
from largescale.models.build import build_network
from largescale.models.config import ModelConfig
from tests.corpora import make_corpus
from tests.world import run_world

GPU = Rates(decode=300, forward=2000, search=5e14, network=1e10, cores=16, gpu=True)
CPU = Rates(decode=300, forward=20, search=5e10, network=1e9, cores=0.5)
LARGE = PlanConfig(pool=7_400_000, queries=200_000, dim=2048, ranks=32, descriptor_bytes=2)


def test_the_example_of_the_design() -> None:
    cost = estimate(LARGE, GPU)
    assert cost.images == 231_250
    assert cost.index_bytes == pytest.approx(0.947e9, rel=1e-3)
    assert cost.search_flops == pytest.approx(189.4e12, rel=1e-3)
    assert {stage.name: stage.bound for stage in cost.stages} == {
        "embed": "the neural network, on the GPU",
        "search": "the GPU",
        "exchange": "the links between ranks",
    }
    assert cost.stages[0].seconds == 231_250 / 2000
    assert cost.stages[1].seconds < 1
    assert cost.bound == "the neural network, on the GPU"
    assert cost.decode_cores == pytest.approx(2000 / 300)


def test_bytes_are_those_that_a_search_sends() -> None:
    """The number that tests/mining/test_index.py counts."""
    cost = estimate(PlanConfig(pool=32, queries=32, dim=8, ranks=4), CPU)
    assert cost.network_bytes == 3 * 8 * (8 * 4 + 2 * 8 + 8 + 5 * 24)
    assert estimate(PlanConfig(pool=32, queries=32, dim=8, ranks=1), CPU).network_bytes == 0


def test_what_grows_with_what() -> None:
    plan = PlanConfig(pool=100_000, queries=4000, dim=512, ranks=4)
    base = {stage.name: stage.seconds for stage in estimate(plan, CPU).stages}

    def ratios(**changed: int) -> dict[str, float]:
        found = estimate(plan.model_copy(update=changed), CPU)
        return {stage.name: stage.seconds / base[stage.name] for stage in found.stages}

    assert ratios(pool=200_000) == pytest.approx({"embed": 2, "search": 2, "exchange": 1})
    assert ratios(queries=8000) == pytest.approx({"embed": 1, "search": 2, "exchange": 2})
    assert ratios(dim=1024) == pytest.approx({"embed": 1, "search": 2, "exchange": (4096 + 144) / (2048 + 144)})
    assert ratios(ranks=8) == pytest.approx({"embed": 0.5, "search": 0.5, "exchange": 7 / 3 / 2})


def test_processors_decode_and_embed_in_turns_and_gpus_at_once() -> None:
    plan = PlanConfig(pool=6000)
    assert estimate(plan, CPU).stages[0].seconds == pytest.approx(6000 / 150 + 6000 / 10)
    assert estimate(plan, CPU).stages[0].bound == "the neural network, on the processor"
    few = Rates(**(asdict(GPU) | {"cores": 2}))
    assert estimate(plan, few).stages[0].seconds == 6000 / 600
    assert estimate(plan, few).stages[0].bound == "decoding"


def test_the_table_says_what_bounds_each_stage() -> None:
    text = table(LARGE, GPU)
    for said in (
        "images to embed    231,250",
        "6.67 needed, 16 there",
        "0.947 GB",
        "189.440 TFLOP",
        "115.62 s, bound by the neural network, on the GPU",
    ):
        assert said in text


def measured(world: World, corpus: Path) -> Rates:
    from largescale.mining.cost.calibration import measure

    network = build_network(ModelConfig(backbone="timm:test_resnet", weights="none"))
    plan = PlanConfig(dim=64, sample=16)
    return measure(plan, Corpus.open(str(corpus)), ImagesConfig(size=48), network, 8, world)


@pytest.mark.slow
@pytest.mark.distributed
def test_rates_are_measured_and_the_same_on_every_rank(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "corpus", size=48)
    one, two = run_world(2, measured, corpus)
    assert one == two
    assert all(math.isfinite(value) and value > 0 for name, value in asdict(one).items() if name != "gpu")
    assert one.decode > one.forward
