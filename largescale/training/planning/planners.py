"""From the plan of an epoch to the batches of a rank: tuples with mined negatives, or labels.

S steps of an epoch, T tuples of a step, N negatives, P labels, K images of a label, n images of a step on this rank.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import torch
from scipy import sparse

from largescale.corpus.batches.batches import Step
from largescale.corpus.config import LabelPlanConfig, TuplePlanConfig
from largescale.corpus.corpus import Corpus
from largescale.corpus.plan import Tuples, check_clusters, plan_tuples
from largescale.corpus.samplers import plan_askers, plan_labels, steps_of_epoch
from largescale.distributed import StopSignal, World
from largescale.embedding import Embedder
from largescale.losses.settings.tuples import InfoNCEConfig, LRMLConfig
from largescale.mining import Miner, MiningConfig
from largescale.mining.near_labels import near_labels, nearness
from largescale.mining.search.select import cluster_keys
from largescale.mining.stored import StoredPool
from largescale.precision import resolve
from largescale.settings import UserError
from largescale.training.engine.step_module import Batch
from largescale.training.planning.negatives import Evaluated, negatives_of
from largescale.training.planning.positives import NearestPositives
from largescale.training.planning.stored_negatives import StoredNegatives
from largescale.training.planning.teacher import PublishedTeacher, Teacher
from largescale.training.progress import Progress
from largescale.training.settings.recipe import TrainConfig


class EpochPlan(Protocol):
    """The steps of an epoch, as one rank sees them."""

    @property
    def columns(self) -> np.ndarray:
        """`(S, n)` image ids that this rank reads."""
        ...

    @property
    def statistics(self) -> Mapping[str, float]:
        """What is known of the plan, to be logged where an epoch begins; the same on every rank."""
        ...

    def batch(self, images: Step, index: int, seed: int) -> Batch:
        """The images of step `index` as the step module wants them."""
        ...


@dataclass(frozen=True)
class TuplePlan:
    columns: np.ndarray
    tuples: int
    """Tuples of a step on this rank."""
    total: int
    """Tuples of a step."""
    first: int
    """Place of this rank's first tuple in a step."""
    classes: np.ndarray | None = None
    """`(S, total, 2 + N)` clusters of all images of a step, where the loss compares with other tuples."""
    teacher: Teacher | PublishedTeacher | None = None
    stored: StoredNegatives | None = None
    statistics: Mapping[str, float] = field(default_factory=dict)

    def batch(self, images: Step, index: int, seed: int) -> Batch:
        extra = {} if self.teacher is None else {"distances": self.teacher.distances(images, self.tuples)}
        batch = replace(Batch.of_tuples(images, self.tuples, self.total, seed, extra), first=self.first)
        if self.classes is not None:
            batch = replace(batch, classes=torch.from_numpy(self.classes[index]).long())
        if self.stored is None:
            return batch
        further = self.stored.rows(index * self.total + self.first + np.arange(self.tuples))
        return replace(batch, stored=self.stored.descriptors, further=further)


@dataclass(frozen=True)
class LabelPlan:
    columns: np.ndarray
    labels: np.ndarray
    """`(S, P * K)` labels of the whole step."""
    statistics: Mapping[str, float] = field(default_factory=dict)

    def batch(self, images: Step, index: int, seed: int) -> Batch:
        return Batch.of_labels(images, torch.from_numpy(self.labels[index]).long(), seed)


class Planner(Protocol):
    """Makes the plan of each epoch."""

    steps: int
    """Steps of an epoch."""
    images: int
    """Images of a step, over all ranks."""

    def plan(self, progress: Progress, network: Evaluated) -> EpochPlan | None:
        """The plan of the epoch that a run is in; None when the run was asked to stop before it was made.

        Args:
            network: gives the one that mines; called by all ranks together, where it is needed at all.
        """
        ...

    def sample(self, dim: int) -> EpochPlan:
        """A plan with the shapes of a real one, to try a step before any mining; `dim` of a descriptor."""
        ...


