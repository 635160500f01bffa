"""Small evaluations: corpora with a ground truth, a tiny network, and runs in real worlds."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from largescale.commit import read_json
from largescale.corpus.config import ImagesConfig, LoaderConfig
from largescale.corpus.corpus import Corpus
from largescale.corpus.manifest import write_manifest
from largescale.distributed import World
from largescale.evaluation import EvaluateConfig, Results, evaluate
from largescale.models.build import build_network
from largescale.models.config import ModelConfig
from largescale.models.network import RetrievalNet
from largescale.models.weights import save_weights
from tests.corpora import make_corpus, write_corpus

SIZE = 48
LANDMARKS: list[dict[str, Any]] = [
    {"key": "000000", "box": [8, 4, 40, 30], "good": ["000001"], "ok": ["000002", "000000"], "junk": ["000003", "000010"]},
    {"key": "000004", "box": None, "good": ["000005", "000004"], "ok": ["000006"], "junk": ["000007"]},
]


def tiny_network(seed: int = 0) -> RetrievalNet:
    torch.manual_seed(seed)
    return build_network(ModelConfig(backbone="squeezenet1_1", projection=24))


def make_weights(path: Path, seed: int = 0) -> Path:
    save_weights(tiny_network(seed), path, {"step": 5})
    return path


def make_landmarks(directory: Path, **lists: Any) -> Path:
    """24 images of 6 landmarks; images 0 and 4 are queries with boxes, 1 to 3 and 5 to 7 are right."""
    make_corpus(directory, labels=6, per_label=4, shards=3, size=SIZE)
    add_ground_truth(directory, {"protocol": "oxford5k", "queries": LANDMARKS, "gallery": None, **lists})
    return directory


def shuffle_corpus(directory: Path, old: Path, shards: int) -> dict[str, str]:
    """The same images and labels in another order, labels under other numbers; `{new key: old key}`."""
    random, corpus = np.random.default_rng(0), Corpus.open(str(old))
    manifest, encoded = corpus.manifest, list(corpus.read(np.arange(len(corpus.manifest))))
    number = random.permutation(len(manifest.label_names))
    label = np.append(number, -1)[manifest.label]
    order = np.lexsort((random.random(len(label)), label, label < 0))  # those without label come last
    images = ((encoded[i], int(manifest.width[i]), int(manifest.height[i])) for i in order)
    names = [manifest.label_names[old].as_py() for old in np.argsort(number).tolist()]
    write_corpus(directory, images, label[order], shards, names=names)
    return {f"{new:06d}": manifest.keys[old].as_py() for new, old in enumerate(order.tolist())}


def add_ground_truth(directory: Path, ground_truth: Mapping[str, Any], pairs: Mapping[str, Any] | None = None) -> None:
    old = Corpus.open(str(directory)).manifest
    columns = {
        name: column.copy() if isinstance(column, np.ndarray) else column.to_pylist() for name, column in old.columns.items()
    }
    write_manifest(directory, old.name, old.shards, columns, old.label_names.to_pylist(), old.made, pairs, ground_truth)


def settings(out: Path, **values: Any) -> EvaluateConfig:
    values = {"batch_size": 4, "precision": "fp32"} | values
    return EvaluateConfig(out=out, images=ImagesConfig(size=SIZE), loader=LoaderConfig(workers=0), **values)


def evaluate_in_world(world: World, weights: Path, config: EvaluateConfig) -> Results:
    return evaluate(weights, config, world)


def what_was_found(directory: Path) -> dict[str, bytes | str]:
    """Results and records, without what differs between machines and times."""
    results = read_json(directory / "results.json")
    for name in ("machine", "seconds", "source"):
        del results[name]
    records = {path.name: path.read_bytes() for path in sorted(directory.glob("queries-*.jsonl"))}
    return {"results": json.dumps(results), **records}


@contextmanager
def alone() -> Iterator[World]:
    """A world of one process and one thread, in the process of the test; its environment and threads are put back."""
    environment, threads = dict(os.environ), torch.get_num_threads()
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        os.environ.pop(name, None)
    torch.set_num_threads(1)
    try:
        with World.start() as world:
            yield world
    finally:
        torch.set_num_threads(threads)
        os.environ.clear()
        os.environ.update(environment)
