"""Studies of settings: every number is that of an evaluation with these settings, and no image is embedded twice."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from largescale.corpus.config import ImagesConfig, LoaderConfig
from largescale.distributed import World
from largescale.embedding import Embedder
from largescale.evaluation import EvaluateConfig, evaluate
from largescale.evaluation.config import ExpansionConfig, ScoreConfig
from largescale.evaluation.scoring import query_search
from largescale.evaluation.studies.config import DistractorsConfig, NeighborsConfig, PoolingConfig, ScalesConfig, StudyConfig
from largescale.evaluation.studies.studies import StudyContext, studies
from largescale.models.build import load_network
from largescale.models.config import Pooling
from largescale.models.network import RetrievalNet
from largescale.models.sharing.folder import Contents
from largescale.models.sharing.sources import of_network, read_whitening, write_whitening
from largescale.models.whitening import PCAWhitening
from tests.corpora import make_corpus
from tests.evaluation.small import SIZE, make_weights


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    make_corpus(folder / "gallery", labels=8, per_label=3, shards=2, size=SIZE, mixed=True)
    make_corpus(folder / "far", labels=0, per_label=0, shards=2, size=SIZE, unlabeled=20)
    make_corpus(folder / "train", labels=8, per_label=5, shards=2, size=SIZE)
    make_weights(folder / "weights.safetensors")
    return folder


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[str, int]]:
    """How often each image was embedded, by its corpus."""
    counts: Counter[tuple[str, int]] = Counter()
    embed = Embedder.embed

    def counting(self: Embedder, network: Any, corpus: Any, *args: Any, **options: Any) -> Iterator[Any]:
        for group in embed(self, network, corpus, *args, **options):
            counts.update((corpus.manifest.name, id) for id in group.ids.tolist())
            yield group

    monkeypatch.setattr(Embedder, "embed", counting)
    return counts


def settings(kind: type[StudyConfig], data: Path, out: Path, **values: Any) -> Any:
    common = {"images": ImagesConfig(size=SIZE), "batch_size": 4, "loader": LoaderConfig(workers=0), "out": out}
    corpora = {"gallery": str(data / "gallery"), "distractors": (str(data / "far"),), "whitening_corpus": str(data / "train")}
    return kind(weights=data / "weights.safetensors", **common, **corpora, **values)


def measured(name: str, config: StudyConfig, world: World) -> list[dict[str, Any]]:
    """The rows of the study's file, whose page has a plot."""
    study = studies[name](config, StudyContext(config, world))
    assert "<svg" in study.write(config.out).read_text()
    assert len(study.text().splitlines()) == 1 + len(study.rows)
    return json.loads((config.out / f"{name}.json").read_text())["rows"]


def evaluated(config: StudyConfig, network: RetrievalNet | Contents, world: World, out: Path, **values: Any) -> float:
    """The score of an evaluation of its own, which embeds for itself."""
    plain = EvaluateConfig(**{name: getattr(config, name) for name in EvaluateConfig.model_fields} | {"out": out} | values)
    (protocol,) = evaluate(network, plain, world).protocols
    return 100 * protocol.metrics["map_rectangle"].value


def network(data: Path, pooling: Pooling | None = None) -> RetrievalNet:
    net = load_network(data / "weights.safetensors")[0]
    return net if pooling is None else net.pooled(pooling)


@pytest.mark.slow
def test_pooling_whitening_dimension(data: Path, tmp_path: Path, world: World, seen: Counter[tuple[str, int]]) -> None:
    config = settings(PoolingConfig, data, tmp_path / "study", dims=(16, 1024))
    rows = measured("pooling", config, world)
    assert set(seen.values()) == {1}
    assert len(seen) == 24 + 20 + 40
    assert len(rows) == 4 * (1 + 2)  # there are no 1,024 dimensions
    found = {(row["pooling"], row["whitening"], row["dimensions"]): row["map_rectangle %"] for row in rows}
    assert len(found) == 12
    assert len(set(found.values())) > 5
    for name, pooling, kind, dim in [("MAC", "mac", "learned", 16), ("R-MAC", "rmac", "none", None), ("GeM", "gem", "pca", 16)]:
        score = ScoreConfig(whitening=kind, dim=dim)
        expected = evaluated(config, network(data, pooling), world, tmp_path / name, score=score)
        assert found[name, kind, dim or 512] == expected
    seen.clear()
    assert measured("pooling", config, world) == rows
    assert not seen


