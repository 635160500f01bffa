"""How fast a network describes images in bf16: one batch that is there already, and all images of shards."""

import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from largescale.corpus.config import LoaderConfig
from largescale.corpus.corpus import Corpus
from largescale.corpus.loading import load_pass, parts_of
from largescale.embedding import Embedder, _embed_group
from largescale.models.build import build_network
from largescale.models.config import ModelConfig
from largescale.models.network import RetrievalNet
from tests.benchmarks.gpu.measure import Place, Row, flops_of, forget_memory, memory, peak, seconds, settle
from tests.benchmarks.gpu.pictures import corpus_of, images_of

GOAL = 0.4


def eager(place: Place) -> Iterator[Row]:
    return _embedding(place, "eager")


def compiled(place: Place) -> Iterator[Row]:
    return _embedding(place, "compiled")


def _embedding(place: Place, how: str) -> Iterator[Row]:
    network = build_network(ModelConfig(backbone=place.size.backbone, weights="none")).to(place.device).eval()
    flops = {side: flops_of(network, side, place.device) for side in place.size.sides}
    limit = peak(place.device)
    if how == "compiled":
        network.compile(backend=place.size.compiler, dynamic=False)
    torch.set_num_threads(1)  # as a pass has it; what is compiled is for a number of threads
    for side in place.size.sides:
        corpus = corpus_of(place, side)
        forget_memory(place.device)
        alone = place.size.batch / _seconds_of_batch(place, network, corpus, side)
        share = flops[side] * alone / limit
        goal = (f">= {GOAL:.0%} of the peak", share >= GOAL) if (side, how) == (362, "compiled") else ("", None)
        found = f"{alone:,.0f} images/s, {share:.0%} of the peak, {memory(place.device)}"
        yield Row(f"{side} px: embedding one batch, {how}", found, *goal)
        rate = _rate_of_shards(place, network, corpus, side)
        found = f"{rate:,.0f} images/s, {flops[side] * rate / limit:.0%} of the peak, waiting {max(0.0, 1 - rate / alone):.0%}"
        yield Row(f"{side} px: embedding from shards, {how}", f"{found}, {memory(place.device)}")


def _seconds_of_batch(place: Place, network: RetrievalNet, corpus: Corpus, side: int) -> float:
    parts = parts_of(corpus.manifest, np.arange(place.size.batch), place.size.batch)
    group = next(load_pass(corpus, parts, images_of(side), batch=place.size.batch, loader=LoaderConfig(workers=0)))
    there = replace(group, images=group.images.to(place.device))
    return seconds(partial(_embed_group, network, place.device, "bf16", lambda: there), place.device)


def _rate_of_shards(place: Place, network: RetrievalNet, corpus: Corpus, side: int) -> float:
    """Images/s after the first group, for which the loader's processes start."""
    embedder = Embedder(images_of(side), place.size.batch, LoaderConfig(), place.device, "bf16")
    groups = embedder.embed(network, corpus, np.arange(place.size.images))
    next(groups)
    settle(place.device)
    begun = time.perf_counter()
    images = sum(len(group.ids) for group in groups)
    settle(place.device)
    return images / (time.perf_counter() - begun)
