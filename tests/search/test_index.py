from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from largescale.commit import read_json, write_json
from largescale.search.find import Options
from largescale.search.index import Index
from largescale.search.segment import table_of
from largescale.search.writer import writing
from largescale.settings import UserError
from tests.laws import same
from tests.search.rows import DIM, keys, truth, unit_rows


def _index(folder: Path, rows: np.ndarray, cuts: list[int] | None = None, **settings) -> Index:
    """An index whose rows were added in parts."""
    index = Index.create(folder, rows.shape[1], **settings)
    for part, names in zip(np.split(rows, cuts or []), np.split(np.array(keys(len(rows))), cuts or []), strict=True):
        index.add_rows(part, names.tolist(), [f"label {name[-1]}" for name in names.tolist()])
    return index


def _found(index: Index, queries: np.ndarray, k: int = 10, **options) -> list[list[str]]:
    return [[hit.key for hit in hits] for hits in index.search_rows(queries, Options(k=k, **options))]


@pytest.mark.slow
def test_exact_search_is_that_of_a_sort_for_any_cut_into_segments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("largescale.search.scan.TILE", 70 * 300)
    rows, queries = unit_rows(3000), unit_rows(70, seed=1)
    expected = truth(queries, rows, 10)
    answers = []
    for name, cuts in (("one", None), ("three", [1999, 2600]), ("many", [1000, 1500, 1750, 1900, 2000])):
        index = _index(tmp_path / name, rows, cuts)
        answers.append(index.view.nearest(queries, 10))
        assert same(answers[-1][0], expected)
        alone = [index.view.nearest(query[None], 10) for query in queries[:5]]  # few queries take another way
        assert same(np.concatenate([scores for _, scores in alone]), answers[-1][1][:5])
    assert same(answers[0], answers[1])
    assert same(answers[0], answers[2])


@pytest.mark.slow
def test_equal_rows_come_in_the_order_of_their_ids_however_many(tmp_path: Path) -> None:
    rows = np.tile(unit_rows(1), (2000, 1))
    rows[1000] = unit_rows(1, seed=3)
    index = _index(tmp_path / "index", rows, [700])
    ids, scores = index.view.nearest(rows[:1], 600)
    assert ids[0].tolist() == list(range(600))
    assert len(set(scores[0].tolist())) == 1


