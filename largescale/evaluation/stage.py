"""The steps of an evaluation: embed, seal, search, score. Each goes on where it was stopped."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from largescale.commit import DamagedError
from largescale.distributed import World
from largescale.evaluation.config import EvaluateConfig
from largescale.evaluation.context import Context, Network
from largescale.evaluation.descriptors.sizes import check_sizes
from largescale.evaluation.descriptors.store import describe
from largescale.evaluation.descriptors.store import seal as seal_all
from largescale.evaluation.report.leaving import leave_model
from largescale.evaluation.report.publish import clock, publish, timed
from largescale.evaluation.results import RESULTS, ProtocolResult, Results, read_results, records_fault
from largescale.evaluation.task import Task


def evaluate(network: Network, config: EvaluateConfig, world: World, should_stop: Callable[[], bool] = lambda: False) -> Results:
    """Score a network on the corpora of `config` and write the results to `config.out`.

    The network is left as it was, and so is the random state. Every rank of the world must call this with the same weights.

    Args:
        network: in memory, or what holds one (see `open_contents`); of the latter, `config.out / "model"` is left.
        should_stop: asked by each rank for itself while it embeds and searches; must not wait for other ranks.

    Returns:
        The same on every rank; what `config.out` holds where the same evaluation has been done before.

    Raises:
        UserError: corpora, ground truth or descriptors that cannot be scored.
        StoppedError: `should_stop` said so; the same call goes on later.
    """
    context = Context.open(network, config, world, should_stop)
    results = done(context)
    if results is not None:
        return results
    embed(context)
    seal(context)
    search(context)
    return score(context)


def embed_task(network: Network, config: EvaluateConfig, world: World, should_stop: Callable[[], bool] = lambda: False) -> Task:
    """What an evaluation searches, embedded, sealed and transformed but not scored; the descriptors stay in the store.

    Raises:
        UserError, StoppedError: as `evaluate`.
    """
    return embedded_task(Context.open(network, config, world, should_stop))


def embedded_task(context: Context) -> Task:
    """As `embed_task`."""
    embed(context)
    seal(context)
    return context.task


def embed(context: Context) -> None:
    """Describe the images that are not described yet.

    Raises:
        UserError: images, or boxes of queries, that are too small for the network.
        StoppedError: a stop was asked for; what is committed stays.
    """
    with clock(context.seconds, "embed"):
        check_images(context)
        for scales in context.sets.values():
            describe([context.network] * len(scales), scales, context.embedder, context.world)


def check_images(context: Context) -> None:
    """Raises: UserError: images, or boxes of queries, that are too small for the network at some scale."""
    for scales in context.sets.values():
        context.world.decide(partial(check_sizes, context.network, scales, context.config.images))


def seal(context: Context) -> None:
    """Check every row once.

    Raises:
        UserError: the list of what is missing or faulty.
    """
    with clock(context.seconds, "seal"):
        described = [one for scales in context.sets.values() for one in scales]
        seal_all(described, context.world, context.config.out)


def search(context: Context) -> None:
    """Count, for each query, what stands before its positives; keep its best rows."""
    with clock(context.seconds, "search"):
        context.search.run(context.world, context.should_stop)


def score(context: Context) -> Results:
    """From the counts on disk to `results.json`; the same on every rank."""
    wanted, world, out = context.search, context.world, context.config.out
    protocols = timed(context.seconds, "score", lambda: world.decide(lambda: wanted.score(out)))
    if not context.in_memory:
        world.decide(lambda: leave_model(context, protocols))
    return publish(context.task, protocols, context.subject, context.settings, context.tuned, world, out, context.seconds)


def measure(context: Context) -> list[ProtocolResult]:
    """The scores alone, for studies: no records, and no more of a query's best rows than expansion needs."""
    expansion, verification = context.rules.query_expansion, context.rules.verification
    kept = max(expansion.neighbors + 1 if expansion else 1, verification.first if verification else 1)
    wanted = replace(context.search, kept=kept)
    wanted.run(context.world, context.should_stop)
    return context.world.decide(wanted.score)


def done(context: Context) -> Results | None:
    """The results in OUT, where they are of this network, preprocessing, corpora, settings and protocols."""
    return context.world.decide(lambda: _take_done(context))


def _take_done(context: Context) -> Results | None:
    """Results of something else, or damaged ones, are removed."""
    if not (context.config.out / RESULTS).exists():
        return None
    try:
        plan, results = context.plan, read_results(context.config.out)
    except DamagedError:
        (context.config.out / RESULTS).unlink()
        return None
    used = [results.gallery, results.queries, *results.distractors]
    found = [results.digest, results.preprocess, [corpus.fingerprint for corpus in used], results.score, results.tuned]
    wanted = [corpus.manifest.fingerprint for corpus in (plan.gallery, plan.queries, *plan.distractors)]
    hashes = [protocol.hash for protocol in plan.protocols]
    asked = [context.subject.digest, context.subject.preprocess, wanted, context.settings, context.tuned]
    whole = not any(records_fault(context.config.out / x.records, x.records_checksum) for x in results.protocols)
    if whole and (found, [protocol.hash for protocol in results.protocols]) == (asked, hashes):
        return results
    (context.config.out / RESULTS).unlink()
    return None