class TuplePlanner:
    """Queries and positives from the corpus, negatives from the miner."""

    def __init__(
        self,
        plan: TuplePlanConfig,
        seed: int,
        miner: Miner,
        teacher: Teacher | PublishedTeacher | None = None,
        in_batch: bool = False,
    ) -> None:
        check_clusters(miner.corpus.manifest, miner.config.negatives)
        self.config, self.seed, self.miner, self.teacher = plan, seed, miner, teacher
        self.in_batch = in_batch
        self.steps = len(self._tuples(0).queries) // plan.per_step
        self.images = plan.per_step * (2 + miner.config.negatives)

    def plan(self, progress: Progress, network: Evaluated) -> TuplePlan | None:
        tuples = self._with_positives(progress, network, self._tuples(progress.epoch))
        generation = None if tuples is None else negatives_of(self.miner, progress, network, tuples)
        if tuples is None or generation is None:
            return None
        if self.teacher is not None:
            self.teacher.prepare(tuples.queries)
        stored = self._stored(generation.stored, tuples)
        further = {} if stored is None else {"stored": stored.count}
        return replace(self._share(tuples, generation.negatives, stored), statistics={**generation.statistics, **further})

    def sample(self, dim: int) -> TuplePlan:
        tuples, config = self._tuples(0), self.miner.config
        images = len(self.miner.corpus.manifest)
        ids = np.linspace(0, images - 1, min(config.stored, images)).astype(np.int64)
        stored = StoredPool(ids, ids, np.zeros((len(ids), dim), np.float32)) if config.stored else None
        negatives = np.zeros((len(tuples.queries), config.negatives), np.int64)
        plan = self._share(tuples, negatives, self._stored(stored, tuples))
        return replace(plan, teacher=None) if isinstance(self.teacher, PublishedTeacher) else plan  # it would describe the corpus

    def _with_positives(self, progress: Progress, network: Evaluated, tuples: Tuples) -> Tuples | None:
        """The positives that follow from the weights at the epoch boundary; those that follow from the corpus stay."""
        if tuples.candidates is None:
            return tuples
        return NearestPositives(self.miner).choose(
            network(), tuples, progress.epoch, progress.boundary, resumed=progress.done > 0
        )

    def _stored(self, stored: StoredPool | None, tuples: Tuples) -> StoredNegatives | None:
        if stored is None:
            return None
        miner = self.miner
        return StoredNegatives(stored, miner.corpus.manifest, tuples, miner.config.stored, miner.world.device)

    def _share(self, tuples: Tuples, negatives: np.ndarray, stored: StoredNegatives | None) -> TuplePlan:
        steps = tuples.steps(negatives)  # (S, T, 2 + N)
        share = self.miner.world.share(steps.shape[1])
        own = steps[:, share]
        classes = cluster_keys(self.miner.corpus.manifest.label[steps], steps) if self.in_batch else None
        return TuplePlan(own.reshape(len(own), -1), own.shape[1], steps.shape[1], share.start, classes, self.teacher, stored)

    def _tuples(self, epoch: int) -> Tuples:
        return plan_tuples(self.miner.corpus.manifest, self.config, self.seed, epoch)


class LabelPlanner:
    """Batches of P labels with K images each: random labels, or with a miner labels that are alike."""

    def __init__(self, plan: LabelPlanConfig, seed: int, world: World, corpus: Corpus, miner: Miner | None = None) -> None:
        if miner is not None:
            check_clusters(corpus.manifest, miner.config.negatives)
        self.steps = steps_of_epoch(corpus.manifest, plan, seed)
        # every epoch has so many, whatever a pass of its own would make
        self.config = plan if plan.super_pairs else plan.model_copy(update={"per_epoch": self.steps})
        self.seed, self.world, self.corpus, self.miner = seed, world, corpus, miner
        self.images = plan.classes_per_batch * plan.images_per_class

    def plan(self, progress: Progress, network: Evaluated) -> LabelPlan | None:
        if self.miner is None:
            return self._share(progress.epoch)
        manifest = self.corpus.manifest
        askers = plan_askers(manifest, self.config, self.seed, progress.epoch)
        generation = negatives_of(self.miner, progress, network, askers, by_label=True)
        if generation is None:
            return None
        near = near_labels(manifest, generation)
        plan = self._share(progress.epoch, near)
        together = nearness(near, plan.labels, self.config.images_per_class)
        return replace(plan, statistics={**generation.statistics, "near_labels": together})

    def _share(self, epoch: int, near: sparse.csr_matrix | None = None) -> LabelPlan:
        manifest = self.corpus.manifest
        ids = plan_labels(manifest, self.config, self.seed, epoch, near).steps  # (S, P * K)
        return LabelPlan(ids[:, self.world.share(ids.shape[1])], manifest.label[ids])

    def sample(self, dim: int) -> LabelPlan:
        return self._share(0)


def build_planner(config: TrainConfig, world: World, corpus: Corpus, signal: StopSignal) -> Planner:
    """What the loss needs: tuples with mined negatives, or batches of labels."""
    miner = None if config.mining is None else _miner(config, config.mining, world, corpus, signal)
    if config.batches is not None:
        return LabelPlanner(config.batches, config.seed, world, corpus, miner)
    assert config.tuples is not None
    assert miner is not None
    teacher = _teacher(config, config.loss, world, corpus) if isinstance(config.loss, LRMLConfig) else None
    in_batch = isinstance(config.loss, InfoNCEConfig) and config.loss.in_batch
    return TuplePlanner(config.tuples, config.seed, miner, teacher, in_batch)


def _miner(config: TrainConfig, mining: MiningConfig, world: World, corpus: Corpus, signal: StopSignal) -> Miner:
    settings = mining.batch_size, config.loader, config.precision
    embedder = Embedder.in_world(world, config.images, *settings, should_stop=lambda: signal.received)
    return Miner(mining, corpus, world, embedder, config.directory, seed=config.seed, bad_images=config.bad_images)


def _teacher(config: TrainConfig, loss: LRMLConfig, world: World, corpus: Corpus) -> Teacher | PublishedTeacher | None:
    if loss.teacher is None:
        return None
    precision = resolve(config.precision, world.device)
    if loss.teacher.is_dir():
        store = config.directory / "teacher"
        return PublishedTeacher(loss.teacher, loss.teacher_neighbors, loss.ranking, world, corpus, store, precision)
    if loss.teacher_neighbors:
        raise UserError(
            f"loss.teacher_neighbors={loss.teacher_neighbors} looks among descriptors of the corpus, which a model folder makes; "
            f"{loss.teacher} is none: give one, or use loss.teacher_neighbors=0"
        )
    return Teacher(loss.teacher, loss.ranking, world, precision)


def step_seed(seed: int, step: int) -> int:
    """Of the random numbers in a step, so that a resumed run draws the same."""
    return int(np.random.SeedSequence([seed, step]).generate_state(1)[0])
