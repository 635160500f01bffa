"""What reads the images of a corpus: by id, by the steps of a plan, in whole passes. The names that programs of others import."""

from largescale.corpus.batches.batches import Group, Step
from largescale.corpus.corpus import Corpus
from largescale.corpus.loading import load_pass, load_steps, parts_of

__all__ = ["Corpus", "Group", "Step", "load_pass", "load_steps", "parts_of"]
