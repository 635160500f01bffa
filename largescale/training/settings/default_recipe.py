"""What a run without a recipe takes: labels.yaml for a corpus that has labels and no pairs; else the defaults of the settings."""

import logging
from collections.abc import Sequence

import numpy as np
from pydantic import ConfigDict

from largescale.config import load, read_yaml
from largescale.corpus.config import StorageConfig
from largescale.corpus.default import only_corpus
from largescale.corpus.manifest import Manifest
from largescale.corpus.storage.storage import open_storage
from largescale.program.cli import recipe
from largescale.program.logs import ONCE
from largescale.settings import Settings

log = logging.getLogger(__name__)

LABELS = recipe("labels")
CHOICES = ("loss", "tuples", "mining")
"""Settings with which a user has chosen what to learn from."""


class _Where(Settings):
    model_config = ConfigDict(extra="ignore")

    corpus: str | None = None
    storage: StorageConfig = StorageConfig()


def with_default_recipe(arguments: Sequence[str]) -> list[str]:
    """The arguments, behind the recipe for labels where they neither name one nor say what to learn from.

    A corpus with few labels gets batches of all of them, with as many more images of each.
    """
    files, settings = ([a for a in arguments if ("=" in a) == given] for given in (False, True))
    if files or any(a.partition("=")[0].partition(".")[0] in CHOICES for a in settings):
        return list(arguments)
    where = load(_Where, settings)
    location = where.corpus or only_corpus()
    if location is None:  # the demo corpus, which has pairs, will be made
        return list(arguments)
    manifest = Manifest.open(open_storage(location, where.storage))
    labels = usable_labels(manifest)
    if manifest.pairs is not None or labels < 2:
        return list(arguments)
    taken = [str(LABELS), *_fewer(labels)]
    log.info("%s has labels and no pairs: taking the recipe %s", location, " ".join(taken), extra=ONCE)
    return [*taken, *arguments]


def usable_labels(manifest: Manifest) -> int:
    """How many labels have two or more images."""
    return int((np.unique(manifest.label[manifest.label >= 0], return_counts=True)[1] >= 2).sum())


def _fewer(labels: int) -> list[str]:
    batches = read_yaml(LABELS)["batches"]
    P, K = batches["classes_per_batch"], batches["images_per_class"]
    return [] if labels >= P else [f"batches.classes_per_batch={labels}", f"batches.images_per_class={P * K // labels}"]
