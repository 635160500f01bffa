"""Flips of single bytes in every kind of file that the project writes and believes later.

A flip is refused (a sentence), repaired (the older whole state, or the same made again), harmless (what is read is the same),
or one of the two that must not be: altered without a word, or ended in a traceback.
"""

import os
import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from largescale.commit import OWNER, checksum_of, claim_folder, read_array, write_array, write_json, write_sealed
from largescale.config import load, to_yaml
from largescale.corpus.config import StorageConfig
from largescale.corpus.corpus import Corpus
from largescale.describing.formats import write_descriptors
from largescale.describing.parts import PassParts
from largescale.describing.result import RESULT, write_result
from largescale.distributed import World
from largescale.evaluation.descriptors.derived import derive, readable
from largescale.evaluation.descriptors.store import Descriptors, seal
from largescale.evaluation.results import QueryRecord, read_records, read_results, record_file, write_results
from largescale.evaluation.scoring import query_search
from largescale.evaluation.search.counting import Counted
from largescale.mining.generations import Generations
from largescale.mining.service.watch import RunSettings
from largescale.models.sharing.folder import Contents, DescriptorConfig, read_folder, write_folder
from largescale.models.weights import load_weights
from largescale.search.find import Options
from largescale.search.index import Index
from largescale.settings import UserError
from largescale.training.checkpoints.checkpoint import Checkpoints
from largescale.training.settings.config import CheckpointConfig
from largescale.training.settings.recipe import TrainConfig
from launch.search import read_rows
from shards.images import Encoding
from shards.plan import WORK, CorpusPlan, Sharding, settle
from shards.shard import ShardJob, write_shard
from shards.sources.folder import Folder
from tests.corpora import make_corpus
from tests.evaluation.small import add_ground_truth, make_weights, tiny_network
from tests.evaluation.test_results import some_results
from tests.mining.test_generations import write as write_generation
from tests.search.rows import DIM, keys, unit_rows
from tests.shards.photographs import write_photographs

OUTCOMES = ("refused", "repaired", "harmless", "altered", "traceback")
REPAIRED = "repaired"
"""What `use` returns where a damaged file is passed over and made again, or an older one takes its place."""


class Kind(NamedTuple):
    """A kind of file: where they are, and what a later stage takes from them."""

    files: list[Path]
    use: Callable[[], Any]
    keeps_time: bool = False
    """Size and time of change stay the same, as where the disk is at fault."""


def same(a: Any, b: Any) -> bool:
    """Whether two values are the same, bit for bit."""
    if isinstance(a, np.ndarray | torch.Tensor):
        return type(a) is type(b) and a.dtype == b.dtype and a.shape == b.shape and bytes(np.asarray(a)) == bytes(np.asarray(b))
    if isinstance(a, Mapping):
        return isinstance(b, Mapping) and a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return repr(a) == repr(b)


def flip(kind: Kind, path: Path, at: int, bit: int) -> str:
    """The outcome of one flip; the file is put back."""
    whole, status, expected = path.read_bytes(), path.stat(), kind.use()
    changed = bytearray(whole)
    changed[at] ^= 1 << bit
    path.write_bytes(changed)
    if kind.keeps_time:
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    try:
        found = kind.use()
        return REPAIRED if isinstance(found, str) and found == REPAIRED else "harmless" if same(found, expected) else "altered"
    except UserError:
        return "refused"
    except Exception as error:
        print(f"{path.name}, byte {at}, bit {bit}: {type(error).__name__}: {error}")
        return "traceback"
    finally:
        path.write_bytes(whole)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def flips(kinds: Mapping[str, Kind], count: int, seed: int = 0) -> dict[str, Counter[str]]:
    """`count` flips of each kind, at random places of its files."""
    found: dict[str, Counter[str]] = {}
    for name, kind in kinds.items():
        places = random.Random(f"{seed} {name}")
        found[name] = Counter()
        for _ in range(count):
            path = places.choice(kind.files)
            found[name][flip(kind, path, places.randrange(path.stat().st_size), places.randrange(8))] += 1
    return found


def table(found: Mapping[str, Counter[str]]) -> str:
    total = sum(found.values(), Counter[str]())
    lines = [f"| {name} | {sum(of.values())} | " + " | ".join(str(of[x]) for x in OUTCOMES) + " |" for name, of in found.items()]
    head = ["| file | flips | " + " | ".join(OUTCOMES) + " |", "|---|" + "---:|" * (1 + len(OUTCOMES))]
    return "\n".join([*head, *lines, f"| all | {total.total()} | " + " | ".join(str(total[x]) for x in OUTCOMES) + " |"])