@pytest.mark.slow
def test_number_of_neighbors(data: Path, tmp_path: Path, world: World, seen: Counter[tuple[str, int]]) -> None:
    config = settings(NeighborsConfig, data, tmp_path / "study", neighbors=(1, 4), alpha=2)
    rows = measured("neighbors", config, world)
    assert set(seen.values()) == {1}
    assert [row["neighbors"] for row in rows] == [0, 1, 4, 1, 4]
    found = {(row["expansion"], row["neighbors"]): row["map_rectangle %"] for row in rows}
    for name, alpha in (("AQE", 0), ("αQE, α = 2", 2)):
        score = ScoreConfig(query_expansion=ExpansionConfig(neighbors=4, alpha=alpha))
        assert found[name, 4] == evaluated(config, network(data), world, tmp_path / name, score=score)
    assert found["none", 0] == evaluated(config, network(data), world, tmp_path / "none")


@pytest.mark.slow
def test_single_and_multiple_scales(data: Path, tmp_path: Path, world: World, seen: Counter[tuple[str, int]]) -> None:
    config = settings(ScalesConfig, data, tmp_path / "study")
    rows = measured("scales", config, world)
    assert set(seen.values()) == {1}
    assert [row["scales"] for row in rows] == [x for x in ("single", "multi", "multi_up") for _ in range(3)]
    assert [row["whitening"] for row in rows[:3]] == ["none", "pca", "learned"]
    assert rows[6]["at"] == "1.41, 1, 0.707"
    found = {(row["scales"], row["whitening"]): row["map_rectangle %"] for row in rows}
    for scales, kind in (("multi", "none"), ("multi_up", "learned")):
        score = ScoreConfig(whitening=kind)
        assert found[scales, kind] == evaluated(config, network(data), world, tmp_path / scales, scales=scales, score=score)


@pytest.mark.slow
def test_distractors(data: Path, tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query_search, "PREFIXES", (5, 10, 100))
    config = settings(DistractorsConfig, data, tmp_path / "study")
    rows = measured("distractors", config, world)
    assert [row["distractors"] for row in rows] == [0, 5, 10, 20]
    scores = [row["map_rectangle %"] for row in rows]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] == evaluated(config, network(data), world, tmp_path / "none", distractors=())
    assert scores[-1] == evaluated(config, network(data), world, tmp_path / "all")


@pytest.mark.slow
def test_a_network_is_studied_with_its_own_whitening(data: Path, tmp_path: Path, world: World) -> None:
    source = make_weights(tmp_path / "whitened.safetensors")
    bare, random = network(data), np.random.default_rng(0)
    rows = random.standard_normal((60, bare.dim)) * np.linspace(0.01, 2, bare.dim)
    write_whitening(source, PCAWhitening.fit(rows))
    own = read_whitening(source)
    assert own is not None
    changed = {"weights": source}
    config = settings(NeighborsConfig, data, tmp_path / "neighbors", neighbors=(1,)).model_copy(update=changed)
    expected = evaluated(config, of_network(bare, {}, own), world, tmp_path / "own")
    assert expected != evaluated(config, bare, world, tmp_path / "bare")
    assert measured("neighbors", config, world)[0]["map_rectangle %"] == expected
    of_scales = measured("scales", settings(ScalesConfig, data, tmp_path / "scales").model_copy(update=changed), world)
    assert [row["whitening"] for row in of_scales[:4]] == ["own", "none", "pca", "learned"]
    assert of_scales[0]["map_rectangle %"] == expected


def test_what_a_study_needs(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="give whitening_corpus=CORPUS"):
        PoolingConfig(weights=tmp_path / "w", gallery="g")
    with pytest.raises(ValueError, match="the curve needs distractors=CORPUS"):
        DistractorsConfig(weights=tmp_path / "w", gallery="g")
