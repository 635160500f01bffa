"""The descriptors of one network by four ways, and one search by two: `python -m tests.search.ways PHOTOS MODEL [IMAGES]`.

PHOTOS holds a folder per label. The first table has the largest differences of a number between the ways, over IMAGES of the
photographs (500); the second the recall at 1 of all of them, by the evaluation stage and by uploads to the server.

n photographs, D dimensions
"""

import http.client
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image

from largescale import Model, load
from largescale.corpus.config import LoaderConfig
from largescale.describing.config import EmbedConfig
from largescale.describing.export import export
from largescale.describing.program import claim, describe_source
from largescale.distributed import World
from largescale.evaluation import evaluate, read_records
from largescale.evaluation.config import EvaluateConfig
from largescale.evaluation.stage import embed_task
from largescale.search.index import Index
from largescale.search.server.config import ServeConfig
from shards.in_place import open_source
from tests.corpora import write_corpus
from tests.search.served import serving

CLIENTS, NEAR = 8, 5


def corpus_of(paths: Sequence[Path], folder: Path) -> str:
    """A corpus that keeps the bytes of the files, in their order; labels are the names of their folders."""
    names = sorted({path.parent.name for path in paths})
    label = np.array([names.index(path.parent.name) for path in paths])
    images = []
    for path in paths:
        with Image.open(path) as image:
            images.append((path.read_bytes(), *image.size))
    return str(write_corpus(folder, images, label, names=names))


def evaluation(model: Path, corpus: str, out: Path) -> EvaluateConfig:
    return EvaluateConfig(model=str(model), gallery=corpus, out=out, batch_size=64, loader=LoaderConfig(workers=0))


def rows_by_way(folder: Path, photos: Path, paths: Sequence[Path], work: Path, world: World) -> Mapping[str, np.ndarray]:
    """`(n, D)` each, in the order of `paths`, which are all files of `photos`."""
    model = load(folder, "cpu")
    config = evaluation(folder, corpus_of(paths, work / "corpus"), work / "evaluation")
    shards = np.concatenate(embed_task(str(folder), config, world).gallery.parts)
    described = EmbedConfig(model=str(folder), source=str(photos), out=work / "embedded", loader=LoaderConfig(workers=0))
    with claim(described, world):
        describe_source(model, open_source(described.source, described.out / "listing", world), described, world, lambda: False)
    names = (described.out / "names.txt").read_text().splitlines()
    place = [names.index(path.relative_to(photos).as_posix()) for path in paths]
    return {
        "shards": shards,
        "folder": np.load(described.out / "descriptors.npy")[place],
        "Python": model.embed(list(paths)),
        "ONNX": rows_of_onnx(model, paths, work),
    }


def rows_of_onnx(model: Model, paths: Sequence[Path], work: Path) -> np.ndarray:
    file = export(model.contents, "onnx", work / "exported", [next(model.pixels(paths[:1]))]).file
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    batches = (np.ascontiguousarray(picture.transpose(2, 0, 1)[None]) for picture in model.pixels(paths))
    return np.concatenate([session.run(None, {"images": batch})[0] for batch in batches])


def differences(rows: Mapping[str, np.ndarray]) -> dict[tuple[str, str], float]:
    """The largest of a number, of each two ways."""
    ways = list(rows)
    return {(a, b): float(np.abs(rows[a] - rows[b]).max()) for i, a in enumerate(ways) for b in ways[i + 1 :]}


def right_by_evaluation(folder: Path, paths: Sequence[Path], work: Path, world: World) -> np.ndarray:
    """`(n,)` whether the nearest other photograph has the label of each."""
    config = evaluation(folder, corpus_of(paths, work / "whole"), work / "scores")
    (result,) = evaluate(str(folder), config, world).protocols
    right = {record.id: record.first_hit == 0 for record in read_records(config.out / result.records)}
    assert np.isclose(np.mean(list(right.values())), result.metrics["recall_at_1"].value)
    return np.array([right[id] for id in range(len(paths))])


def right_by_server(folder: Path, photos: Path, paths: Sequence[Path], work: Path) -> np.ndarray:
    """As `right_by_evaluation`; each photograph is uploaded, and its own row left out."""
    index = Index.build(load(folder, "cpu"), photos, work / "index")

    def ask(path: Path) -> bool:
        hits = searched(address, path.read_bytes())
        other = next(hit for hit in hits if hit["key"] != path.relative_to(photos).as_posix())
        return other["label"] == path.parent.name

    with serving(index, ServeConfig(index=index.folder, port=0)) as address, ThreadPoolExecutor(CLIENTS) as pool:
        return np.array(list(pool.map(ask, paths)))


def searched(address: str, picture: bytes) -> list[dict[str, Any]]:
    head = b'--frontier\r\nContent-Disposition: form-data; name="pictures"; filename="a.jpg"\r\n\r\n'
    connection = http.client.HTTPConnection(address.removeprefix("http://").rstrip("/"), timeout=600)
    headers = {"Content-Type": "multipart/form-data; boundary=frontier"}
    connection.request("POST", f"/search?k={NEAR}", head + picture + b"\r\n--frontier--\r\n", headers)
    answer = connection.getresponse()
    found = json.loads(answer.read())
    assert answer.status == 200, found
    return found["hits"]


def main(photos: Path, folder: Path, images: int = 500) -> None:
    paths = sorted(photos.glob("*/*.jpg"))
    with tempfile.TemporaryDirectory() as name, World.start() as world:
        work, some = Path(name), paths[:: max(1, len(paths) // images)]
        for path in some:
            copy = work / "some" / path.parent.name / path.name
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
        copies = [work / "some" / path.parent.name / path.name for path in some]
        for (a, b), largest in differences(rows_by_way(folder, work / "some", copies, work, world)).items():
            print(f"{len(some):,} photographs | {a} | {b} | {largest:.1e}", flush=True)
        scored, served = right_by_evaluation(folder, paths, work, world), right_by_server(folder, photos, paths, work)
        for way, right in (("evaluation", scored), ("server", served)):
            print(f"{len(paths):,} photographs | R@1 by the {way} | {100 * right.mean():.3f} %", flush=True)
        print(f"answers that differ | {int((scored != served).sum())}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:]))