def build_kinds(folder: Path, world: World) -> dict[str, Kind]:
    """Every kind, with files below `folder`."""
    kinds = {**_corpus(folder), **_build(folder), **_run(folder, world), **_evaluation(folder, world), **_described(folder)}
    assert [name for name, kind in kinds.items() if not same(kind.use(), kind.use())] == []
    return kinds


def _corpus(folder: Path) -> dict[str, Kind]:
    home = make_corpus(folder / "corpus", labels=4, per_label=3, shards=2, size=16, pairs=True)
    truth = [{"key": "000000", "box": None, "good": ["000001"], "ok": [], "junk": []}]
    pairs = {name: column.copy() for name, column in Corpus.open(str(home)).manifest.pairs.items()}
    add_ground_truth(home, {"protocol": "oxford5k", "queries": truth, "gallery": None}, pairs)
    storage = StorageConfig(cache=folder / "cache")

    def use() -> Any:
        corpus = Corpus.open(str(home), storage)
        manifest = corpus.manifest
        columns = {name: np.asarray(column.to_pylist() if name == "key" else column) for name, column in manifest.columns.items()}
        streamed = [data for shard in range(len(manifest.shards)) for _, data in corpus.stream(shard)]
        read, labels = corpus.read(range(len(manifest))), manifest.label_names.to_pylist()
        return [manifest.fingerprint, columns, labels, dict(manifest.pairs or {}), manifest.ground_truth, streamed, read]

    use()  # every file has been verified once: what changes later, with the same size and time, must be found all the same
    columns = [home / name for name in ("images.arrow", "labels.arrow", "pairs.arrow", "ground_truth.json")]
    return {
        "manifest.json": Kind([home / "manifest.json"], use, True),
        "columns": Kind(columns, use, True),
        "tars": Kind(sorted(home.glob("*.tar")), use, True),
    }


def _build(folder: Path) -> dict[str, Kind]:
    """What a build that was killed finds again."""
    source = Folder(write_photographs(folder / "photographs", [f"a/{number}.jpg" for number in range(4)]))
    out = folder / "built"
    settle(source, out, Encoding(max_side=16), Sharding())
    job = ShardJob(source, out, Encoding(max_side=16), "built")
    write_shard(job, 0, lambda: None)

    def plan() -> Any:
        found = CorpusPlan.open(out / WORK)
        rows = {name: column if isinstance(column, np.ndarray) else column.to_pylist() for name, column in found.rows.items()}
        return [rows, list(found.label_names), dict(found.identity), found.shards, found.image_bytes]

    files = [out / WORK / name for name in ("build.json", "rows.arrow", "labels.arrow")]
    sidecar = Kind([job.sidecar(0)], lambda: job.finished(0) or REPAIRED)
    return {"plan of a build": Kind(files, plan), "sidecars of a build": sidecar}


def _run(folder: Path, world: World) -> dict[str, Kind]:
    run = folder / "run"
    claim_folder(run, "run", "")
    checkpoints = Checkpoints(run / "checkpoints", CheckpointConfig(asynchronous=False), world, {"a": 1})
    for step in (1, 2):
        checkpoints.save(step, {"model.x": torch.arange(90.0) * step, "updates": torch.tensor(step)}, {"epoch": step})
    newest = run / "checkpoints" / "step-000002"

    def go_on() -> Any:
        found = checkpoints.load(checkpoints.newest())
        return [found.step, found.tensors, found.progress] if found.step == 2 else REPAIRED

    weights = make_weights(run / "weights" / "step-000002.safetensors")
    anchors, epochs = run / "weights" / "step-000002.anchors.npy", Generations(run, "abc")
    write_array(anchors, np.arange(60, dtype=np.float32).reshape(5, 12))
    generation = write_generation(run, 1, step=2)
    write_json(run / "negatives" / "taken-000001.json", {"epoch": 1, "generation": [1, 2], "waited": 0.0})
    config = load(TrainConfig, ["mining.home=service", "seed=7", f"runs={folder}", "name=run"])
    write_sealed(run / "config.yaml", to_yaml(config))

    def negatives() -> Any:
        found = epochs.read(1, 2)
        return REPAIRED if found is None else vars(found) | {"stored": None}

    return {
        "checkpoints": Kind(sorted(path for path in newest.iterdir() if path.name != "COMPLETE"), go_on),
        "weights": Kind([weights], lambda: [(w := load_weights(weights)).config, dict(w.state), w.metadata, w.contract]),
        "class anchors": Kind([anchors], lambda: read_array(anchors)),
        "generations": Kind(sorted(path for path in generation.iterdir() if path.name != "COMPLETE"), negatives),
        "records of a run": Kind([run / "negatives" / "taken-000001.json"], lambda: epochs.taken(1)),
        "settings for the service": Kind([run / "config.yaml"], lambda: RunSettings.read(run)),
    }


