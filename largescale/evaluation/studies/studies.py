"""What launch/study.py measures, by name."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from largescale.corpus.corpus import Corpus
from largescale.distributed import World
from largescale.evaluation.context import Context
from largescale.evaluation.plan import EvaluationPlan
from largescale.evaluation.report.study import Cell, Study
from largescale.evaluation.stage import embed_task, embedded_task
from largescale.evaluation.studies import decomposability as gap
from largescale.evaluation.studies import two_stage, variants
from largescale.evaluation.studies.config import AnchorsConfig, DecomposabilityConfig, LeaksConfig, StudyConfig
from largescale.evaluation.studies.hashes import Hashes, hash_corpus, read_hashes
from largescale.evaluation.studies.leaks import Pairs, Used, find_by_descriptor, find_by_hash
from largescale.evaluation.task import Task
from largescale.models.metric import Space
from largescale.models.sharing.folder import Contents
from largescale.models.sharing.sources import Source, open_contents


@dataclass(frozen=True)
class StudyContext:
    """Embeds what a study needs, on all ranks; what is in the store already is not embedded again."""

    config: StudyConfig
    world: World
    should_stop: Callable[[], bool] = lambda: False

    @property
    def source(self) -> Source:
        assert self.config.subject is not None
        return self.config.subject

    def contents(self) -> Contents:
        contents, _ = open_contents(self.source)
        contents.network.to(self.world.device)
        return contents

    def task(self, of: Source | None = None) -> Task:
        return embed_task(of or self.source, self.config, self.world, self.should_stop)


def two_stage_search(config: AnchorsConfig, context: StudyContext) -> Study:
    evaluation = Context.open(context.source, config, context.world, context.should_stop)
    anchors = evaluation.anchors(config.anchors)
    task = embedded_task(evaluation)
    return context.world.decide(lambda: two_stage.measure_task(task, anchors, config.probes))


def decomposability(config: DecomposabilityConfig, context: StudyContext) -> Study:
    networks = []
    for source in (context.source, *config.against):
        task = context.task(source)
        networks.append((Path(str(source)), np.concatenate(task.gallery.parts).astype(np.float32), task.space))
    manifest = EvaluationPlan.open(config).gallery.manifest
    return context.world.decide(lambda: gap.measure(networks, manifest, config.sizes, config.sample))


def leaks(config: LeaksConfig, context: StudyContext) -> Study:
    """Ranks share the training corpus; each compares its part with all that an evaluation uses."""
    world, store = context.world, config.store or config.out / "descriptors"
    trained = Corpus.open(config.training, config.storage)
    used, of_training, space = _used_and_trained(config, context)
    for corpus in (trained, *(images.corpus for images in used)):
        hash_corpus(corpus, store, world, context.should_stop)
    count = len(trained.manifest.shards)
    shards = range(count)[world.share(count)]
    hashes, first = read_hashes(trained, store, shards), int(trained.manifest.shard_start[shards.start])
    rows: list[dict[str, Cell]] = []
    for images in used:
        pairs, ours = Pairs(), read_hashes(images.corpus, store, range(len(images.corpus.manifest.shards)))
        find_by_hash(pairs, Hashes(ours.table[images.ids]), hashes, config.bits, first)
        find_by_descriptor(pairs, images.rows, of_training[shards.start : shards.stop], config.similarity, first, space)
        everyone = {key: pair for of_rank in world.gather(pairs.found) for key, pair in of_rank.items()}
        rows += [images.listed(pair, trained) for pair in Pairs(everyone).sorted()]
    found = {images.role: {row["image"] for row in rows if row["used as"] == images.role} for images in used}
    note = f"Images with near-duplicates in {config.training}: " + ", ".join(
        f"{len(x):,} of the {role}" for role, x in found.items()
    )
    return Study("leaks", "Near-duplicates in the training corpus", note, rows)


def _used_and_trained(config: LeaksConfig, context: StudyContext) -> tuple[list[Used], Sequence[np.ndarray], Space]:
    """What the evaluation uses, and the descriptors of the training corpus, shard by shard; how they are compared."""
    plan = EvaluationPlan.open(config)
    both = config.model_copy(update={"distractors": (*config.distractors, config.training)})
    task = embed_task(context.source, both, context.world, context.should_stop)
    used = [Used("gallery", plan.gallery, np.arange(len(task.gallery)), task.gallery.parts)]
    if not plan.leave_one_out:
        used.append(Used("queries", plan.queries, task.truth.query, [task.rows(slice(0, len(task.truth.query)))]))
    for number, (corpus, described) in enumerate(zip(plan.distractors, task.distractors, strict=False)):
        used.append(Used(f"distractors {number + 1}", corpus, np.arange(len(described)), described.parts))
    return used, task.distractors[-1].parts, task.space


def of_variants(measure: Callable[[Any, Contents, World, Callable[[], bool]], Study]) -> Callable[[Any, StudyContext], Study]:
    return lambda config, context: measure(config, context.contents(), context.world, context.should_stop)


studies: Mapping[str, Callable[[Any, StudyContext], Study]] = {
    "anchors": two_stage_search,
    "decomposability": decomposability,
    "distractors": of_variants(variants.distractors),
    "leaks": leaks,
    "neighbors": of_variants(variants.neighbors),
    "pooling": of_variants(variants.pooling),
    "scales": of_variants(variants.scales),
}
