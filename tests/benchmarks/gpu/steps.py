"""How fast a network trains in bf16, with loss and update: steps on one batch that is there already, and steps from shards."""

import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from largescale.corpus.batches.batches import Step
from largescale.corpus.config import LoaderConfig
from largescale.corpus.corpus import Corpus
from largescale.corpus.loading import load_steps
from largescale.distributed import World
from largescale.losses.tuples.contrastive import ContrastiveLoss
from largescale.models.build import build_network
from largescale.models.config import ModelConfig
from largescale.models.network import RetrievalNet
from largescale.training.engine.build import build_engine
from largescale.training.engine.engine import Engine
from largescale.training.engine.recompute import recompute
from largescale.training.engine.step_module import Batch, StepModule
from largescale.training.settings.config import EngineConfig, OptimConfig
from tests.benchmarks.gpu.measure import Place, Row, flops_of, forget_memory, memory, peak, seconds, settle
from tests.benchmarks.gpu.pictures import corpus_of, images_of

GOAL = 0.35
WIDTH = 8
"""Images of a tuple."""


def eager(place: Place) -> Iterator[Row]:
    with World.start() as world:
        yield from _training(place, world, "eager")
        yield _recomputing(place, world)


def compiled(place: Place) -> Iterator[Row]:
    with World.start() as world:
        yield from _training(place, world, "compiled")


def _training(place: Place, world: World, how: str) -> Iterator[Row]:
    engine, flops, limit = _engine(place, world), _flops(place), peak(place.device)
    if how == "compiled":  # the engine does not: here it is the network that is compiled, after its first step in eager mode
        _step(engine, _batch(place, corpus_of(place, place.size.sides[0]), place.size.sides[0]))
        engine.module.net.compile(backend=place.size.compiler, dynamic=False)
    for side in place.size.sides:
        corpus = corpus_of(place, side)
        forget_memory(place.device)
        batch = _batch(place, corpus, side)
        alone = place.size.batch / seconds(partial(_step, engine, batch), place.device)
        share = flops[side] * alone / limit
        goal = (f">= {GOAL:.0%} of the peak", share >= GOAL) if (side, how) == (362, "eager") else ("", None)
        found = f"{alone:,.0f} images/s, {share:.0%} of the peak, {memory(place.device)}"
        yield Row(f"{side} px: training on one batch, {how}", found, *goal)
        rate, waiting = _rate_of_shards(place, engine, corpus, side)
        found = f"{rate:,.0f} images/s, {flops[side] * rate / limit:.0%} of the peak, waiting {waiting:.0%}"
        yield Row(f"{side} px: training from shards, {how}", f"{found}, {memory(place.device)}")


def _recomputing(place: Place, world: World) -> Row:
    side = place.size.sides[-1]
    engine, batch = _engine(place, world, recomputing=True), _batch(place, corpus_of(place, side), side)
    forget_memory(place.device)
    alone = place.size.batch / seconds(partial(_step, engine, batch), place.device)
    return Row(f"{side} px: training on one batch, recomputing", f"{alone:,.0f} images/s, {memory(place.device)}")


def _network(place: Place) -> RetrievalNet:
    return build_network(ModelConfig(backbone=place.size.backbone, weights="none"))


def _flops(place: Place) -> dict[int, int]:
    """Of one image forward and backward, by its side."""
    network = _network(place)
    return {side: 3 * flops_of(network, side, torch.device("cpu")) for side in place.size.sides}


def _engine(place: Place, world: World, recomputing: bool = False) -> Engine:
    network = _network(place)
    if recomputing:
        recompute(network.backbone)
    return build_engine(EngineConfig(), OptimConfig(), StepModule(network, ContrastiveLoss(0.7), world, "bf16"))


def _step(engine: Engine, images: Step) -> None:
    tuples = len(images.ids) // WIDTH
    engine.backward(Batch.of_tuples(images, tuples, tuples, seed=0).split(1))
    engine.step(1.0)


def _batch(place: Place, corpus: Corpus, side: int) -> Step:
    """The first images of a corpus, on the device."""
    ids = np.arange(place.size.batch)[None]
    [step] = load_steps(corpus, ids, images_of(side), epoch=0, seed=0, loader=LoaderConfig(workers=0))
    return replace(step, groups=[group.to(place.device) for group in step.groups])


def _rate_of_shards(place: Place, engine: Engine, corpus: Corpus, side: int) -> tuple[float, float]:
    """Images/s and the share of the time in which there is no step to compute; of a pass over the corpus, whose first quarter
    does not count: the loader's processes start, and prefetch."""
    columns = np.random.default_rng(0).permutation(place.size.images).reshape(-1, place.size.batch)
    steps = load_steps(corpus, columns, images_of(side), epoch=0, seed=0, loader=LoaderConfig())
    waited, begun = 0.0, time.perf_counter()
    for number in range(len(columns)):
        if number == len(columns) // 4:
            waited, begun = 0.0, time.perf_counter()
        asked = time.perf_counter()
        images = next(steps)
        waited += time.perf_counter() - asked
        _step(engine, images)
        settle(place.device)
    taken = time.perf_counter() - begun
    return (len(columns) - len(columns) // 4) * place.size.batch / taken, waited / taken