@pytest.mark.slow
def test_l2_ranks_by_distance(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    rows, queries = draw.normal(size=(500, DIM)).astype(np.float32), draw.normal(size=(30, DIM)).astype(np.float32)
    index = _index(tmp_path / "index", rows, [300], metric="l2")
    ids, scores = index.view.nearest(queries, 7)
    assert same(ids, truth(queries, rows, 7, "l2"))
    assert np.allclose(scores, -np.square(queries[:, None] - rows[ids]).sum(2), rtol=1e-5)
    with pytest.raises(UserError, match="defined by cosines"):
        index.search_rows(queries, Options(expand=3))


@pytest.mark.slow
def test_removed_rows_are_not_found_and_their_keys_may_come_again(tmp_path: Path) -> None:
    rows, queries = unit_rows(2000), unit_rows(25, seed=1)
    index = _index(tmp_path / "index", rows, [1500])
    gone = np.unique(truth(queries, rows, 5))
    assert index.remove([f"{i:05d}" for i in gone] + ["nobody"]) == len(gone)
    left = np.setdiff1d(np.arange(2000), gone)
    expected = [[f"{left[i]:05d}" for i in row] for row in truth(queries, rows[left], 10)]
    for part in (slice(0, 25), slice(0, 3)):
        assert _found(index, queries[part]) == expected[part]
        assert _found(Index.open(tmp_path / "index"), queries[part]) == expected[part]
    assert len(index) == 2000 - len(gone)
    index.add_rows(rows[gone], [f"{i:05d}" for i in gone])
    names = [[f"{i:05d}" for i in row] for row in truth(queries, rows, 10)]
    assert [sorted(found) for found in _found(index, queries)] == [sorted(row) for row in names]
    index.remove(keys(2000))
    assert len(index) == 0
    assert _found(index, queries) == [[]] * 25
    assert not index.view.segments


@pytest.mark.slow
def test_a_row_that_comes_again_takes_the_place_of_the_first(tmp_path: Path) -> None:
    rows = unit_rows(100)
    index = _index(tmp_path / "index", rows)
    index.add_rows(rows[50:51], ["00003"], ["other"])
    assert len(index) == 100
    hits = index.search(key="00050", k=1)
    assert [(hit.key, hit.label) for hit in hits] == [("00003", "other")]
    assert hits[0].score == pytest.approx(1)


@pytest.mark.slow
def test_keys_with_equal_hashes_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("segment", "view"):
        monkeypatch.setattr(f"largescale.search.{module}.hashes_of", lambda keys: np.array([len(x) for x in keys], np.uint64))
    index = _index(tmp_path / "index", unit_rows(20), [12])
    index.remove(["00004", "00015"])
    index.add_rows(unit_rows(1), ["00015"])
    found = index.view.find(["00015", "00004", "nobody", "00000", "nobod", "00019", "00003"])
    assert found[[1, 2, 4]].tolist() == [-1, -1, -1]
    assert index.view.table(found[found >= 0], "key", "label").to_pydict() == {
        "key": ["00015", "00000", "00019", "00003"],
        "label": [None, "label 0", "label 9", "label 3"],
    }


@pytest.mark.slow
def test_what_is_known_of_a_row_is_read_without_that_of_others(tmp_path: Path) -> None:
    index = Index.create(tmp_path / "index", DIM)
    with writing(index.folder) as writer:
        for part in ("a", "b", "c"):
            writer.append(unit_rows(50), table_of({"key": keys(50, part), "thumbnail": [bytes(10_000)] * 50}))
    index.refresh()
    pool, before = pa.proxy_memory_pool(pa.default_memory_pool()), pa.default_memory_pool()
    pa.set_memory_pool(pool)
    try:
        assert index.thumbnail("b00017") == bytes(10_000)
        assert index.search(key="c00003", k=20)
    finally:
        pa.set_memory_pool(before)
    assert (pool.max_memory() or 0) < 100_000


@pytest.mark.slow
def test_filters_on_label_and_path(tmp_path: Path) -> None:
    rows, queries = unit_rows(3000), unit_rows(25, seed=1)
    index = _index(tmp_path / "index", rows, [2000])
    chosen = np.arange(3, 3000, 10)
    expected = [[f"{chosen[i]:05d}" for i in row] for row in truth(queries, rows[chosen], 10)]
    assert _found(index, queries, label="label 3") == expected
    assert _found(index, queries, path="????3") == expected
    assert _found(index, queries, label="lab*3", path="0*") == expected
    wide = [[f"{i:05d}" for i in row] for row in truth(queries, rows[:1000], 10)]
    assert _found(index, queries, path="00*") == wide
    assert _found(index, queries, label="label 3%") == [[]] * 25  # no pattern of SQL
    assert _found(index, queries[:1], path="00003", k=5) == [["00003"]]
    assert _found(index, queries[:2], path="none", rerank="diffusion") == [[], []]


@pytest.mark.slow
def test_writes_are_in_proportion_to_what_is_added(tmp_path: Path) -> None:
    index = _index(tmp_path / "index", unit_rows(20_000, dim=64))
    before = {path for path in (tmp_path / "index").rglob("*") if path.is_file()}
    index.add_rows(unit_rows(200, seed=2, dim=64), keys(200, "new "))
    written = [path for path in (tmp_path / "index").rglob("*") if path.is_file() and path not in before]
    assert sum(path.stat().st_size for path in written) < 2.5 * 200 * 64 * 4
    assert before <= {path for path in (tmp_path / "index").rglob("*") if path.is_file()}
    for i in range(20):
        index.add_rows(unit_rows(5, seed=3 + i, dim=64), keys(5, f"{i} "))
    assert len(index) == 20_300
    assert len(index.view.segments) <= 9


@pytest.mark.slow
def test_an_approximate_index_follows_the_rule_of_mining_and_says_what_it_finds(tmp_path: Path) -> None:
    rows, queries = unit_rows(4000), unit_rows(25, seed=1)
    index = Index.create(tmp_path / "index", DIM, factory="auto", memory=3000 * DIM * 4)
    index.add_rows(rows[:2500], keys(2500))
    assert index.view.manifest.kind.index == "exact"
    index.add_rows(rows[2500:], keys(1500, "later "))
    kind = index.view.manifest.kind
    assert kind.index == "IVF256,SQ8"
    assert kind.recall is not None
    assert kind.recall >= 0.95
    ids, scores = index.view.nearest(queries, 10)
    expected = truth(queries, rows, 10)
    assert np.mean([len(set(a) & set(b)) / 10 for a, b in zip(ids.tolist(), expected.tolist(), strict=True)]) > 0.9
    exact = index.view.exact(queries, 10, index.view.live, False)
    agree = ids == exact[0]
    assert same(scores[agree], exact[1][agree])  # what is found has the score of an exact search
    index.remove([hit.key for hit in index.search_rows(queries[:1], Options(k=5))[0]])
    assert not set(ids[0, :5].tolist()) & set(index.view.nearest(queries[:1], 10)[0][0].tolist())
    assert _found(index, queries, path="later *")[0] == _found(Index.open(tmp_path / "index"), queries, path="later *")[0]
    assert all(name.startswith("later") for name in _found(index, queries, path="later *")[0])


@pytest.mark.slow
def test_a_given_factory_string_is_used_and_a_wrong_one_explained(tmp_path: Path) -> None:
    rows = unit_rows(800)
    index = _index(tmp_path / "hnsw", rows, [400], factory="HNSW16")
    assert index.view.manifest.kind.index == "HNSW16"
    assert np.mean(np.array(index.view.nearest(rows[:50], 1)[0])[:, 0] == np.arange(50)) > 0.9
    with pytest.raises(UserError, match="IVF0x"):
        _index(tmp_path / "wrong", rows, factory="IVF0x")
    assert len(Index.open(tmp_path / "wrong")) == 0


@pytest.mark.slow
@pytest.mark.parametrize(("factory", "row_bytes"), [("SQ8", DIM), ("LSHt", DIM / 8), ("RaBitQ", DIM / 8 + 8)])
def test_bytes_and_bits_find_what_the_rows_put_in_order(tmp_path: Path, factory: str, row_bytes: float) -> None:
    rows, queries = unit_rows(800), unit_rows(20, seed=1)
    index = _index(tmp_path / "index", rows, [500], factory=factory)
    codes = sum(path.stat().st_size for path in (tmp_path / "index").rglob("lists-*.faiss"))
    assert 800 * row_bytes <= codes < 800 * row_bytes + 8000
    ids, scores = index.view.nearest(queries, 5)
    exact = index.view.exact(queries, 5, index.view.live, False)
    agree = ids == exact[0]
    assert agree[:, 0].mean() > 0.7
    assert same(scores[agree], exact[1][agree])


@pytest.mark.slow
def test_a_growing_approximate_index_is_trained_again(tmp_path: Path) -> None:
    rows = unit_rows(3000)
    index = _index(tmp_path / "index", rows, [600, 1200, 2900], factory="IVF8,Flat")
    assert index.view.manifest.kind.trained_rows == 2900
    assert len(list((tmp_path / "index").glob("trained-*"))) == 1


@pytest.mark.slow
def test_expansion_and_reranking_are_those_of_the_evaluation_stage(tmp_path: Path) -> None:
    from largescale.distributed import World
    from largescale.evaluation.protocol.relevance import GalleryRows
    from largescale.evaluation.search.expansion import expand_queries
    from largescale.evaluation.search.reranking import reranker

    rows, queries = unit_rows(300), unit_rows(4, seed=1)
    index = _index(tmp_path / "index", rows, [150])
    expanded = expand_queries(queries, rows, 5, 3.0)
    assert _found(index, queries, expand=5, alpha=3.0) == _found(index, expanded)
    with World.start() as world:
        for method in ("k_reciprocal", "diffusion"):
            rerank = reranker(method, GalleryRows.of(rows), tmp_path / method, world)
            scores = rerank((queries @ rows.T).astype(np.float32))
            found = index.search_rows(queries, Options(k=10, rerank=method))
            for of_query, hits in zip(scores, found, strict=True):
                best = np.argsort(-of_query, kind="stable")[:10]
                assert [hit.key for hit in hits] == [f"{i:05d}" for i in best]
                assert np.allclose([hit.score for hit in hits], of_query[best], atol=1e-5)


@pytest.mark.slow
def test_rows_that_cannot_be_compared_are_refused(tmp_path: Path) -> None:
    index = _index(tmp_path / "index", unit_rows(10))
    cases = [
        (unit_rows(2, dim=8), "from another network"),
        (2 * unit_rows(2), "of length 1"),
        (np.full((2, DIM), np.nan, np.float32), "of length 1"),
    ]
    for rows, message in cases:
        with pytest.raises(UserError, match=message):
            index.add_rows(rows, ["a", "b"])
    for queries in (unit_rows(2, dim=8), np.full((2, DIM), np.nan, np.float32), unit_rows(1)[0]):
        with pytest.raises(UserError, match="queries are finite numbers"):
            index.search_rows(queries, Options())
    for names, labels in (([1, 2], None), (["a", "b"], ["x"]), (["a", "b"], [1, 2]), (["a", "\ud800"], None)):
        with pytest.raises(UserError, match="keys and labels are text, one for each row"):
            index.add_rows(unit_rows(2), names, labels)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="as many different keys"):
        index.add_rows(unit_rows(2), ["a", "a"])
    assert len(Index.open(tmp_path / "index")) == 10


