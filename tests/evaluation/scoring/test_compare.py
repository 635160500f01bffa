"""Two result folders, paired query by query."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from largescale.evaluation import EvaluateConfig, Published, evaluate_descriptors
from largescale.evaluation.config import ExpansionConfig, ScoreConfig
from largescale.evaluation.scoring.compare import POOLED, Compared, compare_results, pairs, table
from largescale.evaluation.scoring.statistics import Comparison
from largescale.settings import UserError
from shards.sources.landmarks import read_test_set
from tests.evaluation.small import alone


def score(out: Path, descriptors: np.ndarray, keys: list[str], family: str = "oxford5k", queries: int = 12, **rules: Any) -> Path:
    """Results of descriptors whose rows 3 i, 3 i + 1 and 3 i + 2 belong together; queries 6 i and 6 i + 3 are a landmark."""
    given = out.with_name(f"given to {out.name}")
    given.mkdir(parents=True)
    np.save(given / "rows.npy", descriptors)
    (given / "names.txt").write_text("\n".join(keys))
    triples = [keys[3 * i : 3 * i + 3] for i in range(queries)]
    truth = {"protocol": family, "gallery": None}
    truth["queries"] = [{"key": triple[0], "box": None, "good": triple} for triple in triples]
    files = {"descriptors": given / "rows.npy", "names": given / "names.txt", "ground_truth": given / "gnd.json"}
    config = EvaluateConfig(**files, out=out, **rules)
    with alone() as world:
        evaluate_descriptors(config, Published.parse(truth, "a test"), world)
    return out


@pytest.fixture
def rows() -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Descriptors of 36 images with more and with less noise, and their names."""
    random = np.random.default_rng(0)
    centers = np.repeat(random.normal(size=(12, 8)), 3, axis=0)
    noise = random.normal(size=centers.shape)
    return centers + 1.2 * noise, centers + 0.6 * noise, [f"image{i}" for i in range(36)]


@pytest.mark.slow
def test_the_better_one_wins(tmp_path: Path, rows: tuple[np.ndarray, np.ndarray, list[str]]) -> None:
    worse, better, keys = rows
    found = pairs(score(tmp_path / "a", worse, keys), score(tmp_path / "b", better, keys))
    (line,) = compare_results(found)
    assert line.a < line.b
    assert line.test.difference == pytest.approx(line.b - line.a)
    assert line.test.low > 0
    assert line.test.p == line.holm < 0.05
    assert line.test.wins > line.test.losses
    assert line.test.wins + line.test.losses + line.test.ties == 12
    assert f"{100 * line.test.difference:+.2f}" in table([line]).splitlines()[1]


@pytest.mark.slow
def test_several_data_sets_are_adjusted_and_pooled(tmp_path: Path, rows: tuple[np.ndarray, np.ndarray, list[str]]) -> None:
    worse, better, keys = rows
    for side, descriptors in (("a", worse), ("b", better)):
        score(tmp_path / side / "oxford", descriptors, keys)
        score(tmp_path / side / "paris", descriptors[::-1].copy(), keys, "paris6k", queries=8)
    lines = compare_results(pairs(tmp_path / "a", tmp_path / "b"))
    assert [line.name for line in lines] == ["oxford5k-nocrop", "paris6k-nocrop", POOLED]
    one, other, pooled = lines
    smaller, larger = sorted([one, other], key=lambda line: line.test.p)
    assert smaller.holm == pytest.approx(min(1, 2 * smaller.test.p))
    assert larger.holm == pytest.approx(max(larger.test.p, smaller.holm))
    assert pooled.holm is None
    assert pooled.test.difference == pytest.approx((12 * one.test.difference + 8 * other.test.difference) / 20)


def test_ukbench_is_no_percentage() -> None:
    line = Compared("ukbench", "ns", 3.5, 3.625, Comparison(0.125, 0.05, 0.2, 0.01, wins=5, losses=2, ties=1))
    (row,) = table([line]).splitlines()[1:]
    assert " ".join(row.split()) == "ukbench ns 3.50 3.62 +0.12 +0.05 to +0.20 0.0100 5/2/1"


@pytest.mark.slow
def test_what_was_tuned_is_marked(tmp_path: Path, rows: tuple[np.ndarray, np.ndarray, list[str]]) -> None:
    worse, better, keys = rows
    tuned = {"oxford5k": ScoreConfig(query_expansion=ExpansionConfig(neighbors=1))}
    (pair,) = pairs(score(tmp_path / "a", worse, keys), score(tmp_path / "b", better, keys, tuned=tuned))
    assert pair.name == "oxford5k-nocrop (tuned)"


@pytest.mark.slow
def test_what_cannot_be_paired(tmp_path: Path, rows: tuple[np.ndarray, np.ndarray, list[str]]) -> None:
    worse, better, keys = rows
    a = score(tmp_path / "a", worse, keys)
    with pytest.raises(UserError, match=r"there is no results\.json in"):
        pairs(a, tmp_path / "none")
    with pytest.raises(UserError, match="no protocol on the same images"):
        pairs(a, score(tmp_path / "paris", better, keys, "paris6k"))
    with pytest.raises(UserError, match="were asked different queries"):
        compare_results(pairs(a, score(tmp_path / "fewer", better, keys, queries=8)))
    score(tmp_path / "two" / "x", better, keys)
    score(tmp_path / "two" / "y", worse, keys)
    with pytest.raises(UserError, match="both score oxford5k-nocrop: give one"):
        pairs(a, tmp_path / "two")


def test_real_descriptors_against_fewer_of_their_dimensions(tmp_path: Path, shared_data: Path) -> None:
    """Real Oxford descriptors: half of the principal components lose, and five queries of a landmark count as one."""
    truth = read_test_set(shared_data / "oxford5k" / "gnd_oxford5k.json")
    published = Published.parse({"protocol": truth.protocol, "queries": truth.queries, "gallery": truth.images}, "gnd")
    rows = np.load(shared_data / "oxford5k" / "oxford5k_caffenet_fc7_pca128.npy")
    for name, descriptors in (("half", rows[:, :16]), ("whole", rows)):
        given = tmp_path / f"{name}.npy"
        np.save(given, descriptors)
        names = shared_data / "oxford5k" / "oxford5k_names.txt"
        config = EvaluateConfig(descriptors=given, names=names, ground_truth=names, out=tmp_path / name)
        with alone() as world:
            evaluate_descriptors(config, published, world)
    (line,) = compare_results(pairs(tmp_path / "half", tmp_path / "whole"))
    assert line.b == pytest.approx(0.4029, abs=5e-5)
    assert line.test.low > 0
    assert line.test.p <= 2 / 2**11 * 4  # 11 landmarks, all flips
    assert line.test.p * 2**11 == pytest.approx(round(line.test.p * 2**11))
