"""What a GPU computes beside what the CPU does of the same: descriptors, their scores, whitenings; what learns is in `learning`.

n images, D dimensions
"""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from largescale.corpus.config import LoaderConfig
from largescale.corpus.corpus import Corpus
from largescale.corpus.loading import load_pass, parts_of
from largescale.distributed import World, gather_with_gradient
from largescale.embedding import Embedder
from largescale.evaluation.protocol.protocols import LEAVE_ONE_OUT
from largescale.evaluation.protocol.relevance import GalleryRows
from largescale.evaluation.scoring.scores import count_average_precision
from largescale.models.build import build_network
from largescale.models.config import ModelConfig
from largescale.models.network import RetrievalNet
from largescale.models.transform.fused import Network
from largescale.models.transform.multiscale import SCALES, AtScales, merge_scales
from largescale.models.whitening import LearnedWhitening, PCAWhitening, Whitening
from largescale.precision import Resolved
from tests.benchmarks.gpu.learning import gradients, losses
from tests.benchmarks.gpu.measure import Place, Row, at_most
from tests.benchmarks.gpu.pictures import DIFFERENT, PER_LABEL, corpus_of, images_of

CPU = torch.device("cpu")
LEAST_COSINE: dict[Resolved, float] = {"fp32": 0.9999, "bf16": 0.999}
MOST_POINTS = 0.5
ROWS, DIM = 4096, 64
SIMILAR = 256
"""Whitened rows that are compared with each other: the sign of a direction means nothing."""


def world_of_one(place: Place) -> Iterator[Row]:
    """On the device's backend: sums, decisions, the differentiable gather."""
    with World.start() as world:
        x = torch.ones(3, 2, device=world.device, requires_grad=True)
        gather_with_gradient(x).sum().backward()
        told = world.sum(2.0) == [2.0] and world.decide(lambda: 1) == 1
        right = told and x.grad is not None and bool((x.grad == 1).all())
        backend = torch.distributed.get_backend()
        yield Row(f"{backend} world of one: sums, decisions, gather", "right" if right else "WRONG", "right", right)


def with_cpu(place: Place) -> Iterator[Row]:
    """Everything beside the CPU in fp32, without TF32 on the GPU, so that fp32 is what it says."""
    torch.backends.cudnn.allow_tf32 = False
    yield from _descriptors(place)
    yield from losses(place)
    with World.start() as world:
        yield from _whitenings(world)
        yield from gradients(place, world)


def _descriptors(place: Place) -> Iterator[Row]:
    """At one scale and at three, and what the evaluation says of those at three, whose search is the CPU's in either case."""
    network, corpus = _network(place), corpus_of(place, place.size.sides[0])
    for name, described in (("embedding", network), ("three scales", AtScales([network] * len(SCALES), SCALES))):
        exact = _rows_by_torch(place, described, corpus)
        found = {kind: _rows(place, described, corpus, kind) for kind in LEAST_COSINE}
        for kind, least in LEAST_COSINE.items():
            cosine = float(nn.functional.cosine_similarity(exact, found[kind]).min())
            yield _at_least(f"{name} in {kind} beside the CPU's, smallest cosine", cosine, least)
    one, other = _mean_average_precision(exact), _mean_average_precision(found["fp32"])
    same = abs(one - other) <= MOST_POINTS
    yield Row("evaluation of three scales in fp32, mAP beside the CPU's", f"{other:.2f}, {one:.2f}", f"+- {MOST_POINTS}", same)


def _rows_by_torch(place: Place, network: Network, corpus: Corpus) -> Tensor:
    """`(n, D)` of the pictures that differ, scales merged, in the order of their ids: layer by layer on the CPU."""
    batch, normalize = place.size.batch, network.contract.normalize
    parts = parts_of(corpus.manifest, _different(place), batch)
    groups = load_pass(corpus, parts, images_of(place.size.sides[0]), batch=batch, loader=LoaderConfig(workers=0))
    with torch.no_grad():
        return _merged(torch.cat([network.to(CPU)(normalize(group.images)) for group in groups]))


def _rows(place: Place, network: Network, corpus: Corpus, precision: Resolved) -> Tensor:
    """The same by a pass as the project makes it."""
    embedder = Embedder(images_of(place.size.sides[0]), place.size.batch, LoaderConfig(), place.device, precision)
    groups = list(embedder.embed(network.to(place.device), corpus, _different(place)))
    order = np.argsort(np.concatenate([group.ids for group in groups]))
    return _merged(torch.cat([group.descriptors for group in groups]).cpu()[order])


def _different(place: Place) -> np.ndarray:
    return np.arange(min(DIFFERENT, place.size.images))


def _merged(rows: Tensor) -> Tensor:
    return merge_scales(rows.swapaxes(0, 1)) if rows.ndim == 3 else rows


def _mean_average_precision(rows: Tensor) -> float:
    """In percent, of `(n, D)`: each picture is a query."""
    labels, own = np.arange(len(rows)) // PER_LABEL, np.arange(len(rows))
    same = [np.flatnonzero((labels == labels[query]) & (own != query)).tolist() for query in own]
    truth = [{"same label": right, "own image": [query]} for query, right in enumerate(same)]
    scores = count_average_precision(rows.numpy(), GalleryRows.of(rows.numpy()), truth, LEAVE_ONE_OUT)
    return 100 * scores.mean[LEAVE_ONE_OUT.main]


def _whitenings(world: World) -> Iterator[Row]:
    """Fitted on the device, and by the world on rows in the memory of the node, as a projection begins."""
    x = torch.randn(ROWS, DIM, generator=torch.Generator().manual_seed(0)) * torch.linspace(0.1, 2, DIM)
    pairs = torch.arange(ROWS).view(2, -1).numpy()
    fits: dict[str, Callable[..., Whitening]] = {"pca": PCAWhitening.fit, "learned": LearnedWhitening.fit}
    for name, fit in fits.items():
        more = pairs if name == "learned" else ()
        expected = fit(x, *more).apply(x[:SIMILAR])
        for where, fitted in (
            ("the device", fit(x.to(world.device), *more)),
            ("the node, by the world", fit(x.numpy(), *more, world=world)),
        ):
            found = fitted.apply(x[:SIMILAR].to(world.device)).cpu()
            apart = float((found @ found.T - expected @ expected.T).abs().max())
            yield at_most(f"{name} whitening fitted on {where}: similarities apart from the CPU's", apart, 1e-4)


def _network(place: Place) -> RetrievalNet:
    torch.manual_seed(0)
    return build_network(ModelConfig(backbone=place.size.backbone, weights="none")).eval()


def _at_least(what: str, found: float, least: float) -> Row:
    return Row(what, f"{found:.6f}", f">= {least}", found >= least)