@pytest.mark.slow
def test_an_altered_index_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    with pytest.raises(UserError, match=r"there is no index in .*: .*|index.json is missing"):
        Index.open(folder)
    _index(folder, unit_rows(50))
    with pytest.raises(UserError, match="holds an index"):
        Index.create(folder, DIM)
    values = read_json(folder / "index.json")
    rows = next(folder.glob("segments/*/rows.npy"))
    whole = rows.read_bytes()
    rows.write_bytes(whole[:-4])
    with pytest.raises(UserError, match=r"rows.npy: expected 4,928 bytes, found 4,924"):
        Index.open(folder)
    rows.unlink()
    with pytest.raises(UserError, match=r"rows.npy is missing"):
        Index.open(folder)
    rows.write_bytes(whole)
    table = next(folder.glob("segments/*/keys.npy"))
    whole = table.read_bytes()
    table.write_bytes(whole[:-1] + b"\1")
    with pytest.raises(UserError, match=r"keys.npy: expected XXH3 .* altered or is damaged"):
        Index.open(folder)
    table.write_bytes(whole)
    for change, message in (
        ({"version": 1}, "expected 'largescale index' version 3, found 'largescale index' version 1"),
        ({"dime": 3}, "lacks or misspells"),
        ({"segments": [values["segments"][0] | {"removed": "../../../x.npy"}]}, r"'../../../x.npy' is no file of segment"),
        ({"segments": [values["segments"][0] | {"lists": "/etc/x.faiss"}]}, "'/etc/x.faiss' is no file of segment"),
    ):
        write_json(folder / "index.json", values | change)
        with pytest.raises(UserError, match=message):
            Index.open(folder)
    (folder / "index.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        Index.open(folder)