def _evaluation(folder: Path, world: World) -> dict[str, Kind]:
    out, random_rows = folder / "evaluation", np.random.default_rng(0)
    corpus = Corpus.open(str(make_corpus(folder / "gallery", labels=2, per_label=3, shards=1, size=16)))
    described = Descriptors(out / "descriptors", corpus, {}, 8)
    rows = random_rows.standard_normal((6, 8)).astype(np.float32)
    described.write(0, rows / np.linalg.norm(rows, axis=1, keepdims=True), [])
    seal([described], world, out)
    kept = {path: path.read_bytes() for path in described.directory.iterdir()}

    def sealed() -> Any:
        for path, content in kept.items():  # what a damaged file has made the stage forget
            if not path.exists():
                path.write_bytes(content)
        return [np.array(part) for part in described.parts()]

    derived = folder / "derived"
    made = derive(derived, 2, lambda part: rows[part : part + 3], world)
    assert len(made) == 2

    def derive_again() -> Any:
        return [np.array(part) for part in derive(derived, 2, lambda part: rows[part : part + 3], world)]

    block = out / "queries-00000000.npz"
    query_search._write(block, Counted(*(rows + number for number, _ in enumerate(fields(Counted)))))

    def counted() -> Any:
        return vars(query_search._read(block)) if readable(block, [field.name for field in fields(Counted)]) else REPAIRED

    results = some_results()
    write_results(out, results)
    with record_file(out / "queries.jsonl") as write:
        write([])
        write(_records())
    checksum = checksum_of(out / "queries.jsonl")
    return {
        "sealed descriptors": Kind([described.file(0)], sealed),
        "derived descriptors": Kind(sorted(derived.glob("*.npy")), derive_again),
        "counts of a search": Kind([block], counted),
        "results.json": Kind([out / "results.json"], lambda: read_results(out)),
        "records of queries": Kind([out / "queries.jsonl"], lambda: list(read_records(out / "queries.jsonl", checksum))),
    }


def _described(folder: Path) -> dict[str, Kind]:
    """What a trained network leaves: its folder, descriptors of photographs, an index."""
    network = tiny_network()
    model, anchors = folder / "model", torch.arange(48.0).reshape(2, 24)
    write_folder(model, Contents(network, DescriptorConfig(size=48, dim=network.dim), anchors=anchors), "")

    def opened() -> Any:
        contents, digest = read_folder(model)
        return [digest, contents.settings, contents.about, contents.anchors, dict(contents.network.state_dict())]

    corpus = Corpus.open(str(make_corpus(folder / "photographs-to-embed", labels=2, per_label=3, shards=1, size=16)))
    parts = PassParts(folder / "parts", corpus, np.arange(6))
    parts.write(0, np.arange(6), unit_rows(6), [])

    def embedded() -> Any:
        return [*parts.read(), parts.count(), parts.bad()] if parts.is_done(0) else REPAIRED

    exact, approximate = (Index.create(folder / name, DIM, factory=name) for name in ("exact", "IVF4,Flat"))
    for index in (exact, approximate):
        index.add_rows(unit_rows(300), keys(300), [f"label {n % 7}" for n in range(300)])
        index.remove(["00003"])

    def found(index: Index) -> Any:
        opened = Index.open(index.folder)
        hits = opened.search_rows(unit_rows(20, seed=1), Options(k=5))
        return [len(opened), hits, opened.view.take(np.flatnonzero(opened.view.live)), opened.view.column("key").to_pylist()]

    def of_index(index: Index) -> Kind:
        unread = ("COMPLETE", ".lock", OWNER)
        files = [path for path in index.folder.rglob("*") if path.is_file() and path.name not in unread]
        return Kind(sorted(path for path in files if not path.name.startswith("trained-")), lambda: found(index))

    given = folder / "given"
    files = write_descriptors(given, "npy", [(keys(20), unit_rows(20))], 20, DIM, {})
    write_result(given, {}, files)
    return {
        "descriptors for others": Kind(
            [given / name for name in (*files, RESULT)], lambda: read_rows(*(given / name for name in files))
        ),
        "model folder": Kind([path for path in sorted(model.iterdir()) if path.name not in ("README.md", OWNER)], opened),
        "parts of an embedding": Kind(sorted((folder / "parts").iterdir()), embedded),
        "index": of_index(exact),
        "approximate index": of_index(approximate),
    }


def _records() -> list[QueryRecord]:
    return [QueryRecord(i, str(i), None, "a", 0.5, 2, 0, {"map_rectangle": 0.5}) for i in range(3)]
